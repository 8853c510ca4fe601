-- The worker's bookkeeping: jobs, attempts, dead letters, workers, deleted ids.

create schema if not exists bridge;
comment on schema bridge is 'The worker''s bookkeeping. Private: never add it to the exposed schemas of the API.';
revoke all on schema bridge from public;

create table bridge.jobs (
    id bigint generated always as identity primary key,
    question_id uuid not null references public.messages (id) on delete cascade,
    session_id uuid not null references public.sessions (id) on delete cascade,
    user_id uuid not null,
    ordinal bigint not null,
    attempt int not null default 0,
    failures int not null default 0,
    run_at timestamptz,
    worker text,
    lease_until timestamptz,
    cancel boolean not null default false,
    queued_at timestamptz not null default now(),
    function text,
    failed_by text,
    slot int,
    is_confirmed boolean not null default true,
    steps int not null default 0,
    since int not null default 0,
    constraint jobs_question_id_key unique (question_id),
    constraint jobs_held_is_head check (worker is null or (run_at is not null and lease_until is not null)),
    constraint jobs_head_has_function check (run_at is null or function is not null)
) with (fillfactor = 70);  -- room for beats to update in place
comment on table bridge.jobs is 'Unfinished questions. A finished job''s row is deleted.';
comment on column bridge.jobs.user_id is 'The session''s user, for the limit on unfinished replies.';
comment on column bridge.jobs.run_at is
    'The earliest time it may run. Only the head of a session has one; null: it waits behind an earlier question.';
comment on column bridge.jobs.worker is 'The worker that holds it until lease_until; null: none.';
comment on column bridge.jobs.attempt is 'The fence: every write of a worker carries (worker, attempt).';
comment on column bridge.jobs.failures is 'Attempts that failed or whose worker vanished; released ones do not count.';
comment on column bridge.jobs.function is
    'The session''s function, kept equal to it by triggers. Only the head of a session has one, as only heads are claimed.';
comment on column bridge.jobs.failed_by is
    'The worker whose attempt failed last: another one, if there is one, makes the next.';
comment on column bridge.jobs.slot is
    'Which of its worker''s slots it takes, from 1 to the worker''s capacity; null: its worker has an older version.';
comment on column bridge.jobs.is_confirmed is
    'Whether its worker has shown that it knows of it. A dispatched job is confirmed by the first beat or claim.';
comment on column bridge.jobs.steps is
    'Above 0 if steps are remembered: how many they were when it was written last. Such a job is given only to workers that know steps.';
comment on column bridge.jobs.since is
    'The attempt after which its steps began: it is part of their keys, so that those of a regenerated reply are others.';
comment on column bridge.jobs.cancel is 'The user asked to stop; whichever worker touches the job next ends it.';

-- At most one head per session, and only a head can be held: two jobs of one session never run at once.
create unique index jobs_head_of_session on bridge.jobs (session_id) where run_at is not null;
create index jobs_ready on bridge.jobs (run_at, id) where worker is null and run_at is not null;
-- For workers that say which functions they answer. A session's function may be any text, so this index also finds
-- the jobs whose function nobody knows: they are in the gaps between the known names.
-- Its condition is not that of jobs_ready, so that a query can fit this one only: if most jobs have one function, the
-- planner takes jobs_ready to find another, and reads all of them.
create index jobs_ready_by_function on bridge.jobs (function, run_at, id) where worker is null and function is not null;
-- To find the users who wait, one after the other, however many questions each has. Condition: as above.
create index jobs_ready_by_user on bridge.jobs (function, user_id, run_at, id)
    where worker is null and function is not null;
create index jobs_in_session on bridge.jobs (session_id, ordinal);
create index jobs_of_user on bridge.jobs (user_id);
-- A beat changes neither column, so its update stays in its page.
create index jobs_held on bridge.jobs (run_at, id) where worker is not null;
create index jobs_of_worker on bridge.jobs (worker, run_at, id) where worker is not null;
create index jobs_running_of_user on bridge.jobs (user_id, run_at) where worker is not null;

create table bridge.runs (
    question_id uuid not null references public.messages (id) on delete cascade,
    attempt int not null,
    worker text not null,
    outcome text not null,
    function text,
    model text,
    input_tokens int,
    output_tokens int,
    cached_tokens int,
    queue_ms int,
    first_delta_ms int,
    duration_ms int,
    error jsonb,
    created_at timestamptz not null default now(),
    primary key (question_id, attempt),
    constraint runs_outcome check (outcome in ('done', 'failed', 'cancelled', 'released', 'lost', 'waiting'))
);
comment on table bridge.runs is 'One row per attempt: what it ran, what it cost, how it ended.';
comment on column bridge.runs.queue_ms is 'From the insert (or the time of the retry) to the claim, in milliseconds.';
comment on column bridge.runs.first_delta_ms is 'From the claim to the first delta, in milliseconds.';
comment on column bridge.runs.error is '{code, message, detail}. The detail is for operators and never shown to users.';

create index runs_by_time on bridge.runs (created_at);

create table bridge.dead_letters (
    id bigint generated always as identity primary key,
    question_id uuid not null references public.messages (id) on delete cascade,
    session_id uuid not null references public.sessions (id) on delete cascade,
    attempt int not null,
    failures int not null,
    error jsonb not null,
    created_at timestamptz not null default now(),
    since int not null default 0,
    constraint dead_letters_question_id_key unique (question_id)
);
comment on column bridge.dead_letters.since is 'As in bridge.jobs: a retry goes on with the steps of the question.';
comment on table bridge.dead_letters is 'Questions that the worker gave up on; their attempts are in bridge.runs.';

create index dead_letters_of_session on bridge.dead_letters (session_id);
create index dead_letters_by_time on bridge.dead_letters (created_at);

