-- Steps of handlers that are remembered, parts of replies, questions to the user, questions of handlers, and run_at.

alter table public.messages
    add column parts jsonb,
    add column run_at timestamptz,
    -- every row keeps the old rules, so it keeps these: no scan while the table is locked
    add constraint messages_parts_size check (
        parts is null or (jsonb_typeof(parts) = 'array' and octet_length(parts::text) <= 2097152)) not valid,
    drop constraint messages_status,
    add constraint messages_status
        check (status in ('queued', 'running', 'waiting', 'done', 'failed', 'cancelled')) not valid;
comment on column public.messages.status is 'queued, running, waiting, done, failed or cancelled; a question mirrors its reply. waiting: for an answer of the user, a time or another reply.';
comment on column public.messages.parts is
    'What a reply consists of, in order, if that is more than text and data: parts of the AI SDK. content is the texts in it and, behind all parts, the text that is being written.';
comment on column public.messages.run_at is 'On a question: it is not answered before this time.';
grant insert (run_at) on public.messages to authenticated;

alter table public.sessions
    add column parent uuid,
    add constraint sessions_parent_fkey foreign key (parent) references public.messages (id) on delete cascade not valid;
comment on column public.sessions.parent is
    'The question whose handler has opened this session, to ask another function; null: a user has opened it.';
create index sessions_of_parent on public.sessions (parent) where parent is not null;

alter table bridge.jobs
    add column steps int not null default 0,
    add column since int not null default 0;
comment on column bridge.jobs.steps is
    'Above 0 if steps are remembered: how many they were when it was written last. Such a job is given only to workers that know steps.';
comment on column bridge.jobs.since is
    'The attempt after which its steps began: it is part of their keys, so that those of a regenerated reply are others.';

alter table bridge.dead_letters add column since int not null default 0;
comment on column bridge.dead_letters.since is 'As in bridge.jobs: a retry goes on with the steps of the question.';

alter table bridge.workers add column knows_steps boolean not null default false;
comment on column bridge.workers.knows_steps is
    'Whether it can go on with a question that has steps; false of a worker of an older version.';

alter table bridge.runs
    drop constraint runs_outcome,
    add constraint runs_outcome
        check (outcome in ('done', 'failed', 'cancelled', 'released', 'lost', 'waiting')) not valid;

alter table bridge.limits
    drop constraint limits_name,
    add constraint limits_name check (name in (
        'messages_per_minute', 'sessions_per_minute', 'changes_per_minute', 'unfinished_replies', 'running_replies',
        'tokens_per_day', 'sessions', 'files_per_session', 'versions_per_file', 'message_bytes', 'file_bytes',
        'steps_per_message', 'step_bytes', 'steps_bytes'));
insert into bridge.limits (name, value) values
    ('steps_per_message', 500),
    ('step_bytes', 262144),
    ('steps_bytes', 8388608)
    on conflict do nothing;

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
revoke all on bridge.steps, bridge.ended_children from public, anon, authenticated, service_role;

create or replace function bridge.set_status(
    question_id uuid, status text, error jsonb default null, attempt int default 0, reply jsonb default '{}'
) returns void
language plpgsql set search_path = ''
as $$
begin
    update public.messages m
       set status = set_status.status,
           error = set_status.error,
           attempt = greatest(m.attempt, set_status.attempt),
           content = coalesce(set_status.reply ->> 'content', m.content),
           data = case when set_status.reply ? 'data' then nullif(set_status.reply -> 'data', 'null') else m.data end,
           parts = case when coalesce(set_status.reply -> 'parts', m.parts) is null then null
                        when set_status.status in ('done', 'failed', 'cancelled')
                        then bridge.end_parts(coalesce(set_status.reply -> 'parts', m.parts))
                        else bridge.keep_answers(
                            set_status.question_id, coalesce(set_status.reply -> 'parts', m.parts)) end,
           seq = coalesce((set_status.reply ->> 'seq')::int, m.seq),
           updated_at = clock_timestamp()
     where m.reply_to = set_status.question_id;
    update public.messages m
       set status = set_status.status, error = set_status.error, updated_at = clock_timestamp()
     where m.id = set_status.question_id;
end
$$;
comment on function bridge.set_status is
    'Gives a question and its reply their status, and the reply its text {content?, data?, parts?, seq?}. The caller holds session and job.';

create or replace function bridge.end_job(
    job bridge.jobs, status text, error jsonb default null, reply jsonb default null, deletes boolean default true
) returns void
language plpgsql set search_path = ''
as $$
begin
    begin
        perform bridge.set_status(
            job.question_id, end_job.status, end_job.error, job.attempt, coalesce(end_job.reply, '{}'));
    exception when others then
        -- a caller without a result reports the error; a result is first tried again with less in it
        if end_job.reply is null or end_job.status = 'done' or end_job.reply ?| array['content', 'data', 'parts', 'seq']
           or bridge.is_transient(sqlstate) then
            raise;
        end if;
        perform bridge.force_status(job.question_id, end_job.status, end_job.error, job.attempt);
    end;
    if end_job.status = 'failed' then
        insert into bridge.dead_letters as d (question_id, session_id, attempt, failures, since, error)
        -- without what the model or the user said: operators read it
        values (job.question_id, job.session_id, job.attempt, job.failures, job.since, case
                    when end_job.error ->> 'code' in ('model_filtered', 'bad_arguments')
                    then end_job.error || jsonb_build_object('message', '') else end_job.error end)
        on conflict on constraint dead_letters_question_id_key do update
           set attempt = excluded.attempt, failures = excluded.failures, since = excluded.since, error = excluded.error,
               created_at = now();
    end if;
    perform bridge.note_child(job);
    if end_job.deletes then
        delete from bridge.jobs j where j.id = job.id;
    end if;
end
$$;

create or replace function bridge.promote() returns trigger
language plpgsql security definer set search_path = ''
-- A plan made while the queue was short reads the whole table, and its connection keeps it: with the dead rows that an
-- open snapshot leaves, that took 250 ms a call. So this walks an index, whatever the statistics say.
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    heads uuid[];
    scheduled uuid[];
begin
    -- an administrator's delete comes without the session's lock; a deleted session has none left to take
    perform from public.sessions s
      where s.id in (select e.session_id from ended e) order by s.id for no key update;
    with head as (
        select distinct on (j.session_id) j.id
          from bridge.jobs j
          join public.sessions s on s.id = j.session_id
         where j.session_id in (select e.session_id from ended e)
           and not exists (select from bridge.jobs h where h.session_id = j.session_id and h.run_at is not null)
         order by j.session_id, j.ordinal
    ), promoted as (
        update bridge.jobs j
           set run_at = greatest(now(), (select m.run_at from public.messages m where m.id = j.question_id))
          from head where j.id = head.id
        returning j.question_id, j.run_at
    )
    select array_agg(p.question_id) filter (where p.run_at <= now()),
           array_agg(p.question_id) filter (where p.run_at > now())
      into heads, scheduled from promoted p;
    perform bridge.dispatch(heads);
    perform bridge.announce_due(j, j.run_at, '') from bridge.jobs j where j.question_id = any (scheduled);
    return null;
end
$$;

create or replace function bridge.request_cancel(job bridge.jobs) returns text
language plpgsql set search_path = ''
as $$
begin
    if job.worker is not null and job.lease_until >= now() then
        if not job.cancel then
            update bridge.jobs j set cancel = true where j.id = job.id;
            perform bridge.announce(
                case when exists (
                         select from bridge.workers w where w.name = job.worker and w.capacity is not null)
                     then 'worker:' || job.worker else 'bridge:inbox' end,
                'cancel', jsonb_build_object('question_id', job.question_id));
        end if;
        return 'cancelling';
    end if;
    if job.worker is not null then
        -- its lease has ended: what the attempt cost is charged when its worker reports it
        insert into bridge.runs (question_id, attempt, worker, outcome, function)
        values (job.question_id, job.attempt, job.worker, 'lost', job.function) on conflict do nothing;
    end if;
    perform bridge.end_job(job, 'cancelled');
    if job.steps > 0 then
        perform bridge.cancel_children(job.question_id);
    end if;
    return 'cancelled';
end
$$;

create or replace function bridge.enqueue(
    question public.messages, attempt int, charged boolean default true,
    worker text default null, slot int default null, lease interval default null
) returns boolean
language plpgsql set search_path = ''
as $$
declare
    waits boolean := exists (
        select from bridge.jobs j where j.session_id = question.session_id and j.run_at is not null);
    session public.sessions;
    job bridge.jobs;
begin
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    if enqueue.charged then
        perform bridge.charge(session.user_id);
    end if;
    if waits then
        enqueue.worker := null;
        enqueue.slot := null;
        enqueue.lease := null;
    end if;
    insert into bridge.jobs (
        question_id, session_id, user_id, ordinal, run_at, function, attempt, worker, slot, lease_until, is_confirmed)
    values (question.id, session.id, session.user_id, question.ordinal,
            case when not waits then greatest(question.run_at, now()) end, case when not waits then session.function end,
            enqueue.attempt + (enqueue.worker is not null)::int, enqueue.worker, enqueue.slot,
            clock_timestamp() + enqueue.lease, enqueue.worker is null);
    if not waits and question.run_at > now() then
        select j.* into job from bridge.jobs j where j.question_id = question.id;
        perform bridge.announce_due(job, question.run_at, '');
        return false;
    end if;
    return not waits;
end
$$;

create or replace function bridge.requeue(question public.messages, charged boolean) returns boolean
language plpgsql set search_path = ''
as $$
declare
    attempt int := coalesce(
        (select r.attempt from public.messages r where r.reply_to = question.id),
        -- an attempt whose reply could not be opened has left only a run
        (select max(r.attempt) from bridge.runs r where r.question_id = question.id),
        0);
    first int;
    is_ready boolean;
begin
    -- One that failed goes on with what its steps have done. One that ended is answered anew.
    delete from bridge.dead_letters d where d.question_id = question.id returning d.since into first;
    if not found or question.status <> 'failed' then
        first := attempt;
        delete from bridge.steps s where s.question_id = question.id;
    end if;
    question.run_at := null;
    perform bridge.set_status(question.id, 'queued');
    is_ready := bridge.enqueue(question, attempt, requeue.charged);
    update bridge.jobs j
       set since = first, steps = (select count(*) from bridge.steps s where s.question_id = question.id)
     where j.question_id = question.id;
    return is_ready;
end
$$;
comment on function bridge.requeue is
    'Starts a new attempt at an ended question, which goes on with its steps if it failed; true if it may run at once. The caller holds the session.';