create table bridge.workers (
    name text primary key,
    lease interval not null,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    horizon timestamptz not null default '-infinity',
    horizon_set_at timestamptz not null default '-infinity',
    functions text[],
    failing text[] not null default '{}',
    unproven text[] not null default '{}',
    capacity int,
    history int not null default 0,
    hears interval not null default '15 seconds',
    hears_until timestamptz not null default '-infinity',
    knows_steps boolean not null default false,
    constraint workers_lease check (lease > interval '0')
) with (fillfactor = 50);
comment on table bridge.workers is 'Workers by their names, which are unique to a process, and when each last called.';
comment on column bridge.workers.lease is 'How long the worker holds a job without extending it.';
comment on column bridge.workers.horizon is
    'The worker looks for jobs with a run_at from here on: before every run_at that was visible at horizon_set_at.';
comment on column bridge.workers.horizon_set_at is 'When the worker last looked at all jobs and set its horizon.';

comment on column bridge.workers.functions is
    'The functions that the worker answers; null: a worker of an older version, which does not say and takes every job.';

comment on column bridge.workers.failing is
    'Those of its functions whose model was out of order when it was last asked: other workers are better at them.';

comment on column bridge.workers.unproven is
    'Those of its functions whose model has not answered since the worker started: it gets three questions until one has.';

comment on column bridge.workers.capacity is
    'How many jobs can be dispatched to it; 0: none, as it does not hear its topic, or drains; null: a worker of an older version, which has no topic.';
comment on column bridge.workers.history is 'How many messages of history its payloads contain at most.';
comment on column bridge.workers.hears is 'How long it counts as hearing its topic after a call.';
comment on column bridge.workers.hears_until is
    'Until when jobs are dispatched to it. Its calls extend it; a job that it has not confirmed in time ends it.';

comment on column bridge.workers.knows_steps is
    'Whether it can go on with a question that has steps; false of a worker of an older version.';

create table bridge.functions (
    name text primary key,
    known_until timestamptz not null
) with (fillfactor = 50);
comment on table bridge.functions is
    'The functions that workers have known within the last day. A job whose function is not in it, or only in the past, waits for half a minute and then fails.';
comment on column bridge.functions.known_until is
    'Until when a worker that knows it counts as live, or when the last one left.';

create table bridge.titles (
    session_id uuid primary key references public.sessions (id) on delete cascade,
    tries int not null default 1,
    charged int not null default 0,
    is_named boolean not null default false,
    constraint titles_tries check (tries >= charged)
);
comment on table bridge.titles is
    'Sessions for which a model was asked for a title. It is asked until it has given one, three times at most.';
comment on column bridge.titles.charged is 'The last try whose tokens were charged: repeating a call charges nothing.';

create table bridge.steps (
    question_id uuid not null references public.messages (id) on delete cascade,
    name text not null,
    ordinal int not null,
    kind text not null,
    value jsonb,
    bytes int not null default 0,
    is_done boolean not null default true,
    attempt int not null,
    chars int not null,
    parts int not null,
    emitted_before int not null default 0,
    emitted int not null default 0,
    due_at timestamptz,
    run jsonb,
    created_at timestamptz not null default now(),
    primary key (question_id, name),
    constraint steps_name_size check (octet_length(name) between 1 and 200),
    constraint steps_kind check (kind in ('done', 'failed', 'begun', 'ask', 'sleep', 'run')),
    constraint steps_value_size check (octet_length(value::text) <= 1048576)
);
comment on table bridge.steps is 'What handlers have done for questions, or wait for; see docs/functions.md.';
comment on column bridge.steps.name is 'Its name in the handler; `name#2` is the second step of that name.';
comment on column bridge.steps.ordinal is 'The order in which steps ended or began to wait. The highest one says what the next attempt keeps of the reply.';
comment on column bridge.steps.kind is
    'done, failed (the value says why), begun (a step that may run once only), or what it waits for: ask, sleep, run.';
comment on column bridge.steps.bytes is 'How many bytes the value has as JSON; 0 of what somebody else gives.';
comment on column bridge.steps.is_done is 'False while it waits, or while a step that may run once only is running.';
comment on column bridge.steps.chars is 'How many characters of text the reply had then.';
comment on column bridge.steps.parts is 'How many parts the reply had then.';
comment on column bridge.steps.emitted_before is 'How many times the handler had added to the reply before it came to the step.';
comment on column bridge.steps.emitted is 'How many times the handler had added to the reply when the step ended.';
comment on column bridge.steps.due_at is 'Until when it waits.';
comment on column bridge.steps.run is '{model, input_tokens, output_tokens, cached_tokens} of a model call.';

create index steps_by_time on bridge.steps using brin (created_at);

create table bridge.ended_children (
    question_id uuid primary key,
    parent uuid not null
);
comment on table bridge.ended_children is
    'Questions of handlers that have ended, until a worker''s claim gives their replies to the handlers. Whoever ends one must not wait for its parent''s locks.';

create view bridge.live_workers with (security_invoker = true) as
select w.name, w.started_at, w.seen_at, w.hears_until from bridge.workers w
 where w.seen_at > now() - least(greatest(w.lease, interval '30 seconds'), interval '5 minutes');
comment on view bridge.live_workers is
    'Workers that called within their lease, taken as 30 seconds to 5 minutes. A worker that vanished counts until then.';

create table bridge.deleted_ids (
    id uuid primary key,
    deleted_at timestamptz not null default now()
);
comment on table bridge.deleted_ids is
    'Sessions and questions deleted within the last week. A worker may still be answering one, and a user may still listen to its topic.';

create index deleted_ids_by_time on bridge.deleted_ids (deleted_at);

revoke all on all tables in schema bridge from public, anon, authenticated, service_role;