create or replace function bridge.end_jobs_of_session() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if old.parent is not null then  -- what a handler asked for ends, too
        insert into bridge.ended_children (question_id, parent)
        select j.question_id, old.parent from bridge.jobs j where j.session_id = old.id
            on conflict do nothing;
    end if;
    -- in the order of the locks: session, jobs, messages; the cascade would take the messages first
    delete from bridge.jobs j where j.session_id = old.id;
    return old;
end
$$;

create or replace function bridge.check_question(question public.messages, owner uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    -- no more than messages_content_size allows, whatever the limit says
    most bigint := least(bridge.limit_of('message_bytes', check_question.owner), 131072);
begin
    if question.content !~ '\S' then
        raise exception 'The message is empty' using errcode = 'PT400', hint = 'Write some text into "content".';
    end if;
    if octet_length(question.content) > most then
        raise exception 'Message too long: % bytes (limit %)', octet_length(question.content), most
            using errcode = 'PT413', hint = 'Shorten it, or put long text into a code file.';
    end if;
    if jsonb_typeof(question.data) <> 'object' or octet_length(question.data::text) > 32768 then
        raise exception '"data" must be a JSON object of at most 32768 bytes (32 KiB)' using errcode = 'PT400';
    end if;
    if question.run_at > now() + interval '90 days' then
        raise exception '"run_at" must be within 90 days' using errcode = 'PT400';
    end if;
end
$$;
comment on function bridge.check_question is 'Refuses a question that is empty, too long or too far ahead.';

create or replace function bridge.accept_question() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    session public.sessions;
    chosen record;
begin
    session := bridge.lock_session(new.session_id, auth.uid());
    if session.id is null then
        raise exception 'Session % does not exist or is not yours', new.session_id using errcode = '42501';
    end if;
    -- before any limit: a client that repeats an insert, because the answer was lost, must learn that it succeeded
    if exists (select from public.messages m where m.id = new.id) then
        raise exception 'duplicate key value violates unique constraint "messages_pkey"'
            using errcode = '23505', detail = format('Key (id)=(%s) already exists.', new.id);
    end if;
    perform bridge.check_question(new, session.user_id);
    if session.on_new_message = 'reject' then
        perform bridge.refuse_if_busy(session);
    end if;
    new.ordinal := session.last_ordinal + 2;
    update public.sessions s set last_ordinal = new.ordinal, updated_at = clock_timestamp() where s.id = session.id;
    new.status := 'queued';
    new.reply_to := null;
    new.attempt := 0;
    new.seq := 0;
    new.error := null;
    new.parts := null;
    new.created_at := now();
    -- Its worker is chosen before the row is written, so that it need not be written again. Only the first of a
    -- statement: the choice for the others has to see what became of this one.
    if coalesce(current_setting('bridge.chosen', true), '') = ''
       and (new.run_at is null or new.run_at <= now())
       and not exists (select from bridge.jobs j where j.session_id = session.id and j.run_at is not null)
    then
        -- of the slots that are for users who ask little none: what else the statement asks is not seen yet
        chosen := bridge.choose_worker(session.id, session.user_id, session.function, null, null, '{}', false, false);
        if chosen.worker is not null then
            new.status := 'running';
        end if;
        perform set_config(
            'bridge.chosen', (to_jsonb(chosen) || jsonb_build_object('question_id', new.id))::text, true);
    end if;
    new.updated_at := clock_timestamp();
    return new;
end
$$;

drop function bridge.heartbeat(text, int, text[], text[], text[], int, int, interval);
create function bridge.heartbeat(
    worker text, lease_seconds int default null, functions text[] default null, failing text[] default '{}',
    unproven text[] default '{}', capacity int default null, history int default 0, hears interval default '15 seconds',
    knows_steps boolean default false,
    out lease interval, out missed boolean
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    before bridge.workers;
    me bridge.workers;
begin
    select w.* into before from bridge.workers w where w.name = heartbeat.worker;
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    if before.seen_at > now() - interval '5 seconds'
       and (before.hears_until > now() or coalesce(before.capacity, 0) = 0)
       and (heartbeat.lease_seconds is null
            or (before.lease = make_interval(secs => heartbeat.lease_seconds)
                and before.functions is not distinct from heartbeat.functions
                and before.failing = heartbeat.failing and before.unproven = heartbeat.unproven
                and before.capacity is not distinct from heartbeat.capacity
                and before.history = heartbeat.history and before.hears = heartbeat.hears
                and before.knows_steps = heartbeat.knows_steps))
    then
        lease := before.lease;
        missed := false;
        return;
    end if;
    -- not if it has only been silent for long
    missed := coalesce(before.capacity > 0 and before.hears_until <= now()
                       and before.hears_until < before.seen_at + before.hears
                       and (heartbeat.lease_seconds is null or heartbeat.capacity > 0), false);
    -- A row says which functions the worker of a job has, so it stays as long as its jobs. Nobody waits for a row.
    delete from bridge.workers w where w.name = any (array(
        select o.name from bridge.workers o
         where o.seen_at < now() - interval '10 minutes'
           and not exists (
            select from bridge.jobs j
             where (j.worker, j.run_at) >= (o.name, '-infinity') and (j.worker, j.run_at) <= (o.name, 'infinity'))
           for update skip locked));
    insert into bridge.workers as w (
        name, lease, functions, failing, unproven, capacity, history, hears, knows_steps, hears_until)
    values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)), heartbeat.functions,
            heartbeat.failing, heartbeat.unproven, heartbeat.capacity, heartbeat.history, heartbeat.hears,
            heartbeat.knows_steps, case when heartbeat.capacity > 0 then now() + heartbeat.hears else '-infinity' end)
    on conflict (name) do update
       set seen_at = now(),
           lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end,
           functions = case when heartbeat.lease_seconds is null then w.functions else excluded.functions end,
           failing = case when heartbeat.lease_seconds is null then w.failing else excluded.failing end,
           unproven = case when heartbeat.lease_seconds is null then w.unproven else excluded.unproven end,
           -- one that has missed something subscribes again: until it says that it has, it does not hear
           capacity = case when missed then 0
                           when heartbeat.lease_seconds is null then w.capacity else excluded.capacity end,
           history = case when heartbeat.lease_seconds is null then w.history else excluded.history end,
           hears = case when heartbeat.lease_seconds is null then w.hears else excluded.hears end,
           knows_steps = case when heartbeat.lease_seconds is null then w.knows_steps else excluded.knows_steps end,
           hears_until = case
               when missed then '-infinity'
               when heartbeat.lease_seconds is not null then excluded.hears_until
               when w.capacity > 0 then now() + w.hears else '-infinity' end
    returning w.* into me;
    -- as long as bridge.live_workers counts it
    perform bridge.note_functions(
        me.functions, now() + least(greatest(me.lease, interval '30 seconds'), interval '5 minutes'));
    lease := me.lease;
end
$$;

comment on function bridge.heartbeat is
    'Records that a worker is alive and, from a claim (with lease_seconds), what it answers and hears. Returns the length of its leases; missed: it counts as not hearing any more, as it did not confirm a job in time.';

create or replace function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
-- The plans do not depend on the names of functions; making them anew takes longer than all else here.
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    horizon timestamptz := '-infinity';
    own text[];
    capacity int;
    knows_steps boolean;
    known text[];
    fleet bigint;
    watchers bigint;
    ready boolean;
    next_at timestamptz;  -- when the next job falls due, as far as this worker may claim it
    unknown_at timestamptz;
    held bigint[];
begin
    select w.horizon, w.functions, w.capacity, w.knows_steps into horizon, own, capacity, knows_steps
      from bridge.workers w where w.name = queue_hints.worker;
    horizon := coalesce(horizon, '-infinity');
    -- the two first of those that hear; whoever does not hear watches too
    select count(*),
           count(*) filter (where l.hears_until > now()
                              and hashtextextended(l.name, 0) < hashtextextended(queue_hints.worker, 0))
      into fleet, watchers from bridge.live_workers l;
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    if own is null then
        ready := (
            select j.run_at from bridge.jobs j
             where j.worker is null and j.run_at >= horizon and j.run_at <= now() and (j.steps = 0 or knows_steps)
             order by j.run_at, j.id limit 1) is not null;
        next_at := (
            select j.run_at from bridge.jobs j where j.worker is null and j.run_at > now()
             order by j.run_at, j.id limit 1);
    else
        known := bridge.known_functions(own, now());
        -- Pairs and no `function =`: only jobs_ready_by_function fits them, and they lead to the place in it.
        select coalesce(bool_or(f.is_ready), false), min(f.next_at) into ready, next_at
          from (
            select (select j.run_at from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and (j.function, j.run_at) >= (n.name, horizon) and (j.function, j.run_at) <= (n.name, now())
                       and (j.steps = 0 or knows_steps)
                     order by j.function, j.run_at, j.id limit 1) is not null,
                   (select min(case when capacity is null then d.run_at
                                    else bridge.due_for(queue_hints.worker, fleet, d.id, d.run_at) end)
                      from (
                        select j.id, j.run_at from bridge.jobs j
                         where j.worker is null and j.function is not null
                           and (j.function, j.run_at) > (n.name, now())
                           and (j.function, j.run_at) <= (n.name, 'infinity')
                         order by j.function, j.run_at, j.id limit 10) d)
              from unnest(own) n (name)) f (is_ready, next_at);
        -- A few of each gap: if there are more, the claim at the time of these finds them. If a function was known until
        -- a moment ago, its time counts from then.
        unknown_at := (
            select min(greatest(j.run_at, f.known_until))
              from bridge.unknown_jobs(known, 'infinity', 10) j left join bridge.functions f on f.name = j.function
          ) + bridge.unknown_wait();
        ready := ready or coalesce(unknown_at <= now(), false);
        if unknown_at > now() then
            next_at := least(next_at, unknown_at);
        end if;
    end if;
    -- what was dispatched to it and has not arrived: its claim brings it
    if not ready then
        held := bridge.held_by(queue_hints.worker, horizon);
        ready := exists (
            select from bridge.jobs j
             where j.id = any (held) and j.worker is not distinct from queue_hints.worker
               and not j.is_confirmed and j.lease_until < now());
    end if;
    ready := ready or exists (select from bridge.ended_children);  -- its claim wakes their parents
    if capacity is null then  -- it does not know lease_in_ms
        next_at := least(next_at, bridge.next_lease_end(queue_hints.worker, ready));
    end if;
    return jsonb_build_object(
        'next_in_ms', bridge.milliseconds_until(next_at),
        'workers', fleet,
        'ready', ready,
        'watches', watchers < 2 or capacity = 0,
        'at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint
    );
end
$$;

create or replace function bridge.payload(
    job bridge.jobs, question public.messages, reply_id uuid, history int, taken_over boolean, is_older boolean,
    most_bytes bigint
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    session public.sessions;
    said jsonb;
    files jsonb;
begin
    -- its parts in the order of what they cost
    if octet_length(question.content) > payload.most_bytes or pg_column_size(question.data) > payload.most_bytes then
        return null;
    end if;
    said := bridge.history_of(question, payload.history, payload.most_bytes, payload.is_older);
    if said is null then
        return null;
    end if;
    files := bridge.files_of(question.session_id, payload.most_bytes);
    if files is null then
        return null;
    end if;
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    if not ((question.data is null or bridge.is_readable(question.data))
            and (session.metadata = '{}' or bridge.is_readable(session.metadata))) then
        raise exception 'unreadable data or session metadata' using errcode = '22023';
    end if;
    return jsonb_build_object(
        'question_id', question.id,
        'reply_id', payload.reply_id,
        'attempt', job.attempt,
        'failures', job.failures,
        'cancel', job.cancel,
        'taken_over', payload.taken_over,
        'queued_ms', least(extract(epoch from clock_timestamp() - job.queued_at) * 1000, 2147483647)::int,
        'ready_ms', least(extract(epoch from clock_timestamp() - job.run_at) * 1000, 2147483647)::int,
        'since', job.since,
        'steps', job.steps,
        'message', question.content,
        'data', question.data,
        'session', jsonb_build_object(
            'id', session.id, 'user_id', session.user_id, 'title', session.title,
            'function', session.function, 'metadata', session.metadata),
        'history', said,
        'files', files);
end
$$;

create or replace function bridge.open_attempt(
    job bridge.jobs, history int, is_new boolean default false, taken_over boolean default false,
    is_older boolean default false, most_bytes bigint default null
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    question public.messages;
    reply_id uuid;
    kept bridge.steps;
    opened jsonb;
begin
    if is_new and not job.cancel then
        if job.steps > 0 then
            select s.* into kept from bridge.steps s
             where s.question_id = job.question_id order by s.ordinal desc limit 1;
        end if;
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, error = null, updated_at = clock_timestamp(),
               -- What finished steps have shown stays, and counts as the first delta. With seq 0, a client that is
               -- sent the next delta before this row would take it for the first.
               content = left(m.content, coalesce(kept.chars, 0)),
               parts = bridge.first_parts(m.parts, kept.parts),
               data = case when kept.name is not null then m.data end,
               seq = (kept.name is not null)::int
        returning m.id into reply_id;
    end if;
    if reply_id is null then  -- it had one, and perhaps a trigger of the project keeps that as it is
        reply_id := (select r.id from public.messages r where r.reply_to = job.question_id);
    end if;
    select m.* into strict question from public.messages m where m.id = job.question_id;
    if is_new and not job.cancel and question.status <> 'running' then
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = job.question_id;
        select m.* into strict question from public.messages m where m.id = job.question_id;
    end if;
    opened := bridge.payload(job, question, reply_id, history, taken_over, is_older, most_bytes);
    if job.steps > 0 then
        opened := opened || (
            select jsonb_build_object('seq', r.seq, 'content', r.content, 'reply_data', r.data, 'parts', r.parts)
              from public.messages r where r.reply_to = job.question_id) || bridge.few_steps_of(job);
    end if;
    -- there were some left when it was asked; the replies before it may have used them up since
    if (is_new or not job.is_confirmed) and not job.cancel and not bridge.tokens_left(job.user_id) then
        opened := opened || jsonb_build_object('used_up', true);
    end if;
    return coalesce(opened, jsonb_build_object('question_id', job.question_id, 'attempt', job.attempt));
end
$$;

drop function bridge.take_expired(text, timestamptz, text[], text[], timestamptz, int);
create function bridge.take_expired(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int, knows_steps boolean
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    expired bigint[] := array(
        select c.id from (
            select h.id, h.lease_until from bridge.jobs h
             where h.worker is not null and h.run_at >= take_expired.horizon
               and h.worker <> take_expired.worker and h.lease_until < now()
               and (h.steps = 0 or h.cancel or take_expired.knows_steps)
               -- one that was cancelled needs no function to end
               and (take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                    or (h.function <> all (take_expired.known) and h.run_at <= take_expired.due))
             order by h.run_at, h.id) c
         order by c.lease_until);
    taken bigint[];
begin
    if expired = '{}' then
        return expired;
    end if;
    -- Each by its id, and in a form that only the primary keys fit: a plan made for a short queue takes any index, and
    -- its connection keeps it.
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from unnest(expired) with ordinality e (id, n)
         cross join lateral (
            select h.id, h.session_id from bridge.jobs h
             where h.id = e.id
               and case when take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                             or h.function <> all (take_expired.known)
                        then h.worker <> take_expired.worker and h.lease_until < now() end
               for update skip locked) j
         cross join lateral (
            select from public.sessions s where s.id = j.session_id for key share skip locked) s
         order by e.n limit take_expired.slots
    ) r;
    perform bridge.record_lost(taken);
    return taken;
end
$$;

comment on function bridge.take_expired is
    'Locks up to `slots` jobs whose lease with another worker has ended and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`; records those attempts as lost.';

drop function bridge.in_fair_order(bigint[], timestamptz, text, text[], uuid[]);
create function bridge.in_fair_order(
    ready bigint[], horizon timestamptz, worker text, elsewhere text[], others uuid[], knows_steps boolean,
    out jobs bigint[], out functions text[], out newcomers bigint[]
)
language plpgsql set search_path = '' set enable_hashjoin = on set plan_cache_mode = force_generic_plan
as $$
declare
    everybody bigint := bridge.limit_of('running_replies', null);
begin
    with waiting as materialized (
        select j.* from unnest(in_fair_order.ready) e (id)
         cross join lateral (
            select h.id, h.user_id, h.function, h.run_at from bridge.jobs h
             where h.id = e.id and h.worker is null and (h.steps = 0 or in_fair_order.knows_steps)
               -- whose last attempt failed here: another worker makes the next, if one does within eight seconds
               and (h.failed_by is null or h.failed_by <> in_fair_order.worker
                    or h.function <> all (in_fair_order.elsewhere) or h.run_at < now() - interval '8 seconds')) j
    ), running as materialized (
        select u.user_id, bridge.running_replies(u.user_id, in_fair_order.horizon) as replies
          from (select distinct w.user_id from waiting w) u
    ), placed as (
        select j.id, j.user_id, j.function, j.run_at,
               r.replies - 1 + row_number() over (partition by j.user_id order by j.run_at, j.id) as place,
               count(*) over (partition by j.user_id) as ready
          from waiting j join running r on r.user_id = j.user_id
    )
    select coalesce(array_agg(p.id order by p.place, p.run_at, p.id), '{}'),
           coalesce(array_agg(p.function order by p.place, p.run_at, p.id), '{}'),
           coalesce(array_agg(p.id order by p.run_at, p.id) filter (where p.place = 0 and p.ready <= 2), '{}')
      into jobs, functions, newcomers
      from placed p
      left join bridge.limits own on own.name = 'running_replies' and own.user_id = p.user_id
     cross join lateral (select case when own.name is null then everybody else own.value end as most) allowed
     where (allowed.most is null or p.place < allowed.most)
       and (p.place = 0 or p.user_id <> all (in_fair_order.others));
end
$$;

comment on function bridge.in_fair_order is
    'Those of the ready jobs that may run now, by their places, and their functions: within `running_replies` of their users, and none of the `others`, whom another claim is serving, but their first. newcomers: those of users who have nothing running, and at most two sessions waiting, as far as `ready` tells.';

drop function bridge.take_ready(text, timestamptz, text[], text[], timestamptz, int, int, text[], text[]);
create function bridge.take_ready(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int, reserve int,
    probing text[], elsewhere text[], knows_steps boolean, out taken bigint[], out is_held_back boolean
)
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    most int := take_ready.slots + 8;  -- a few more than needed, as others may have locked some
    ready bigint[];
    fair record;
    probe record;
    found_jobs bigint[];
    wanted int;
    open_slots int := take_ready.slots - case
        when bridge.limit_of('running_replies', null) is null then 0 else take_ready.reserve end;
begin
    taken := '{}';
    is_held_back := false;
    if take_ready.functions is null then
        select coalesce(array_agg(r.id), '{}') into taken from (
            select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
             where j.worker is null and j.run_at >= take_ready.horizon and j.run_at <= now()
               and (j.steps = 0 or take_ready.knows_steps)
             order by j.run_at, j.id
             limit take_ready.slots
               for key share of s skip locked
               for update of j skip locked
        ) r;
        return;
    end if;
    while cardinality(taken) < take_ready.slots loop
        ready := bridge.ready_jobs(horizon, functions, known, due, most);
        exit when ready = '{}';
        select f.* into fair from bridge.in_fair_order(
            ready, horizon, worker, elsewhere, bridge.claimed_by_others(ready, horizon), knows_steps) f;
        -- of a function that is probing, as many as it is named times
        taken := '{}';
        wanted := 0;
        for probe in
            select p.name, count(*)::int as most from unnest(take_ready.probing) p (name) group by p.name
        loop
            found_jobs := array(
                select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
                 where j.function = probe.name order by j.n);
            wanted := wanted + least(probe.most, cardinality(found_jobs));
            taken := taken || bridge.lock_ready(
                found_jobs, functions, known, due, least(probe.most, open_slots - cardinality(taken)));
        end loop;
        found_jobs := array(
            select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
             where j.function <> all (take_ready.probing) order by j.n);
        wanted := wanted + cardinality(found_jobs);
        taken := taken || bridge.lock_ready(found_jobs, functions, known, due, open_slots - cardinality(taken));
        taken := taken || bridge.lock_ready(
            array(select n.id from unnest(fair.newcomers) n (id)
                   where n.id <> all (taken) and n.id = any (found_jobs)),
            functions, known, due, slots - cardinality(taken));
        is_held_back := cardinality(ready) > cardinality(taken);
        -- more only if others have locked some of these
        exit when cardinality(ready) < most or cardinality(taken) >= least(open_slots, wanted);
        most := most * 4;
    end loop;
end
$$;

comment on function bridge.take_ready is
    'Locks up to `slots` jobs that are due, that no worker holds, and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`. The last `reserve` slots are only for users who have nothing running, and at most two sessions waiting. is_held_back: there are more, for which a slot or a reply of their user has to become free.';

drop function public.bridge_claim(text, int, uuid[], int, int, text[], int, text[], text[], text[], int, int);
create function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int, functions text[] default null,
    reserve int default 0, probing text[] default '{}', paused text[] default '{}', failing text[] default '{}',
    capacity int default null, hears_seconds int default 15, knows_steps boolean default false
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
-- The queue is short-lived and its statistics are always stale: this and the functions it calls walk the indexes.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    snapshot text := pg_current_snapshot()::text;
    alive record := bridge.heartbeat(
        bridge_claim.worker, bridge_claim.lease_seconds, bridge_claim.functions, bridge_claim.failing,
        array(select n.name from unnest(bridge_claim.probing || bridge_claim.paused) n (name)
               where n.name <> all (bridge_claim.failing) or n.name = any (bridge_claim.probing)
               group by n.name order by n.name),
        bridge_claim.capacity, bridge_claim.history, make_interval(secs => bridge_claim.hears_seconds),
        bridge_claim.knows_steps);
    lease_end timestamptz := now() + alive.lease;
    horizon timestamptz := bridge.claim_horizon(bridge_claim.worker, bridge_claim.functions);
    held bigint[] := bridge.held_by(bridge_claim.worker, horizon);
    due timestamptz := now() - bridge.unknown_wait();
    known text[] := bridge.known_functions(bridge_claim.functions, due);
    elsewhere text[] := bridge.answered_elsewhere(bridge_claim.worker);
    probes text[];
    takes text[];
    again text[] := '{}';
    expired bigint[];
    ready record;
    hints jsonb;
    free int[];  -- slots
    wanted int;
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- appending to an array does not copy it, unlike appending to a jsonb
begin
    set constraints all immediate;  -- so that a deferred trigger fails only its job, not the whole claim
    if exists (select from bridge.ended_children) then
        perform bridge.wake_parents();
    end if;
    -- Return again, under the same attempt, jobs whose claim answer was lost. They use slots like any other, so a worker
    -- that now asks for fewer gets them in parts. Even without a free slot it gets one.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (held)
           and j.worker is not distinct from bridge_claim.worker and not (j.question_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update skip locked
    loop
        -- dispatched some time ago, and it has not arrived
        alive.missed := alive.missed or (not job.is_confirmed and job.lease_until < now() + bridge.dispatch_lease() / 2);
        update bridge.jobs j set lease_until = lease_end, is_confirmed = true where j.id = job.id;
        jobs := jobs || bridge.open_claimed(job, bridge_claim.history, bridge_claim.functions is null);
        again := again || job.function;
    end loop;
    -- what it did not know of is among the few questions that it may have of a function
    probes := array(
        select p.name from (
            select u.name, row_number() over (partition by u.name) as n from unnest(bridge_claim.probing) u (name)) p
         where p.n > (select count(*) from unnest(again) a (name) where a.name = p.name));
    takes := case when bridge_claim.functions is not null then array(
        select f.name from unnest(bridge_claim.functions) f (name)
         where f.name <> all (elsewhere)
            or (f.name <> all (bridge_claim.paused) and (f.name <> all (bridge_claim.probing) or f.name = any (probes)))) end;
    if alive.missed then  -- it subscribes again: until it says that it has, nothing is dispatched to it
        update bridge.workers w set capacity = 0, hears_until = '-infinity' where w.name = bridge_claim.worker;
    end if;

    -- jobs of vanished workers come before new ones
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);
    if bridge_claim.capacity > 0 then  -- what is being dispatched to this worker takes slots that it does not know of
        wanted := slots;
        free := bridge.lock_slots(bridge_claim.worker, horizon, bridge_claim.capacity, slots);
        slots := cardinality(free);
    end if;
    expired := bridge.take_expired(bridge_claim.worker, horizon, takes, known, due, slots, knows_steps);
    select r.* into ready from bridge.take_ready(
        bridge_claim.worker, horizon, takes, known, due, slots - cardinality(expired), bridge_claim.reserve,
        array(select f.name from unnest(probes) f (name) where f.name = any (elsewhere)), elsewhere, knows_steps) r;
    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int,
               slot = free[array_position(ready.taken || expired, j.id)],
               is_confirmed = true
         where j.id = any (ready.taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.open_claimed(
            job, bridge_claim.history, bridge_claim.functions is null, true, job.id = any (expired));
    end loop;
    -- last, as the users' rows in bridge.usage stay locked until the end
    perform bridge.charge_tokens(coalesce((
        select jsonb_agg(jsonb_build_object(
                   'user_id', j.user_id, 'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
          from unnest(expired) e (id)
          join bridge.jobs j on j.id = e.id
          join bridge.runs r on r.question_id = j.question_id and r.attempt = j.attempt - 1), '[]'));
    hints := bridge.queue_hints(bridge_claim.worker);
    if slots < wanted and hints ->> 'ready' = 'true' then  -- some slots are being filled, or will be free in a moment
        hints := hints || jsonb_build_object('next_in_ms', 0);
    end if;
    return hints || bridge.lease_hint(bridge_claim.worker, (hints ->> 'ready')::boolean) || jsonb_build_object(
        'jobs', to_jsonb(jobs), 'snapshot', snapshot, 'held_back', ready.is_held_back, 'elsewhere', to_jsonb(elsewhere),
        'missed', alive.missed);
end
$$;

comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Of functions that other workers answer well, it takes as many jobs as `probing` names it times, or none if it is `paused`. Those that are `failing` are noted. The last `reserve` slots are for users who have asked little. `capacity`: how many jobs can be dispatched to it while it calls at least every `hears_seconds` (0: it does not hear its topic, or drains; null: it has none, as it has an older version). `knows_steps`: it can go on with questions that have steps; others do not get these. Returns {jobs: [{question_id, …}], held_back, elsewhere, next_in_ms, lease_in_ms, workers, ready, watches, missed, at_ms, snapshot}. held_back: claim again when a reply has ended. elsewhere: the functions that other workers answer well. The snapshot shows which transactions the claim has seen.';

drop function bridge.choose_worker(uuid, uuid, text, text, text, uuid[], boolean);
create function bridge.choose_worker(
    session_id uuid, user_id uuid, function text, finisher text, failed_by text, excluded uuid[],
    may_take_last boolean, has_steps boolean,
    out worker text, out slot int, out lease interval
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    candidate record;
    running bigint;
    most bigint;
    is_shared boolean;
    room int;
begin
    -- Of now, and not of the transaction's begin: its user's request may have waited, and gone on for long.
    -- Each session has an order of the workers of its own: it stays with a worker, which has joined its topic, as long
    -- as that one has room, and a fleet that changes moves few sessions.
    for candidate in
        select w.name, w.capacity, w.horizon, w.lease,
               choose_worker.function = any (w.failing) as is_failing,
               choose_worker.function = any (w.unproven) as is_unproven
          from bridge.workers w
         where w.hears_until > clock_timestamp() and w.capacity > 0
           and choose_worker.function = any (w.functions)
           and (choose_worker.function <> all (w.failing) or choose_worker.function = any (w.unproven))
           and w.name is distinct from choose_worker.failed_by
           and (w.knows_steps or not choose_worker.has_steps)
         order by w.name is distinct from choose_worker.finisher,
                  hashtextextended(w.name, hashtextextended(choose_worker.session_id::text, 0))
         limit 3
    loop
        if running is null then
            -- as bridge.limit_of, for the user and for everybody
            select (array_agg(l.value order by l.user_id nulls last))[1],
                   bool_or(l.user_id is null and l.value is not null)
              into most, is_shared
              from bridge.limits l
             where l.name = 'running_replies' and (l.user_id = choose_worker.user_id or l.user_id is null);
            -- As in bridge.claimed_by_others. A question of a user whose replies are being counted right now is claimed.
            if most is not null
               and not pg_try_advisory_xact_lock(hashtextextended('bridge.running_replies ' || user_id, 0)) then
                return;
            end if;
            running := bridge.running_replies(user_id, candidate.horizon);
            if running >= most or bridge.has_backlog(function, candidate.horizon, running = 0, excluded) then
                return;
            end if;
        end if;
        if candidate.is_failing then
            -- one question at a time tells whether a model that was out of order answers again
            continue when not pg_try_advisory_xact_lock(hashtextextended(
                'bridge.probe ' || candidate.name, hashtextextended(choose_worker.function, 0)));
            continue when exists (
                select from bridge.jobs h
                 where h.worker is not null and h.function = choose_worker.function
                   and (h.worker, h.run_at) >= (candidate.name, candidate.horizon)
                   and (h.worker, h.run_at) <= (candidate.name, 'infinity'));
        end if;
        -- as in a claim: few questions for a model that has not answered yet, and a quarter of all slots only for users
        -- who have asked little
        room := case
            when candidate.is_unproven and not candidate.is_failing then least(candidate.capacity, 3)
            when is_shared then candidate.capacity - candidate.capacity / 4
            else candidate.capacity end;
        slot := (bridge.lock_slots(candidate.name, candidate.horizon, room, 1))[1];
        if slot is null and may_take_last and is_shared and running = 0 and not candidate.is_unproven
           and bridge.asks_little(user_id, function, candidate.horizon)
        then
            slot := (bridge.lock_slots(candidate.name, candidate.horizon, candidate.capacity, 1))[1];
        end if;
        if slot is not null then
            worker := candidate.name;
            lease := least(candidate.lease, bridge.dispatch_lease());
            return;
        end if;
    end loop;
end
$$;

comment on function bridge.choose_worker is
    'The worker to which a question of this session and user is handed, with the slot that it will take there, locked: the first in the session''s order of those that hear, answer the function well and have room. Null: none, or others wait who are next, or the user has as many replies running as allowed. may_take_last: of the last quarter of the slots, too, if the user has nothing running and asks little.';

create or replace function bridge.tell(dispatched bridge.jobs) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    -- A deferred trigger of the project on messages fires now, where it fails only this job, as in a claim; not at the commit,
    -- where it would fail its user's request.
    deferred text := (
        select string_agg(format('public.%I', c.conname), ', ') from pg_catalog.pg_constraint c
         where c.conrelid = 'public.messages'::regclass and c.condeferred);
    present record;
    told jsonb;
begin
    select j as job, w.history, j.function = any (w.functions) and w.capacity > 0 as is_there into present
      from bridge.jobs j left join bridge.workers w on w.name = j.worker
     where j.id = dispatched.id and j.worker = dispatched.worker and j.attempt = dispatched.attempt
       and not j.is_confirmed;
    if not found then
        return null;
    elsif present.is_there is not true then
        raise exception 'it has left, or the session has another function now';
    end if;
    if deferred is not null then
        execute 'set constraints ' || deferred || ' immediate';
    end if;
    if dispatched.lease_until < clock_timestamp() + bridge.dispatch_lease() / 2 then  -- its user's request has taken long
        update bridge.jobs j set lease_until = clock_timestamp() + bridge.dispatch_lease() where j.id = dispatched.id;
    end if;
    told := bridge.open_attempt(present.job, present.history, is_new => true, most_bytes => 32768);
    if deferred is not null then
        execute 'set constraints ' || deferred || ' deferred';
    end if;
    if octet_length(told::text) > 32768 then
        told := told - 'known';  -- the worker calls for its steps
    end if;
    if octet_length(told::text) > 32768 then  -- the worker claims what it holds
        told := jsonb_build_object('question_id', dispatched.question_id, 'attempt', dispatched.attempt);
    end if;
    return told || jsonb_build_object('at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint);
exception when others then
    -- a claim finds out whether the question is broken, or what its user may not do
    raise warning 'bridge.tell: % %', sqlstate, sqlerrm;
    update bridge.jobs j
       set worker = null, slot = null, lease_until = null, attempt = j.attempt - 1, is_confirmed = true
     where j.id = dispatched.id;
    begin
        update public.messages m set status = 'queued' where m.id = dispatched.question_id and m.status <> 'queued';
    exception when others then
        raise warning 'bridge.tell: % %', sqlstate, sqlerrm;  -- a claim sets it
    end;
    perform bridge.announce_work(array[dispatched.question_id]);
    return null;
end
$$;

create or replace function bridge.dispatch(question_ids uuid[], released_by text default null, is_new boolean default false)
returns void
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    finisher text := nullif(current_setting('bridge.finisher', true), '');
    job bridge.jobs;
    chosen record;
    rest uuid[] := '{}';
begin
    if coalesce(cardinality(dispatch.question_ids), 0) = 0 then
        return;
    elsif cardinality(dispatch.question_ids) > 32 then  -- a backlog
        perform bridge.announce_work(dispatch.question_ids);
        return;
    end if;
    for job in
        select j.* from unnest(dispatch.question_ids) q (id)
         cross join lateral (
            select h.* from bridge.jobs h  -- by its question: the indexes of ready jobs are full of ended ones
             where h.question_id = q.id and case when h.worker is null then h.run_at <= now() end
               for update skip locked) j
    loop
        chosen := bridge.choose_worker(
            job.session_id, job.user_id, job.function, finisher, coalesce(dispatch.released_by, job.failed_by),
            dispatch.question_ids, true, job.steps > 0);
        if chosen.worker is null then
            rest := rest || job.question_id;
            continue;
        end if;
        update bridge.jobs j
           set worker = chosen.worker, slot = chosen.slot, lease_until = clock_timestamp() + chosen.lease,
               attempt = j.attempt + 1, is_confirmed = false
         where j.id = job.id
        returning j.* into job;
        -- should that worker be gone: of an insert, two workers hear by postgres_changes
        if not is_new and chosen.worker is distinct from finisher then
            perform bridge.announce_due(job, job.lease_until + interval '0.2 seconds', job.worker);
        end if;
    end loop;
    perform bridge.announce_work(rest);
end
$$;

create or replace function bridge.write_checkpoints(items jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    update public.messages m
       set content = coalesce(i.content, m.content),
           data = case when e.value ? 'data' then i.data else m.data end,
           parts = case when e.value ? 'parts' then bridge.keep_answers(i.question_id, i.parts) else m.parts end,
           seq = i.seq,
           updated_at = clock_timestamp()
      from jsonb_array_elements(write_checkpoints.items) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, seq int, content text, data jsonb, parts jsonb)
     where m.reply_to = i.question_id and m.attempt = i.attempt and m.status = 'running' and m.seq < i.seq;
end
$$;
comment on function bridge.write_checkpoints is
    'Writes partial replies [{question_id, attempt, seq, content?, data?, parts?}]. The caller holds their jobs, so none is stale.';

comment on function public.bridge_beat is
    'Extends the leases of jobs [{question_id, attempt, seq?, content?, data?, parts?}] and writes those with a seq as checkpoints. Returns {results: {question_id: ok|lost|cancel|busy}, next_in_ms, lease_in_ms?, workers, ready, watches, missed, at_ms}; busy: a user keeps it locked, try again.';
create function bridge.remember(job bridge.jobs, step jsonb, out state text, out steps int)
language plpgsql set search_path = ''
as $$
declare
    most_steps bigint;
    most_bytes bigint;
    most_bytes_of_all bigint;
    new_bytes int := coalesce(octet_length(step ->> 'value'), 0);
    all_bytes bigint;
    is_known boolean;
begin
    -- Counted in place of kept: the job's row is wide, and writing it with each step is a third of its log.
    select count(*), coalesce(sum(s.bytes), 0), bool_or(s.is_done) filter (where s.name = step ->> 'name')
      into steps, all_bytes, is_known
      from bridge.steps s where s.question_id = job.question_id;
    if is_known then
        -- sent again, as the answer was lost; or given at the deadline, by whoever the attempt no longer waits for
        state := case when step ->> 'kind' = 'failed' and exists (
            select from bridge.steps s
             where s.question_id = job.question_id and s.name = step ->> 'name' and s.kind <> 'failed')
            then 'given' else 'known' end;
        return;
    end if;
    select min(l.value) filter (where l.name = 'steps_per_message'),
           min(l.value) filter (where l.name = 'step_bytes'),
           min(l.value) filter (where l.name = 'steps_bytes')
      into most_steps, most_bytes, most_bytes_of_all
      from (
        select distinct on (x.name) x.name, x.value from bridge.limits x
         where x.name in ('steps_per_message', 'step_bytes', 'steps_bytes')
           and (x.user_id = job.user_id or x.user_id is null)
         order by x.name, x.user_id nulls last) l;
    if is_known is null and steps >= most_steps then
        state := 'too_many_steps';
        return;
    elsif new_bytes > most_bytes or all_bytes + new_bytes > most_bytes_of_all then
        state := 'step_too_large';
        return;
    end if;
    -- nobody else writes steps of a job that the caller holds, so the insert needs no `on conflict`
    if is_known is null then
        insert into bridge.steps (
            question_id, name, ordinal, kind, value, bytes, is_done, attempt, chars, parts, emitted_before, emitted, run)
        select job.question_id, s.name, s.ordinal, s.kind, s.value, new_bytes, s.kind <> 'begun', job.attempt,
               s.chars, s.n_parts, s.emitted_before, s.emitted, s.run
          from jsonb_to_record(step) s (
                   name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted_before int,
                   emitted int, run jsonb);
        steps := steps + 1;
    else  -- it has begun, or waited
        update bridge.steps k
           set ordinal = s.ordinal, kind = s.kind, value = s.value, bytes = new_bytes, is_done = s.kind <> 'begun',
               attempt = job.attempt, chars = s.chars, parts = s.n_parts, emitted = s.emitted, run = s.run
          from jsonb_to_record(step) s (
                   name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted int, run jsonb)
         where k.question_id = job.question_id and k.name = s.name;
    end if;
    if step ? 'seq' then
        perform bridge.write_checkpoints(jsonb_build_array(step));
    end if;
    state := 'ok';
end
$$;
comment on function bridge.remember is
    'Writes a step with the reply as it was shown then. `state` is ok, known (it was written before), given (somebody gave it while the worker found that nobody had), or the limit that refuses it; `steps` is how many there are then. The caller holds the job.';

create function public.bridge_step(worker text, steps jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    ids bigint[] := bridge.jobs_of(bridge_step.steps);
    -- nobody waits for a job that its user keeps locked, as in bridge_beat
    free bigint[] := array(
        select j.id from bridge.jobs j where j.id = any (ids) order by j.id for update skip locked);
    item jsonb;
    job bridge.jobs;
    remembered record;
    failed int;
    lease interval := coalesce(
        (select w.lease from bridge.workers w where w.name = bridge_step.worker), interval '30 seconds');
    state text;
    states jsonb := '{}';
    charges jsonb[] := '{}';
    owners jsonb := '{}';
begin
    set constraints all immediate;  -- so that a deferred trigger fails only its step, not all of them
    for item in select jsonb_array_elements(bridge_step.steps) loop
        select j.* into job from bridge.jobs j
         where j.question_id = (item ->> 'question_id')::uuid and j.worker is not distinct from bridge_step.worker
           and j.attempt = (item ->> 'attempt')::int;
        if not found then
            state := 'lost';
        elsif not job.id = any (free) then
            state := 'busy';
        elsif job.cancel then
            state := 'cancel';
        else
            begin
                remembered := bridge.remember(job, item);
                state := remembered.state;
            exception when others then
                if bridge.is_transient(sqlstate) then
                    raise;  -- not this step's fault: the worker sends all of them again
                end if;
                raise warning 'bridge_step: % of % refused: % %', item ->> 'name', job.question_id, sqlstate, sqlerrm;
                state := 'refused';
            end;
            if state = 'ok' then
                -- A finished step is progress: what failed before it does not count any more.
                failed := case when item ->> 'kind' = 'begun' then job.failures else 0 end;
                -- As by a beat, the lease is extended once a quarter has passed. Outside of the subtransaction, as the
                -- lock on the job is: otherwise Postgres would create a multixact.
                if job.steps = 0 or failed <> job.failures or not job.is_confirmed
                   or job.lease_until < now() + lease * 0.75
                then
                    update bridge.jobs j
                       set steps = remembered.steps, failures = failed, is_confirmed = true,
                           lease_until = greatest(j.lease_until, clock_timestamp() + lease)
                     where j.id = job.id;
                end if;
                if item ? 'run' then
                    charges := charges || ((item -> 'run') || jsonb_build_object('user_id', job.user_id));
                    owners := owners || jsonb_build_object(job.question_id, job.user_id);
                end if;
            elsif state = 'known' then
                state := 'ok';
            end if;
        end if;
        states := states || jsonb_build_object((item ->> 'question_id') || ' ' || (item ->> 'name'), state);
    end loop;
    if charges <> '{}' then
        perform bridge.charge_tokens(to_jsonb(charges));
    end if;
    return jsonb_build_object('results', states, 'used_up', (
        select coalesce(jsonb_agg(o.key), '[]') from jsonb_each_text(owners) o
         where not bridge.tokens_left(o.value::uuid)));
end
$$;
comment on function public.bridge_step is
    'Remembers steps [{question_id, attempt, name, ordinal, kind, value, chars, n_parts, emitted_before, emitted, run?, seq?, content?, parts?, data?}], each with the reply as it was shown then. Returns {results: {"question_id name": ok|lost|cancel|busy|given|too_many_steps|step_too_large|refused}, used_up: [question_id]}. busy: a user keeps it locked, send it again. given: somebody gave it in time, though the attempt did not see it: try again. used_up: of those with a run, the questions whose users have used up their tokens of the day.';

create function bridge.steps_of(question_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'name', s.name, 'ordinal', s.ordinal, 'kind', s.kind, 'value', s.value, 'is_done', s.is_done,
                   'is_due', coalesce(s.due_at <= now(), false), 'emitted_before', s.emitted_before,
                   'emitted', s.emitted) order by s.ordinal), '[]')
          from bridge.steps s where s.question_id = steps_of.question_id);
end
$$;
comment on function bridge.steps_of is
    'What attempts at a question have done [{name, ordinal, kind, value, is_done, is_due, emitted_before, emitted}], in their order.';

create function bridge.few_steps_of(job bridge.jobs) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    most_bytes constant int := 8192;
    steps jsonb;
begin
    if (select sum(s.bytes + 200) from bridge.steps s where s.question_id = job.question_id) <= most_bytes then
        steps := bridge.steps_of(job.question_id);
    end if;
    return case when octet_length(steps::text) <= most_bytes then jsonb_build_object('known', steps) else '{}' end;
end
$$;
comment on function bridge.few_steps_of is
    'The steps of a job as {known: [{name, …}]} for its payload, so that its worker need not call for them; {}: they are more than 8 KiB.';

create function public.bridge_steps(worker text, question_id uuid, attempt int) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
begin
    if not exists (
        select from bridge.jobs j
         where j.question_id = bridge_steps.question_id and j.worker is not distinct from bridge_steps.worker
           and j.attempt = bridge_steps.attempt)
    then
        return null;
    end if;
    return bridge.steps_of(bridge_steps.question_id);
end
$$;
comment on function public.bridge_steps is
    'What earlier attempts at a question have done [{name, ordinal, kind, value, is_done, is_due, emitted_before, emitted}], in their order; null: the caller does not hold it.';

create function bridge.first_parts(parts jsonb, most int) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(p.value order by p.n) from jsonb_array_elements(first_parts.parts) with ordinality p (value, n)
         where p.n <= first_parts.most);
end
$$;
comment on function bridge.first_parts is 'The first parts of a reply; null: none.';

create function bridge.end_parts(parts jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(case
                   when p.value ->> 'state' in (
                       'input-streaming', 'input-available', 'approval-requested', 'approval-responded')
                   then p.value || '{"state": "output-error", "errorText": "Stopped."}'
                   when p.value ->> 'state' = 'streaming' then p.value || '{"state": "done"}'
                   else p.value end order by p.n)
          from jsonb_array_elements(end_parts.parts) with ordinality p (value, n));
end
$$;
comment on function bridge.end_parts is 'The parts of a reply that has ended: a tool that has not ended was stopped.';

create function bridge.wait(job bridge.jobs, waits jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    many int;
    until timestamptz;
begin
    insert into bridge.steps (
        question_id, name, ordinal, kind, value, is_done, attempt, chars, parts, emitted_before, emitted, due_at)
    select job.question_id, w.name, w.ordinal, w.kind, w.value, false, job.attempt, w.chars, w.n_parts,
           w.emitted_before, w.emitted,
           -- a deadline is compared and subtracted: it is never infinite
           now() + make_interval(secs => least(greatest(w.within_ms, 0), 7776000000) / 1000)
      from jsonb_to_recordset(wait.waits) w (
               name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted_before int, emitted int,
               within_ms float8)
        -- one that waits since an earlier attempt, and may have been answered meanwhile, keeps its deadline
        on conflict on constraint steps_pkey do update
           set ordinal = excluded.ordinal, attempt = excluded.attempt, chars = excluded.chars, parts = excluded.parts,
               emitted = excluded.emitted;
    many := (select count(*) from bridge.steps s where s.question_id = job.question_id);
    if many > bridge.limit_of('steps_per_message', job.user_id) then
        raise exception 'too many steps' using errcode = '22023';
    elsif (select count(*) from bridge.steps s
            where s.question_id = job.question_id and not s.is_done and s.kind = 'ask') > 16 then
        raise exception 'more than 16 questions to the user at once' using errcode = '22023';
    end if;
    perform bridge.begin_children(job);
    select min(s.due_at) into until from bridge.steps s
     where s.question_id = job.question_id and not s.is_done and s.attempt = job.attempt;
    if until is null then  -- answered meanwhile
        perform bridge.set_status(job.question_id, 'queued');
    end if;
    update bridge.jobs j
       set worker = null, slot = null, lease_until = null, is_confirmed = true, failures = 0, failed_by = null,
           steps = many, run_at = coalesce(until, now())
     where j.id = job.id
    returning j.* into job;
    if until is not null then
        perform bridge.announce_due(job, until, '');
    end if;
end
$$;
comment on function bridge.wait is
    'Ends an attempt that waits for [{name, ordinal, kind, value, chars, n_parts, emitted_before, emitted, within_ms}]: its job has no worker until one of them is due or all are done. The caller holds session and job.';

create function bridge.wake(job bridge.jobs) returns boolean
language plpgsql set search_path = ''
as $$
begin
    -- a worker that holds it finds out when its attempt ends
    if job.worker is not null or exists (
        select from bridge.steps s
         where s.question_id = job.question_id and not s.is_done and s.due_at > now()
           and s.attempt = job.attempt)  -- not what only an earlier attempt has waited for
    then
        return false;
    end if;
    perform bridge.set_status(job.question_id, 'queued');
    update bridge.jobs j set run_at = now() where j.id = job.id;
    return true;
end
$$;
comment on function bridge.wake is
    'Makes a waiting job ready if nothing of what it waits for is open; the caller holds session and job, and dispatches it.';

create function bridge.answer_message(message_id uuid, ask text, answer jsonb) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(answer_message.message_id);
    job bridge.jobs;
    step bridge.steps;
    reply public.messages;
begin
    select j.* into job from bridge.jobs j where j.question_id = question.id for update;
    if not found then
        return question.status;
    end if;
    if octet_length(answer_message.answer::text) > 32768 then
        raise exception 'The answer is too long: % bytes (limit 32768)', octet_length(answer_message.answer::text)
            using errcode = 'PT413', hint = 'Shorten it.';
    elsif not (jsonb_typeof(answer_message.answer) = 'object' and bridge.is_readable(answer_message.answer)) then
        raise exception 'The answer must be a JSON object of at most 32 levels'
            using errcode = 'PT400', hint = 'Send {"approved": true}, for example.';
    end if;
    select s.* into step from bridge.steps s
     where s.question_id = question.id and s.name = answer_message.ask
       and (s.kind = 'ask' or (s.kind = 'failed' and s.due_at is not null));
    if not found then
        raise exception 'Message % has no question %', answer_message.message_id, left(answer_message.ask, 200)
            using errcode = 'PT404', hint = 'Answer by the name in its part''s approval.';
    elsif step.kind = 'failed' then
        return 'late';
    elsif step.is_done then
        return 'answered';
    elsif step.due_at <= now() then
        return 'late';
    end if;
    update bridge.steps s set is_done = true, value = coalesce(answer_message.answer, '{}')
     where s.question_id = question.id and s.name = step.name;
    update public.messages m
       set parts = bridge.answer_parts(m.parts, step.name, answer_message.answer), updated_at = clock_timestamp()
     where m.reply_to = question.id and m.parts is not null
    returning m.* into reply;
    if bridge.wake(job) then
        perform bridge.dispatch(array[question.id]);
    elsif reply.id is not null then  -- its status stays, so no trigger announces the row
        perform bridge.announce('session:' || question.session_id, 'message', bridge.event_payload(to_jsonb(reply)));
    end if;
    return 'taken';
end
$$;
comment on function bridge.answer_message is 'See public.answer_message.';

create function bridge.answer_parts(parts jsonb, ask text, answer jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(case
                   when p.value ->> 'toolCallId' = answer_parts.ask and p.value ->> 'state' = 'approval-requested'
                   then p.value || jsonb_build_object('state', 'approval-responded', 'approval', jsonb_build_object(
                       'id', answer_parts.ask, 'approved', answer_parts.answer -> 'approved' is not distinct from 'true'))
                   else p.value end order by p.n)
          from jsonb_array_elements(answer_parts.parts) with ordinality p (value, n));
end
$$;
comment on function bridge.answer_parts is 'The parts of a reply with the user''s answer to one of its questions.';

create function bridge.keep_answers(question_id uuid, parts jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    step record;
begin
    if keep_answers.parts @> '[{"state": "approval-requested"}]' then
        for step in
            select s.name, s.value from bridge.steps s
             where s.question_id = keep_answers.question_id and s.kind = 'ask' and s.is_done
        loop
            keep_answers.parts := bridge.answer_parts(keep_answers.parts, step.name, step.value);
        end loop;
    end if;
    return keep_answers.parts;
end
$$;
comment on function bridge.keep_answers is
    'The parts that a worker writes, with the answers that its attempt does not know of. The caller holds the job.';

create function public.answer_message(message_id uuid, ask text, answer jsonb default '{}') returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.answer_message(answer_message.message_id, answer_message.ask, answer_message.answer);
end
$$;
comment on function public.answer_message is
    'Answers a question that a reply asks you (by the id of the question or of the reply, and the name in the part''s approval). Returns taken, answered (somebody was first), late, or the status the reply had already ended with.';

create function bridge.begin_children(job bridge.jobs) returns void
language plpgsql set search_path = ''
as $$
declare
    step bridge.steps;
    depth int := 0;
    above uuid := job.session_id;
begin
    if not exists (
        select from bridge.steps s
         where s.question_id = job.question_id and s.kind = 'run' and not s.is_done and s.value ? 'session_id')
    then
        return;
    end if;
    -- a request of the user may keep the user's counters locked, and nobody waits for that
    perform from bridge.rates r where r.user_id = job.user_id for update skip locked;
    if not found and exists (select from bridge.rates r where r.user_id = job.user_id) then
        raise lock_not_available using message = format('The counters of user %s are locked', job.user_id);
    end if;
    loop
        above := (
            select m.session_id from public.sessions s join public.messages m on m.id = s.parent where s.id = above);
        exit when above is null or depth > 3;
        depth := depth + 1;
    end loop;
    for step in
        select s.* from bridge.steps s
         where s.question_id = job.question_id and s.kind = 'run' and not s.is_done and s.value ? 'session_id'
         order by s.name
    loop
        begin
            if depth >= 3 then
                raise exception 'A reply that another one asked for may not ask for more than two further ones, one inside the other'
                    using errcode = 'PT400';
            end if;
            insert into public.sessions (id, user_id, title, function, parent)
            values ((step.value ->> 'session_id')::uuid, job.user_id, left(step.name, 200), step.value ->> 'function',
                    job.question_id)
            on conflict (id) do nothing;
            insert into public.messages (id, session_id, content, data)
            values ((step.value ->> 'question_id')::uuid, (step.value ->> 'session_id')::uuid, step.value ->> 'message',
                    nullif(step.value -> 'data', 'null'))
            on conflict (id) do nothing;
            if not exists (
                select from public.messages m join public.sessions s on s.id = m.session_id
                 where m.id = (step.value ->> 'question_id')::uuid and s.parent = job.question_id)
            then
                -- the user has computed the ids, and would answer in the function's place
                raise exception 'Another session has the id of the question' using errcode = 'PT409';
            end if;
            update bridge.steps s set value = jsonb_build_object('question_id', step.value -> 'question_id')
             where s.question_id = job.question_id and s.name = step.name;
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            raise warning 'bridge: % of % not begun: % %', step.name, job.question_id, sqlstate, sqlerrm;
            -- A limit of the user, or an argument that cannot be: the handler learns why. What else Postgres says may
            -- have values of rows in it.
            update bridge.steps s
               set is_done = true, value = jsonb_build_object('status', 'failed', 'error', jsonb_build_object(
                       'code', 'not_begun', 'message', case when sqlstate ~ '^PT' then sqlerrm
                           else 'The question could not be asked.' end))
             where s.question_id = job.question_id and s.name = step.name;
        end;
    end loop;
end
$$;
comment on function bridge.begin_children is
    'Asks the questions that a job waits for: each in a session of its own, whose parent is the question. The caller holds session and job.';

create function bridge.note_child(job bridge.jobs) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.ended_children (question_id, parent)
    select job.question_id, s.parent from public.sessions s where s.id = job.session_id and s.parent is not null
    on conflict do nothing;
end
$$;
comment on function bridge.note_child is 'Notes that a question of a handler has ended.';

create function bridge.wake_parents() returns void
language plpgsql set search_path = '' set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    child record;
    job bridge.jobs;
    woken uuid[] := '{}';
    reply jsonb;
    is_woken boolean;
begin
    for child in
        select c.question_id, c.parent from bridge.ended_children c
         order by c.question_id limit 32 for update skip locked
    loop
        -- whatever is locked is left to another claim
        perform from public.sessions s
          join public.messages m on m.session_id = s.id
          where m.id = child.parent for no key update of s skip locked;
        if not found then
            continue when exists (select from public.messages m where m.id = child.parent);
        else
            select j.* into job from bridge.jobs j where j.question_id = child.parent for update skip locked;
            continue when not found and exists (select from bridge.jobs j where j.question_id = child.parent);
            reply := coalesce((
                select jsonb_build_object('status', r.status, 'content', r.content, 'data', r.data, 'error', r.error)
                  from public.messages r where r.reply_to = child.question_id), '{"status": "cancelled"}');
            if octet_length(reply::text) > 1048576 then  -- see steps_value_size
                reply := '{"status": "failed", "error": {"code": "too_large", "message": "The reply is too long."}}';
            end if;
            -- also of one that has failed meanwhile: it may be tried again
            update bridge.steps s set is_done = true, value = reply
             where s.question_id = child.parent and s.kind = 'run' and not s.is_done
               and s.value ->> 'question_id' = child.question_id::text;
            if found and job.id is not null then
                begin
                    is_woken := bridge.wake(job);
                exception when others then
                    if bridge.is_transient(sqlstate) then
                        raise;
                    end if;
                    -- a trigger of the project refuses its status: no other claim fails because of that
                    raise warning 'bridge: % cannot be woken: % %', child.parent, sqlstate, sqlerrm;
                    update bridge.jobs j set run_at = now() where j.id = job.id and j.worker is null;
                    is_woken := found;
                end;
                if is_woken then
                    woken := woken || child.parent;
                end if;
            end if;
        end if;
        delete from bridge.ended_children c where c.question_id = child.question_id;
    end loop;
    perform bridge.dispatch(woken);
end
$$;
comment on function bridge.wake_parents is
    'Gives the replies to questions of handlers to those that wait for them, and makes these ready. It waits for no lock.';

create function bridge.cancel_children(parent uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    job bridge.jobs;
begin
    for job in
        select j.* from public.sessions s
         cross join lateral (
            select h.* from bridge.jobs h where h.session_id = s.id and h.run_at is not null for update skip locked) j
         where s.parent = cancel_children.parent
    loop
        perform from public.sessions s where s.id = job.session_id for no key update skip locked;
        if found then
            perform bridge.request_cancel(job);
        end if;
    end loop;
end
$$;
comment on function bridge.cancel_children is
    'Cancels what a handler has asked for whose reply is cancelled; what is locked goes on in vain.';

create or replace function bridge.record_run(job bridge.jobs, outcome text, run jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, model, input_tokens, output_tokens,
                             cached_tokens, queue_ms, first_delta_ms, duration_ms, error)
    select job.question_id, job.attempt, job.worker, record_run.outcome, r.function, coalesce(r.model, s.model),
           coalesce(r.input_tokens + s.input_tokens, r.input_tokens, s.input_tokens),
           coalesce(r.output_tokens + s.output_tokens, r.output_tokens, s.output_tokens),
           coalesce(r.cached_tokens + s.cached_tokens, r.cached_tokens, s.cached_tokens), r.queue_ms, r.first_delta_ms, r.duration_ms, r.error
      from jsonb_to_record(record_run.run) r (
               function text, model text, input_tokens int, output_tokens int, cached_tokens int, queue_ms int,
               first_delta_ms int, duration_ms int, error jsonb)
      -- with what the model calls of its steps have cost, which has been charged
      left join lateral (
        select max(x.run ->> 'model') as model, sum((x.run ->> 'input_tokens')::int)::int as input_tokens,
               sum((x.run ->> 'output_tokens')::int)::int as output_tokens,
               sum((x.run ->> 'cached_tokens')::int)::int as cached_tokens
          from bridge.steps x
         where x.question_id = job.question_id and x.attempt = job.attempt) s on job.steps > 0
        on conflict on constraint runs_pkey do nothing;
end
$$;

create or replace function bridge.finish(job bridge.jobs, result jsonb) returns boolean
language plpgsql set search_path = ''
as $$
declare
    outcome text := case when job.cancel then 'cancelled' else result ->> 'outcome' end;
    -- The fault may be the worker's own, such as a model that it cannot reach. Then another one answers, if there is
    -- one, and the question's failures do not grow; twenty times at most.
    is_handed_over boolean := outcome = 'failed' and result ? 'hand_over_in_ms' and job.attempt - job.failures <= 20
        and job.function = any (bridge.answered_elsewhere(job.worker));
    retry_at timestamptz := case
        when outcome = 'released' then now()
        when is_handed_over
            then now() + make_interval(secs => least((result ->> 'hand_over_in_ms')::float8, 86400000) / 1000)
        when outcome = 'failed' and result ? 'retry_in_ms'
            then now() + make_interval(secs => least((result ->> 'retry_in_ms')::float8, 86400000) / 1000)
        end;
    refused text;
begin
    -- so that a deferred trigger fails here and not at the commit, where it would fail the other results too
    set constraints all immediate;
    perform bridge.record_run(job, outcome, coalesce(nullif(result -> 'run', 'null'), '{}'));
    if outcome = 'failed' and result ? 'hand_over_in_ms' then
        -- at once: its slot becomes free, and would be given the next question before it says how it is
        update bridge.workers w set failing = w.failing || job.function
         where w.name = job.worker and job.function <> all (w.failing);
    end if;
    if outcome = 'waiting' then
        perform bridge.set_status(job.question_id, 'waiting', reply => result);
        perform bridge.wait(job, coalesce(nullif(result -> 'waits', 'null'), '[]'));
        return false;
    end if;
    if retry_at is not null then
        -- the text so far stays visible until the next attempt opens the reply again
        perform bridge.set_status(job.question_id, 'queued');
        update bridge.jobs j
           set worker = null, slot = null, lease_until = null, is_confirmed = true, run_at = retry_at,
               failures = j.failures + (outcome = 'failed' and not is_handed_over)::int,
               failed_by = case when outcome = 'failed' then j.worker end
         where j.id = job.id
        returning j.* into job;
        if job.function = any (bridge.answered_elsewhere(job.failed_by)) then
            -- another worker makes the next attempt, and has to learn when it is due
            if not bridge.announce_due(job, job.run_at, job.failed_by) then
                perform bridge.announce_work(array[job.question_id]);
            end if;
        end if;
        return false;
    end if;
    if outcome = 'done' and result ? 'files' then
        refused := bridge.write_files(job, result -> 'files');
        if refused is not null then
            update bridge.runs r
               set error = jsonb_build_object('code', 'files_refused', 'detail', refused)
             where r.question_id = job.question_id and r.attempt = job.attempt;
        end if;
    end if;
    if outcome = 'failed' then
        job.failures := job.failures + 1;
    end if;
    if outcome = 'cancelled' and job.steps > 0 then
        perform bridge.cancel_children(job.question_id);
    end if;
    perform bridge.end_job(
        job, outcome, case when outcome = 'failed' then result -> 'error' end, result, deletes => false);
    return true;
end
$$;

create or replace function public.bridge_finish(worker text, results jsonb, knows_busy boolean default false) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    result record;
    job bridge.jobs;
    state text;
    ids bigint[] := bridge.jobs_of(bridge_finish.results);
    sessions uuid[];
    free bigint[];
    states jsonb := '{}';
    charges jsonb[] := '{}';
    untitled uuid[] := '{}';
    ended uuid[] := '{}';
    finished record;
    deleted bigint[] := '{}';
    released uuid[] := '{}';
    woken uuid[] := '{}';
    is_repeated boolean := false;  -- the answer was lost, and with it what was dispatched
    jobs jsonb[] := '{}';
begin
    -- so that the session's next question comes in the answer
    perform set_config('bridge.finisher', bridge_finish.worker, true);
    if not bridge_finish.knows_busy then  -- an older worker waits, as it always did
        perform from public.sessions s
          where s.id in (select j.session_id from bridge.jobs j where j.id = any (ids))
          order by s.id for no key update;
        perform from bridge.jobs j where j.id = any (ids) order by j.id for update;
    end if;
    -- Nobody waits for a session or a job that its user keeps locked, with a request that takes long: the replies of all
    -- others in the batch would be late.
    sessions := array(
        select s.id from public.sessions s
         where s.id in (select j.session_id from bridge.jobs j where j.id = any (ids))
         order by s.id for no key update skip locked);
    free := array(
        select j.id from bridge.jobs j
         where j.id = any (ids) and j.session_id = any (sessions)
         order by j.id for update skip locked);
    for result in
        select i.*, e.value as item
          from jsonb_array_elements(bridge_finish.results) e
         cross join jsonb_to_record(e.value) i (
                   question_id uuid, attempt int, user_id text, outcome text, run jsonb, name boolean,
                   unconfirmed boolean)
    loop
        select j.* into job from bridge.jobs j
         where j.question_id = result.question_id and j.worker is not distinct from bridge_finish.worker
           and j.attempt = result.attempt and j.id <> all (deleted);
        if job.id is null then
            state := bridge.state_of_unheld(bridge_finish.worker, result.question_id, result.attempt);
            is_repeated := is_repeated or state = 'ok';
            if result.unconfirmed and state in ('lost', 'gone') then
                -- Realtime may bring a dispatch, and a model answer it, before this sees the commit
                state := 'busy';
            elsif state = 'lost' then
                result.run := bridge.price_lost(
                    bridge_finish.worker, result.question_id, result.attempt, coalesce(result.run, '{}'));
            end if;
        elsif job.id = any (free) then
            select f.* into finished from bridge.finish_held(job, result.item) f;
            state := finished.state;
            if finished.has_ended then
                deleted := deleted || job.id;
            end if;
        else
            state := 'busy';
        end if;
        if state = 'busy' and not bridge_finish.knows_busy then
            raise lock_not_available using message = format('A file of session %s is locked', job.session_id),
                hint = 'Send the results again, in smaller batches.';
        end if;
        -- deleting the session does not avoid the charge: the tokens were used
        if state in ('gone', 'lost') or (job.id is not null and state in ('ok', 'refused')) then
            charges := charges || (coalesce(result.run, '{}') || jsonb_build_object(
                'user_id', coalesce(job.user_id::text, result.user_id)));
        end if;
        if job.id is not null and state in ('ok', 'refused') then
            ended := ended || job.user_id;
        end if;
        if result.outcome = 'released' and state = 'ok' and job.id is not null then
            released := released || result.question_id;
        elsif result.outcome = 'waiting' and state = 'ok' and job.id is not null and exists (
            select from bridge.jobs j where j.id = job.id and j.worker is null and j.run_at <= now())
        then
            woken := woken || result.question_id;
        end if;
        if result.name and state = 'ok' and job.id is not null and bridge.begin_title(job.session_id) then
            untitled := untitled || result.question_id;
        end if;
        states := states || jsonb_build_object(result.question_id, state);
    end loop;
    perform bridge.charge_tokens(to_jsonb(charges));  -- the next questions see whether any are left
    -- Not in the subtransaction of each: a row that one transaction locks and its subtransaction deletes stays in all
    -- indexes until the next vacuum.
    delete from bridge.jobs j where j.id = any (deleted);
    perform set_config('bridge.finisher', '', true);
    for job in
        select j.* from bridge.jobs j
         where j.worker is not null and (j.worker, j.run_at) = (bridge_finish.worker, now()) and not j.is_confirmed
    loop
        jobs := array_remove(jobs || bridge.tell(job), null);
    end loop;
    if is_repeated then
        -- Only hints: others may write these jobs right now, and the worker may have been told of them.
        ids := bridge.held_by(bridge_finish.worker, '-infinity');
        jobs := jobs || array(
            select jsonb_build_object('question_id', j.question_id, 'attempt', j.attempt,
                                      'at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint)
              from bridge.jobs j
             where j.id = any (ids) and j.worker is not distinct from bridge_finish.worker
               and not j.is_confirmed and j.run_at <> now());
    end if;
    perform bridge.dispatch(released, released_by => bridge_finish.worker);
    perform bridge.dispatch(woken);
    perform bridge.announce_work(bridge.next_of_users(bridge_finish.worker, ended));
    update bridge.workers w set seen_at = now(), hears_until = now() + w.hears
     where w.name = any (array(
        select x.name from bridge.workers x
         where x.name = bridge_finish.worker and x.capacity > 0
           and x.hears_until > now() and x.hears_until < now() + x.hears / 2
           for update skip locked));
    return bridge.queue_hints(bridge_finish.worker)
        || jsonb_build_object('results', states, 'untitled', to_jsonb(untitled), 'jobs', to_jsonb(jobs));
end
$$;
comment on function public.bridge_finish is
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, parts?, seq?, files?, waits?, error?, retry_in_ms?, hand_over_in_ms?, name?, unconfirmed?, run?}]. Returns {results: {question_id: ok|lost|gone|refused|busy}, untitled: [question_id], jobs: [{question_id, …}], next_in_ms, workers, ready, watches, at_ms}. busy: a user keeps it locked, send it again; a call without `knows_busy` waits instead, but not for files. waits: of the outcome waiting, see bridge.wait. hand_over_in_ms: as retry_in_ms, if another worker can answer. untitled: of those with `name`, the ones whose session needs a title. unconfirmed: it was dispatched a moment ago, so busy if it is not seen yet. jobs: the next questions of these sessions, dispatched to the caller; only {question_id, attempt} of a large one and, if a finish is repeated, of whatever the caller has not confirmed.';

create or replace function public.bridge_status() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'queued', (select count(*) from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'waiting', (select count(*) from bridge.jobs j where j.run_at is null),
        'retrying', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status <> 'waiting' and m.run_at is null),
        'asking', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status = 'waiting'),
        'scheduled', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status <> 'waiting' and m.run_at is not null),
        'running', (select count(*) from bridge.jobs j where j.worker is not null),
        'unknown_function', (
            select count(*) from bridge.jobs j
             where j.worker is null and j.run_at is not null and not exists (
                select from bridge.functions f where f.name = j.function and f.known_until > now())),
        'oldest_seconds', (
            select coalesce(extract(epoch from now() - min(j.run_at)), 0)::float8
              from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'dead_letters', (select count(*) from bridge.dead_letters),
        'workers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                       'name', w.name, 'started_at', w.started_at, 'seen_at', w.seen_at,
                       'running', (select count(*) from bridge.jobs j where j.worker = w.name)) order by w.name), '[]')
              from bridge.live_workers w),
        'last_hour', (
            select jsonb_build_object(
                       'done', count(*) filter (where r.outcome = 'done'),
                       'failed', count(*) filter (where r.outcome = 'failed'),
                       'cancelled', count(*) filter (where r.outcome = 'cancelled'),
                       'input_tokens', coalesce(sum(r.input_tokens), 0),
                       'output_tokens', coalesce(sum(r.output_tokens), 0))
              from bridge.runs r where r.created_at > now() - interval '1 hour'));
end
$$;
comment on function public.bridge_status is
    'The queue, the live workers and the last hour. asking: how many replies wait for an answer, a time or another reply; scheduled: how many questions for their run_at. unknown_function: how many questions wait for a function that no live worker knows.';

create function public.bridge_list_steps(question_id uuid) returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return (
        select jsonb_build_object(
                   'question_id', m.id, 'session_id', m.session_id, 'status', m.status, 'attempt', r.attempt,
                   'run_at', j.run_at, 'steps', (
                       select coalesce(jsonb_agg(to_jsonb(s) - 'question_id' - 'value' || jsonb_build_object(
                                  'bytes', coalesce(octet_length(s.value::text), 0)) order by s.ordinal), '[]')
                         from bridge.steps s where s.question_id = m.id))
          from public.messages m
          left join public.messages r on r.reply_to = m.id
          left join bridge.jobs j on j.question_id = m.id
         where m.id = coalesce(
            (select x.reply_to from public.messages x where x.id = bridge_list_steps.question_id),
            bridge_list_steps.question_id));
end
$$;
comment on function public.bridge_list_steps is
    'The steps of a question (by its own id or its reply''s) in their order, without what they gave, which may be the users''; null: there is no such question.';

create function bridge.trim_steps(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    deleted int;
begin
    delete from bridge.steps s where s.ctid = any (array(
        select x.ctid from bridge.steps x
         where x.created_at < now() - make_interval(days => trim_steps.days)
           and not exists (select from bridge.jobs j where j.question_id = x.question_id)
           and not exists (select from bridge.dead_letters d where d.question_id = x.question_id)
         limit trim_steps.most for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_steps is
    'Deletes up to `most` steps older than `days` whose question has ended and has no dead letter; returns how many.';

drop function public.bridge_trim(int, int, int, int);
create function public.bridge_trim(
    runs_days int default 30,
    dead_letters_days int default 90,
    versions_days int default null,
    max_rows int default 5000,
    steps_days int default 7
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int;
    letters int;
    versions int;
    steps int;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days, bridge_trim.steps_days) < 1 then
        raise exception 'days must be at least 1; null keeps all' using errcode = '22023';
    end if;
    -- An array, because it is computed once. As a joined subquery that locks, it would run again for each row where the
    -- plan is a nested loop, lock other rows, and delete more than max_rows.
    delete from bridge.dead_letters d where d.id = any (array(
        select x.id from bridge.dead_letters x
         where x.created_at < now() - make_interval(days => bridge_trim.dead_letters_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics letters = row_count;
    rest := rest - letters;
    runs := bridge.trim_runs(bridge_trim.runs_days, rest);  -- after the letters, which keep their runs
    rest := rest - runs;
    steps := bridge.trim_steps(bridge_trim.steps_days, rest);
    rest := rest - steps;
    delete from public.code_file_versions v where v.id = any (array(
        select x.id from public.code_file_versions x
         where x.created_at < now() - make_interval(days => bridge_trim.versions_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics versions = row_count;
    rest := rest - versions;
    -- deletions forget ids as well, but one that deletes many sessions leaves more than it forgets
    rest := rest - bridge.forget_ids(rest);
    return jsonb_build_object(
        'runs', runs, 'dead_letters', letters, 'versions', versions, 'steps', steps, 'more', rest = 0,
        'broadcasts', bridge.forget_broadcasts(array(
            select d.id from bridge.deleted_ids d where d.deleted_at > now() - interval '4 days')));
end
$$;

comment on function public.bridge_trim is
    'Deletes attempts, dead letters, steps and earlier versions of files that are older than the given days (null keeps all), at most max_rows rows; and what Realtime still stores of broadcasts about deleted sessions. Returns {runs, dead_letters, versions, steps, broadcasts, more}; if `more`, call it again.';

revoke all on function
    bridge.answer_message, bridge.answer_parts, bridge.begin_children, bridge.cancel_children, bridge.choose_worker, bridge.end_parts, bridge.few_steps_of, bridge.first_parts, bridge.heartbeat, bridge.in_fair_order, bridge.keep_answers, bridge.note_child, bridge.remember, bridge.steps_of, bridge.take_expired, bridge.take_ready, bridge.trim_steps, bridge.wait, bridge.wake, bridge.wake_parents
    from public, anon, authenticated, service_role;
revoke all on function
    public.answer_message, public.bridge_claim, public.bridge_list_steps, public.bridge_step, public.bridge_steps, public.bridge_trim
    from public, anon, authenticated, service_role;
grant execute on function bridge.answer_message, public.answer_message to authenticated;
grant execute on function
    public.bridge_claim, public.bridge_step, public.bridge_steps, public.bridge_list_steps, public.bridge_trim
    to service_role;
