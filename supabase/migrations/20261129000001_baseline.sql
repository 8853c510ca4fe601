-- Made by `python -m devstack.migrations baseline` from supabase/schemas.

-- schemas/tables.sql

-- Sessions, messages and code files: what a frontend reads and writes.
--
-- Every grant is explicit: Supabase's default grants in schema `public` are revoked first.

-- sessions ---------------------------------------------------------------------------------------

create table public.sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
    title text,
    function text not null default 'Chat',
    metadata jsonb not null default '{}',
    on_new_message text not null default 'enqueue',
    last_ordinal bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint sessions_title_size check (octet_length(title) <= 1024),
    constraint sessions_function_size check (octet_length(function) between 1 and 128),
    constraint sessions_metadata_object check (
        jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384
    ),
    constraint sessions_on_new_message check (on_new_message in ('enqueue', 'interrupt', 'reject'))
);
comment on table public.sessions is 'A conversation of one user, answered by one BAML function.';
comment on column public.sessions.function is 'The BAML function that answers. The worker serves only those in BRIDGE_FUNCTIONS.';
comment on column public.sessions.on_new_message is
    'What a new message does while a reply runs: enqueue (wait), interrupt (cancel the reply) or reject (refuse the insert).';
comment on column public.sessions.last_ordinal is 'The ordinal of the newest question; assigned under the row''s lock.';

create index sessions_of_user on public.sessions (user_id, updated_at desc);

alter table public.sessions enable row level security;
revoke all on public.sessions from public, anon, authenticated, service_role;
grant select, delete on public.sessions to authenticated;
grant insert (id, title, function, metadata, on_new_message) on public.sessions to authenticated;
grant update (title, function, metadata, on_new_message) on public.sessions to authenticated;
grant select, insert, update, delete on public.sessions to service_role;

create policy "users have full access to their own sessions" on public.sessions
    for all to authenticated using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));


-- messages ---------------------------------------------------------------------------------------

create table public.messages (
    id uuid primary key default gen_random_uuid(),
    session_id uuid not null references public.sessions (id) on delete cascade,
    ordinal bigint not null,
    role text not null default 'user',
    content text not null default '',
    data jsonb,
    status text not null default 'queued',
    reply_to uuid references public.messages (id) on delete cascade,
    attempt int not null default 0,
    seq int not null default 0,
    error jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint messages_reply_to_key unique (reply_to),
    constraint messages_session_ordinal_key unique (session_id, ordinal),
    constraint messages_role check (role in ('user', 'assistant')),
    constraint messages_status check (status in ('queued', 'running', 'done', 'failed', 'cancelled')),
    -- bridge.check_question reports a question's size with a better message; this one covers every writer
    constraint messages_content_size check (octet_length(content) <= case role when 'user' then 32768 else 1048576 end),
    constraint messages_data_size check (octet_length(data::text) <= 1048576)
);
comment on table public.messages is 'Questions (role user) and replies (role assistant) of a session.';
comment on column public.messages.ordinal is 'The order in the session: questions are even, a reply is its question + 1.';
comment on column public.messages.data is 'On a question: extra named arguments. On a reply: the structured result.';
comment on column public.messages.status is 'queued, running, done, failed or cancelled; a question mirrors its reply.';
comment on column public.messages.attempt is 'The attempt that wrote this reply. It only grows: it is the fence, and orders updates for clients.';
comment on column public.messages.seq is 'The last delta that content and data contain.';
comment on column public.messages.error is 'On a failed reply: {code, message}, safe to show to users.';

alter table public.messages enable row level security;
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated;
grant insert (id, session_id, content, data) on public.messages to authenticated;
grant select, insert, update, delete on public.messages to service_role;

create policy "users read messages of their own sessions" on public.messages
    for select to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));
create policy "users ask in their own sessions" on public.messages
    for insert to authenticated
    with check (
        role = 'user'
        and exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid()))
    );


-- code files -------------------------------------------------------------------------------------

create table public.code_files (
    id uuid primary key default gen_random_uuid(),
    session_id uuid not null references public.sessions (id) on delete cascade,
    path text not null,
    content text not null default '',
    language text,
    revision int not null default 1,
    message_id uuid references public.messages (id) on delete set null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint code_files_session_path_key unique (session_id, path),
    constraint code_files_path check (octet_length(path) between 1 and 512 and path !~ '[[:cntrl:]]'),
    constraint code_files_content_size check (octet_length(content) <= 262144),
    constraint code_files_language_size check (octet_length(language) <= 64)
);
comment on table public.code_files is 'The current code files of a session.';
comment on column public.code_files.revision is 'Grows with every change of the content.';
comment on column public.code_files.message_id is 'The reply that wrote it last; null if a user did.';

create index code_files_of_message on public.code_files (message_id);

alter table public.code_files enable row level security;
revoke all on public.code_files from public, anon, authenticated, service_role;
grant select, delete on public.code_files to authenticated;
grant insert (id, session_id, path, content, language) on public.code_files to authenticated;
-- session_id: an upsert through PostgREST sets every column it was sent. bridge.revise_file refuses a real change.
grant update (session_id, path, content, language) on public.code_files to authenticated;
grant select, insert, update, delete on public.code_files to service_role;

create policy "users have full access to files of their own sessions" on public.code_files
    for all to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())))
    with check (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));

create table public.code_file_versions (
    id bigint generated always as identity primary key,
    file_id uuid not null references public.code_files (id) on delete cascade,
    session_id uuid not null references public.sessions (id) on delete cascade,
    path text not null,
    content text not null,
    language text,
    revision int not null,
    conflict boolean not null default false,
    message_id uuid references public.messages (id) on delete set null,
    created_at timestamptz not null default now()
);
comment on table public.code_file_versions is
    'Earlier contents of code files, and contents from replies that lost to a user''s edit.';
comment on column public.code_file_versions.revision is
    'The revision this was. For a conflict: the revision the reply started from (0: the file did not exist).';
comment on column public.code_file_versions.conflict is
    'A reply wrote this while the user edited the file; the user''s text was kept.';

create index code_file_versions_of_file on public.code_file_versions (file_id, revision desc);
create index code_file_versions_of_session on public.code_file_versions (session_id);
create index code_file_versions_of_message on public.code_file_versions (message_id);
create index code_file_versions_by_time on public.code_file_versions (created_at);

alter table public.code_file_versions enable row level security;
revoke all on public.code_file_versions from public, anon, authenticated, service_role;
grant select on public.code_file_versions to authenticated;
grant select, insert, update, delete on public.code_file_versions to service_role;

create policy "users read versions of their own sessions" on public.code_file_versions
    for select to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));


-- for frontends that prefer postgres_changes -------------------------------------------------------

-- Realtime never filters DELETE by RLS: the ids of deleted rows reach every subscriber (only the primary key, as the
-- replica identity is the default).
do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
    alter publication supabase_realtime add table public.sessions, public.messages, public.code_files;
end
$$;


-- schemas/bookkeeping.sql

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
    constraint jobs_question_id_key unique (question_id),
    constraint jobs_held_is_head check (worker is null or (run_at is not null and lease_until is not null))
) with (fillfactor = 70);  -- room for beats to update in place
comment on table bridge.jobs is 'Unfinished questions. A finished job''s row is deleted.';
comment on column bridge.jobs.user_id is 'The session''s user, for the limit on unfinished replies.';
comment on column bridge.jobs.run_at is
    'The earliest time it may run. Only the head of a session has one; null: it waits behind an earlier question.';
comment on column bridge.jobs.worker is 'The worker that holds it until lease_until; null: none.';
comment on column bridge.jobs.attempt is 'The fence: every write of a worker carries (worker, attempt).';
comment on column bridge.jobs.failures is 'Attempts that failed or whose worker vanished; released ones do not count.';
comment on column bridge.jobs.cancel is 'The user asked to stop; whichever worker touches the job next ends it.';

-- At most one head per session, and only a head can be held: two jobs of one session never run at once.
create unique index jobs_head_of_session on bridge.jobs (session_id) where run_at is not null;
create index jobs_ready on bridge.jobs (run_at, id) where worker is null and run_at is not null;
create index jobs_in_session on bridge.jobs (session_id, ordinal);
create index jobs_of_user on bridge.jobs (user_id);
-- A beat changes neither column, so its update stays in its page.
create index jobs_held on bridge.jobs (run_at, id) where worker is not null;

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
    constraint runs_outcome check (outcome in ('done', 'failed', 'cancelled', 'released', 'lost'))
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
    constraint dead_letters_question_id_key unique (question_id)
);
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
    constraint workers_lease check (lease > interval '0')
) with (fillfactor = 50);
comment on table bridge.workers is 'Workers by their names, which are unique to a process, and when each last called.';
comment on column bridge.workers.lease is 'How long the worker holds a job without extending it.';
comment on column bridge.workers.horizon is
    'The worker looks for jobs with a run_at from here on: before every run_at that was visible at horizon_set_at.';
comment on column bridge.workers.horizon_set_at is 'When the worker last looked at all jobs and set its horizon.';

create view bridge.live_workers with (security_invoker = true) as
select w.name, w.started_at, w.seen_at from bridge.workers w
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


-- schemas/announce.sql

-- Broadcasts on private Realtime topics: `session:<id>` and `user:<id>` for frontends, `bridge:inbox` for workers.
-- A broadcast is a hint: it may be lost, and a failing one never stops a row.

create function bridge.announce(topic text, event text, payload jsonb) returns void
language plpgsql security definer set search_path = '' set lock_timeout = '100ms'
as $$
begin
    perform realtime.send(announce.payload, announce.event, announce.topic, true);
exception when others then
    raise warning 'bridge.announce: % on %: %', announce.event, announce.topic, sqlerrm;
end
$$;
comment on function bridge.announce is 'Sends a broadcast on a private topic when the transaction commits; never fails.';

create function bridge.event_payload(record jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
    omitted text[];
begin
    select array_agg(f.key order by f.key) into omitted
      from jsonb_each(event_payload.record) f
     where octet_length(f.value::text) > 32768;
    if omitted is null then
        return event_payload.record;
    end if;
    return event_payload.record - omitted || jsonb_build_object('omitted', to_jsonb(omitted));
end
$$;
comment on function bridge.event_payload is
    'The payload of an event about a row: fields above 32 KiB are left out and listed in `omitted`.';

create function bridge.announce_work(question_ids uuid[]) returns void
language plpgsql set search_path = ''
as $$
begin
    if cardinality(announce_work.question_ids) > 0 then
        -- A hint needs no more than the first hundred. Realtime may deliver it a moment before other transactions see
        -- the commit; `xid` tells a worker whether its claim has seen this one.
        perform bridge.announce('bridge:inbox', 'work', jsonb_build_object(
            'question_ids', to_jsonb(announce_work.question_ids[1:100]),
            'xid', pg_current_xact_id()::text::bigint));
    end if;
end
$$;
comment on function bridge.announce_work is 'Wakes the workers.';

create function bridge.announce_row() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    changed jsonb := to_jsonb(new);
begin
    perform bridge.announce(
        tg_argv[0] || ':' || (changed ->> (tg_argv[0] || '_id')), tg_argv[1], bridge.event_payload(changed));
    return null;
end
$$;
comment on function bridge.announce_row is
    'Trigger arguments (topic, event): announces the row on the topic of its session (session) or its user (user).';

create trigger announce_insert after insert on public.messages
    for each row execute function bridge.announce_row('session', 'message');
-- not for a checkpoint, which changes neither column
create trigger announce_update after update on public.messages
    for each row when (old.status is distinct from new.status or old.attempt is distinct from new.attempt)
    execute function bridge.announce_row('session', 'message');

create trigger announce_insert after insert on public.code_files
    for each row execute function bridge.announce_row('session', 'file');
create trigger announce_update after update on public.code_files
    for each row when (old.revision is distinct from new.revision or old.path is distinct from new.path
                       or old.language is distinct from new.language)
    execute function bridge.announce_row('session', 'file');

create trigger announce_insert after insert on public.sessions
    for each row execute function bridge.announce_row('user', 'session');
-- not for every message, which changes only last_ordinal and updated_at
create trigger announce_update after update on public.sessions
    for each row when ((old.title, old.function, old.metadata, old.on_new_message)
                       is distinct from (new.title, new.function, new.metadata, new.on_new_message))
    execute function bridge.announce_row('user', 'session');

create function bridge.announce_order() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- one lookup in sessions_of_user: the session of an ongoing conversation is already the newest
    if exists (
        select from public.sessions s
         where s.user_id = new.user_id and s.updated_at > old.updated_at and s.id <> new.id
    ) then
        perform bridge.announce('user:' || new.user_id, 'session', bridge.event_payload(to_jsonb(new)));
    end if;
    return null;
end
$$;
comment on function bridge.announce_order is
    'Announces a session that a new message moves up in its user''s list, which is sorted newest first.';

create trigger announce_order after update on public.sessions
    for each row when (old.last_ordinal is distinct from new.last_ordinal)
    execute function bridge.announce_order();

create function bridge.announce_deleted_sessions() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- not when the user is deleted: then no one is left to receive it
    perform bridge.announce('user:' || d.user_id, 'session_deleted', jsonb_build_object('id', d.id))
       from deleted d
      where exists (select from auth.users u where u.id = d.user_id);
    return null;
end
$$;
comment on function bridge.announce_deleted_sessions is 'Announces deleted sessions on the topics of their users.';

create trigger announce_delete after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.announce_deleted_sessions();

create function bridge.announce_deleted_files() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- one event per session; not when the session is deleted, which announces itself
    perform bridge.announce(
                'session:' || d.session_id, 'files_deleted', bridge.event_payload(jsonb_build_object('ids', d.ids)))
       from (select f.session_id, jsonb_agg(f.id order by f.id) as ids from deleted f group by f.session_id) d
      where exists (select from public.sessions s where s.id = d.session_id);
    return null;
end
$$;
comment on function bridge.announce_deleted_files is 'Announces deleted code files on the topics of their sessions.';

create trigger announce_delete after delete on public.code_files
    referencing old table as deleted
    for each statement execute function bridge.announce_deleted_files();


-- schemas/limits.sql

-- Limits: no server stands in front of the tables, so the database enforces them.
--
-- Counters are separate from the rows they count: deleting a session gives no allowance back.

create table bridge.limits (
    name text not null,
    user_id uuid references auth.users (id) on delete cascade,
    value bigint,
    constraint limits_key unique nulls not distinct (name, user_id),
    constraint limits_name check (name in (
        'messages_per_minute', 'unfinished_replies', 'tokens_per_day', 'sessions', 'files_per_session',
        'versions_per_file', 'message_bytes', 'file_bytes')),
    constraint limits_value check (value >= 0)
);
comment on table bridge.limits is
    'Limits for everybody (no user_id) and for single users. A null value: only the columns'' own limits apply.';

create index limits_of_user on bridge.limits (user_id);

-- Rows, though this is a schema file: they are part of the schema's state, and the comparison of schemas/ with
-- migrations/ covers them. `supabase db diff` does not see rows: write a change into the migration by hand.
insert into bridge.limits (name, value) values
    ('messages_per_minute', 30),
    ('unfinished_replies', 20),
    ('tokens_per_day', null),
    ('sessions', 1000),
    ('files_per_session', 200),
    ('versions_per_file', 50),
    ('message_bytes', 32768),
    ('file_bytes', 262144);

create table bridge.usage (
    user_id uuid primary key references auth.users (id) on delete cascade,
    minute_at timestamptz not null default now(),
    messages int not null default 0,
    day date not null default (now() at time zone 'utc')::date,
    tokens bigint not null default 0
) with (fillfactor = 50);
comment on table bridge.usage is
    'What a user has used: messages in the minute that began at minute_at, tokens on the (UTC) day.';

revoke all on bridge.limits, bridge.usage from public, anon, authenticated, service_role;

create function bridge.limit_of(name text, user_id uuid) returns bigint
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select l.value from bridge.limits l
         where l.name = limit_of.name and (l.user_id = limit_of.user_id or l.user_id is null)
         order by l.user_id nulls last limit 1);
end
$$;
comment on function bridge.limit_of is 'The user''s own limit, or the one for everybody; null: no limit.';

create function bridge.refuse(message text, name text, value bigint, ends_at timestamptz default null) returns void
language plpgsql set search_path = ''
as $$
begin
    raise exception '%', refuse.message using
        errcode = 'PT429',
        detail = jsonb_strip_nulls(jsonb_build_object(
            'limit', refuse.name, 'value', refuse.value, 'ends_at', refuse.ends_at))::text,
        hint = coalesce(
            format('Try again in %s s.', ceil(extract(epoch from refuse.ends_at - now()))::int),
            'Wait for a reply to finish, or delete something.');
end
$$;
comment on function bridge.refuse is 'Raises HTTP 429 with the limit and when it ends.';

create function bridge.charge(user_id uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    used bridge.usage;
    most bigint;
begin
    -- the row's lock makes concurrent inserts of one user wait for each other, and no others
    insert into bridge.usage as u (user_id, messages) values (charge.user_id, 1)
    on conflict on constraint usage_pkey do update
       set messages = case when u.minute_at > now() - interval '1 minute' then u.messages + 1 else 1 end,
           minute_at = case when u.minute_at > now() - interval '1 minute' then u.minute_at else now() end
    returning * into used;

    most := bridge.limit_of('messages_per_minute', charge.user_id);
    if used.messages > most then
        perform bridge.refuse(format('Rate limit: %s messages per minute', most),
                              'messages_per_minute', most, used.minute_at + interval '1 minute');
    end if;
    most := bridge.limit_of('unfinished_replies', charge.user_id);
    if most is not null and (select count(*) from bridge.jobs j where j.user_id = charge.user_id) >= most then
        perform bridge.refuse(format('Too many replies in progress (limit %s)', most), 'unfinished_replies', most);
    end if;
    most := bridge.limit_of('tokens_per_day', charge.user_id);
    if used.day = (now() at time zone 'utc')::date and used.tokens >= most then
        perform bridge.refuse(format('Daily limit reached: %s tokens', most), 'tokens_per_day', most,
                              ((used.day + 1)::timestamp at time zone 'utc'));
    end if;
end
$$;
comment on function bridge.charge is 'Counts a question of a user, or refuses it.';

create function bridge.charge_tokens(runs jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    spent record;
begin
    -- in one order, and after every other lock
    for spent in
        select r.user_id, sum(coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0)) as tokens
          from jsonb_to_recordset(charge_tokens.runs) r (user_id uuid, input_tokens bigint, output_tokens bigint)
         group by r.user_id order by r.user_id
    loop
        insert into bridge.usage as u (user_id, tokens)
        select x.id, spent.tokens from auth.users x where x.id = spent.user_id and spent.tokens <> 0
        on conflict on constraint usage_pkey do update
           set tokens = case when u.day = excluded.day then u.tokens else 0 end + excluded.tokens,
               day = excluded.day;
    end loop;
end
$$;
comment on function bridge.charge_tokens is 'Counts the tokens of runs [{user_id, input_tokens?, output_tokens?}] for today.';

create function bridge.check_sessions() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('sessions', new.user_id);
begin
    if most is null then
        return new;
    end if;
    -- the lock keeps concurrent inserts of this user from counting past each other
    insert into bridge.usage as u (user_id) select x.id from auth.users x where x.id = new.user_id
    on conflict on constraint usage_pkey do update set messages = u.messages;
    if (select count(*) from public.sessions s where s.user_id = new.user_id) >= most then
        perform bridge.refuse(format('Too many sessions (limit %s)', most), 'sessions', most);
    end if;
    return new;
end
$$;
comment on function bridge.check_sessions is 'Refuses a session beyond the limit.';

create trigger check_sessions before insert on public.sessions
    for each row execute function bridge.check_sessions();


-- schemas/guards.sql

-- Input guards: what a user writes must neither stop a worker nor reach another user.
--
-- - JSON that Postgres accepts and a worker cannot read (nested a thousand levels deep, a number of five thousand
--   digits) would make the whole answer of a claim unreadable, for every worker that claims it.
-- - Ids of deleted rows are public (postgres_changes). A user who inserts one again, while a worker is still answering
--   the deleted question, must not receive that answer in a reply or on the session's topic.

create function bridge.is_readable(value jsonb) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
    return is_readable.value is null or not (
        jsonb_path_exists(is_readable.value, 'strict $.**{33}')
        or jsonb_path_exists(
            is_readable.value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'));
end
$$;
comment on function bridge.is_readable is
    'Whether every JSON parser can read a value: at most 32 levels deep, numbers within the range of a double.';

create function bridge.check_json() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    value jsonb := to_jsonb(new) -> tg_argv[0];
begin
    if not bridge.is_readable(value) then
        raise exception '"%" is nested too deeply or contains a number that is too large', tg_argv[0]
            using errcode = 'PT400', hint = 'Use at most 32 levels and numbers up to 1e308. Send larger numbers as text.';
    end if;
    return new;
end
$$;
comment on function bridge.check_json is 'Trigger argument (column): refuses JSON that a worker could not read.';

create trigger check_json before insert or update of metadata on public.sessions
    for each row when (new.metadata <> '{}') execute function bridge.check_json('metadata');
create trigger check_json before insert on public.messages
    for each row when (new.data is not null) execute function bridge.check_json('data');

create function bridge.forget_ids(most int) returns int
language plpgsql set search_path = ''
as $$
declare
    forgotten int;
begin
    delete from bridge.deleted_ids i where i.id = any (array(
        select x.id from bridge.deleted_ids x where x.deleted_at < now() - interval '7 days'
         order by x.deleted_at limit forget_ids.most for update skip locked));
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;
comment on function bridge.forget_ids is 'Deletes up to `most` of the ids that are older than a week; returns how many.';

create function bridge.note_deleted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if tg_table_name = 'sessions' then
        insert into bridge.deleted_ids (id) select d.id from deleted d order by d.id on conflict do nothing;
    else
        -- a week: Supabase's tokens do not live longer, and no reply takes as long
        insert into bridge.deleted_ids (id)
        select d.id from deleted d where d.role = 'user' and d.updated_at > now() - interval '7 days' order by d.id
        on conflict do nothing;
    end if;
    perform bridge.forget_ids(500);
    return null;
end
$$;
comment on function bridge.note_deleted is 'Keeps the ids of deleted sessions and questions for a week.';

create trigger note_deleted after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();
create trigger note_deleted after delete on public.messages
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();

create function bridge.refuse_deleted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if exists (select from bridge.deleted_ids d where d.id = new.id) then
        raise exception 'Id % belonged to a deleted row; use a new one', new.id using errcode = 'PT409';
    end if;
    return new;
end
$$;
comment on function bridge.refuse_deleted is
    'No user gets the topic of another''s deleted session, and no question the fence (question, worker, attempt) of another.';

-- after the insert, which waits for a concurrent deletion of the same id
create trigger refuse_deleted after insert on public.sessions
    for each row execute function bridge.refuse_deleted();
create trigger refuse_deleted before insert on public.messages
    for each row when (new.role = 'user') execute function bridge.refuse_deleted();


-- schemas/jobs.sql

-- A job from its start to its end.
--
-- Locks are taken in one order everywhere: sessions (for no key update: `for update` would deadlock with the key share
-- locks of foreign keys), then bridge.jobs by id, then messages.
-- Whatever adds, ends or reorders the jobs of a session holds the session's lock.

create function bridge.is_transient(state text) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
    -- Rollback (40), resources (53), locks (55), an operator (57), the system (58). One such error of one job fails
    -- the whole batch, which the worker then repeats: a lasting error in this list would let one job block all others.
    -- So 08 and 0A (from a trigger's foreign server or statement) and XX (from a damaged row) are not in it. The
    -- worker's own list adds them and 25: it judges whole calls, which also fail because of a failover, a read-only
    -- project or a schema change.
    return is_transient.state ~ '^(40|53|55|57|58)';
end
$$;
comment on function bridge.is_transient is 'Whether an error of this SQLSTATE goes away by itself.';

create function bridge.lock_session(session_id uuid, owner uuid default null) returns public.sessions
language plpgsql set search_path = ''
as $$
declare
    session public.sessions;
begin
    -- Rows of one statement lock their sessions in the order of the rows, bridge_finish in the order of their ids:
    -- a lock against that order is never waited for, or the two could deadlock.
    if lock_session.session_id < nullif(current_setting('bridge.last_session', true), '')::uuid then
        select s.* into session from public.sessions s
         where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
           for no key update skip locked;
        if not found and exists (
            select from public.sessions s
             where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
        ) then
            raise exception 'Session % is busy', lock_session.session_id
                using errcode = 'PT409', hint = 'Try again, with the rows sorted by session_id.';
        end if;
    else
        select s.* into session from public.sessions s
         where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
           for no key update;
        perform set_config('bridge.last_session', lock_session.session_id::text, true);
    end if;
    return session;
end
$$;
comment on function bridge.lock_session is
    'Locks a session (only one of this owner, if given) for adding to it; returns null if there is no such session.';

create function bridge.set_status(
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
           seq = coalesce((set_status.reply ->> 'seq')::int, m.seq),
           updated_at = clock_timestamp()
     where m.reply_to = set_status.question_id;
    update public.messages m
       set status = set_status.status, error = set_status.error, updated_at = clock_timestamp()
     where m.id = set_status.question_id;
end
$$;
comment on function bridge.set_status is
    'Gives a question and its reply their status, and the reply its text {content?, data?, seq?}. The caller holds session and job.';

create function bridge.force_status(question_id uuid, status text, error jsonb, attempt int) returns void
language plpgsql set search_path = ''
as $$
declare
    row_id uuid;
begin
    foreach row_id in array array[
        (select r.id from public.messages r where r.reply_to = force_status.question_id), force_status.question_id]
    loop
        begin
            update public.messages m
               set status = force_status.status, error = force_status.error, updated_at = clock_timestamp(),
                   attempt = case m.role
                       when 'assistant' then greatest(m.attempt, force_status.attempt) else m.attempt end
             where m.id = row_id;
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            -- the row stays as it is until the trigger is fixed and the question retried
            raise warning 'bridge: message % cannot be ended: % %', row_id, sqlstate, sqlerrm;
        end;
    end loop;
end
$$;
comment on function bridge.force_status is
    'Gives a reply and its question their status, each by itself, where a trigger of the project refuses one of them.';

create function bridge.end_job(job bridge.jobs, status text, error jsonb default null, reply jsonb default null)
returns void
language plpgsql set search_path = ''
as $$
begin
    begin
        perform bridge.set_status(
            job.question_id, end_job.status, end_job.error, job.attempt, coalesce(end_job.reply, '{}'));
    exception when others then
        -- a caller without a result reports the error; a result is first tried again with less in it
        if end_job.reply is null or end_job.status = 'done' or end_job.reply ?| array['content', 'data', 'seq']
           or bridge.is_transient(sqlstate) then
            raise;
        end if;
        perform bridge.force_status(job.question_id, end_job.status, end_job.error, job.attempt);
    end;
    if end_job.status = 'failed' then
        insert into bridge.dead_letters as d (question_id, session_id, attempt, failures, error)
        values (job.question_id, job.session_id, job.attempt, job.failures, end_job.error)
        on conflict on constraint dead_letters_question_id_key do update
           set attempt = excluded.attempt, failures = excluded.failures, error = excluded.error, created_at = now();
    end if;
    delete from bridge.jobs j where j.id = job.id;
end
$$;
comment on function bridge.end_job is
    'The only way a job ends: reply and question get the status, the job is deleted. A failed job is deleted even if a trigger refuses its rows. The caller holds session and job.';

create function bridge.promote() returns trigger
language plpgsql security definer set search_path = ''
-- A plan made while the queue was short reads the whole table, and its connection keeps it: with the dead rows that an
-- open snapshot leaves, that took 250 ms a call. So this walks an index, whatever the statistics say.
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    heads uuid[];
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
        update bridge.jobs j set run_at = now() from head where j.id = head.id returning j.question_id
    )
    select array_agg(p.question_id) into heads from promoted p;
    perform bridge.announce_work(heads);
    return null;
end
$$;
comment on function bridge.promote is 'After any delete of a job, the next job of its session becomes the head.';

create trigger promote after delete on bridge.jobs
    referencing old table as ended
    for each statement execute function bridge.promote();

create function bridge.request_cancel(job bridge.jobs) returns text
language plpgsql set search_path = ''
as $$
begin
    if job.worker is not null and job.lease_until >= now() then
        if not job.cancel then
            update bridge.jobs j set cancel = true where j.id = job.id;
            perform bridge.announce('bridge:inbox', 'cancel', jsonb_build_object('question_id', job.question_id));
        end if;
        return 'cancelling';
    end if;
    perform bridge.end_job(job, 'cancelled');
    return 'cancelled';
end
$$;
comment on function bridge.request_cancel is
    'Asks the worker that holds a job to end it; ends a job that no worker holds. The caller holds session and job.';

create function bridge.enqueue(question public.messages, attempt int, charged boolean default true) returns boolean
language plpgsql set search_path = ''
as $$
declare
    waits boolean := exists (
        select from bridge.jobs j where j.session_id = question.session_id and j.run_at is not null);
    owner uuid := (select s.user_id from public.sessions s where s.id = question.session_id);
begin
    if enqueue.charged then
        perform bridge.charge(owner);
    end if;
    insert into bridge.jobs (question_id, session_id, user_id, ordinal, attempt, run_at)
    values (question.id, question.session_id, owner, question.ordinal, enqueue.attempt,
            case when not waits then now() end);
    return not waits;
end
$$;
comment on function bridge.enqueue is
    'Adds a job for a question and charges its user; true if it may run at once. The caller holds the session.';

create function bridge.requeue(question public.messages, charged boolean) returns boolean
language plpgsql set search_path = ''
as $$
begin
    perform bridge.set_status(question.id, 'queued');
    delete from bridge.dead_letters d where d.question_id = question.id;
    return bridge.enqueue(question, coalesce(
        (select r.attempt from public.messages r where r.reply_to = question.id),
        -- an attempt whose reply could not be opened has left only a run
        (select max(r.attempt) from bridge.runs r where r.question_id = question.id),
        0), requeue.charged);
end
$$;
comment on function bridge.requeue is
    'Starts a new attempt at an ended question; true if it may run at once. The caller holds the session.';

create function bridge.end_jobs_of_session() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- in the order of the locks: session, jobs, messages; the cascade would take the messages first
    delete from bridge.jobs j where j.session_id = old.id;
    return old;
end
$$;
comment on function bridge.end_jobs_of_session is 'Deletes the jobs of a session before the cascade deletes its messages.';

create trigger end_jobs before delete on public.sessions
    for each row execute function bridge.end_jobs_of_session();


-- schemas/questions.sql

-- From an insert to a job, and what a user may ask for afterwards: cancel and retry.

create function bridge.refuse_if_busy(session public.sessions) returns void
language plpgsql set search_path = ''
as $$
begin
    if session.on_new_message = 'reject'
       and exists (select from bridge.jobs j where j.session_id = session.id) then
        raise exception 'A reply is still running in this session'
            using errcode = 'PT409', hint = 'Wait for it to finish, or cancel it with cancel_message.';
    end if;
end
$$;
comment on function bridge.refuse_if_busy is
    'Refuses a question in a session that rejects questions while one is unfinished. The caller holds the session.';

create function bridge.check_question(question public.messages, owner uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('message_bytes', check_question.owner);
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
end
$$;
comment on function bridge.check_question is 'Refuses a question that is empty or too long.';

create function bridge.accept_question() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    session public.sessions;
begin
    if new.role <> 'user' then
        return new;
    end if;
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
    perform bridge.refuse_if_busy(session);
    new.ordinal := session.last_ordinal + 2;
    update public.sessions s set last_ordinal = new.ordinal, updated_at = clock_timestamp() where s.id = session.id;
    new.status := 'queued';
    new.reply_to := null;
    new.attempt := 0;
    new.seq := 0;
    new.error := null;
    new.created_at := now();
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.accept_question is 'Checks a question and gives it its place in the session.';

create trigger accept_question before insert on public.messages
    for each row execute function bridge.accept_question();

create function bridge.enqueue_questions() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    question public.messages;
    session public.sessions;
    running bridge.jobs;
    ready uuid[] := '{}';
begin
    for question in select n.* from added n where n.role = 'user' order by n.session_id, n.ordinal loop
        select s.* into session from public.sessions s where s.id = question.session_id;
        perform bridge.refuse_if_busy(session);  -- with an earlier row of the same statement
        if session.on_new_message = 'interrupt' then
            select j.* into running from bridge.jobs j
             where j.session_id = session.id and j.run_at is not null and j.attempt > 0
               for update;
            if found then
                perform bridge.request_cancel(running);
            end if;
        end if;
        if bridge.enqueue(question, 0) then
            ready := ready || question.id;
        end if;
    end loop;
    perform bridge.announce_work(ready);
    return null;
end
$$;
comment on function bridge.enqueue_questions is 'Makes a job of every new question and wakes the workers.';

create trigger enqueue_questions after insert on public.messages
    referencing new table as added
    for each statement execute function bridge.enqueue_questions();

create function bridge.touch_session() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.touch_session is 'Keeps updated_at current.';

create trigger touch_session before update on public.sessions
    for each row execute function bridge.touch_session();


-- cancel and retry -------------------------------------------------------------------------------

create function bridge.own_question(message_id uuid) returns public.messages
language plpgsql set search_path = ''
as $$
declare
    question public.messages;
begin
    perform from public.sessions s
      join public.messages m on m.session_id = s.id
      where m.id = own_question.message_id and s.user_id = (select auth.uid())
      for no key update of s;
    if not found then
        raise exception 'Message % does not exist or is not yours', own_question.message_id using errcode = 'PT404';
    end if;
    select q.* into question
      from public.messages m
      join public.messages q on q.id = coalesce(m.reply_to, m.id)
     where m.id = own_question.message_id;
    return question;
end
$$;
comment on function bridge.own_question is
    'The caller''s question, by its own id or its reply''s, with the session locked.';

create function bridge.cancel_message(message_id uuid) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(cancel_message.message_id);
    job bridge.jobs;
begin
    select j.* into job from bridge.jobs j where j.question_id = question.id for update;
    if not found then
        return question.status;
    end if;
    return bridge.request_cancel(job);
end
$$;
comment on function bridge.cancel_message is 'See public.cancel_message.';

create function public.cancel_message(message_id uuid) returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.cancel_message(cancel_message.message_id);
end
$$;
comment on function public.cancel_message is
    'Stops the reply to one of your messages (by the id of the question or of the reply). Returns cancelled, cancelling (the worker has been asked to stop), or the status it had already ended with.';

create function bridge.retry_message(message_id uuid) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(retry_message.message_id);
begin
    if exists (select from bridge.jobs j where j.question_id = question.id) then
        return question.status;
    end if;
    if bridge.requeue(question, true) then
        perform bridge.announce_work(array[question.id]);
    end if;
    return 'queued';
end
$$;
comment on function bridge.retry_message is 'See public.retry_message.';

create function public.retry_message(message_id uuid) returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.retry_message(retry_message.message_id);
end
$$;
comment on function public.retry_message is
    'Regenerates the reply to one of your messages (by the id of the question or of the reply). Returns queued, or the status of the attempt in progress.';


-- schemas/code_files.sql

-- Code files: written by users, and by replies when they finish.

create function bridge.check_files(session_id uuid, path text) returns void
language plpgsql set search_path = ''
as $$
declare
    session public.sessions := bridge.lock_session(check_files.session_id, auth.uid());
    most bigint;
begin
    if session.id is null then
        raise exception 'Session % does not exist or is not yours', check_files.session_id using errcode = '42501';
    end if;
    most := bridge.limit_of('files_per_session', session.user_id);
    if (select count(*) from public.code_files f where f.session_id = check_files.session_id) >= most
       and not exists (
           select from public.code_files f
            where f.session_id = check_files.session_id and f.path = check_files.path)
    then
        perform bridge.refuse(format('Too many files in this session (limit %s)', most), 'files_per_session', most);
    end if;
end
$$;
comment on function bridge.check_files is
    'Refuses a file beyond the limit, or in another user''s session. Locks the session. An upsert of an existing path adds no file.';

create function bridge.trim_versions(file_id uuid, session_id uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('versions_per_file', (
        select s.user_id from public.sessions s where s.id = trim_versions.session_id));
begin
    if most is not null then
        delete from public.code_file_versions v
         where v.file_id = trim_versions.file_id and v.id <= (
            select x.id from public.code_file_versions x where x.file_id = trim_versions.file_id
             order by x.id desc limit 1 offset most);
    end if;
end
$$;
comment on function bridge.trim_versions is 'Deletes the oldest versions of a file beyond the limit.';

create function bridge.check_file_size(session_id uuid, content text) returns void
language plpgsql set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('file_bytes', (
        select s.user_id from public.sessions s where s.id = check_file_size.session_id));
begin
    if octet_length(check_file_size.content) > most then
        raise exception 'File too large: % bytes (limit %)', octet_length(content), most
            using errcode = 'PT413', hint = 'Split it into smaller files.';
    end if;
end
$$;
comment on function bridge.check_file_size is 'Refuses a file that is too large.';

create function bridge.revise_file() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        perform bridge.check_files(new.session_id, new.path);
        new.revision := 1;
        new.created_at := now();
    elsif new.session_id <> old.session_id and auth.uid() is not null then
        raise exception 'A file cannot move to another session'
            using errcode = 'PT400', hint = 'Add it to the other session instead.';
    elsif new.content is distinct from old.content then
        new.revision := old.revision + 1;
        insert into public.code_file_versions (file_id, session_id, path, content, language, revision, message_id)
        values (old.id, old.session_id, old.path, old.content, old.language, old.revision, old.message_id);
        perform bridge.trim_versions(old.id, old.session_id);
        if new.message_id is not distinct from old.message_id and auth.uid() is not null then
            new.message_id := null;  -- a user's edit: no reply wrote this
        end if;
    else
        new.revision := old.revision;
    end if;
    -- only here: the limit of another user's session must not leak
    perform bridge.check_file_size(new.session_id, new.content);
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.revise_file is 'Checks a file, and keeps its earlier content as a version.';

create trigger revise_file before insert or update on public.code_files
    for each row execute function bridge.revise_file();

create function bridge.write_file(
    job bridge.jobs, reply_id uuid, path text, content text, language text, revision int
) returns void
language plpgsql set search_path = ''
as $$
declare
    file public.code_files;
begin
    for round in 1 .. 5 loop
        select f.* into file from public.code_files f
         where f.session_id = job.session_id and f.path = write_file.path for update;
        exit when found;
        -- A user who renames a file takes no lock on the session. The insert waits for a concurrent rename and then
        -- finds the path taken; the next round finds the file that took it.
        insert into public.code_files (session_id, path, content, language, message_id)
        values (job.session_id, write_file.path, write_file.content, write_file.language, write_file.reply_id)
            on conflict on constraint code_files_session_path_key do nothing;
        if found then
            return;
        end if;
    end loop;
    if file.id is null then
        raise exception 'the path keeps being taken and freed' using errcode = '23505';
    end if;
    if file.revision = write_file.revision or file.message_id = write_file.reply_id then
        update public.code_files f
           set content = write_file.content, language = coalesce(write_file.language, f.language),
               message_id = write_file.reply_id
         where f.id = file.id;
    elsif file.content <> write_file.content then
        -- the user edited it, or added it, meanwhile: the user's text stays
        insert into public.code_file_versions
            (file_id, session_id, path, content, language, revision, conflict, message_id)
        values (file.id, file.session_id, file.path, write_file.content, write_file.language,
                coalesce(write_file.revision, 0), true, write_file.reply_id);
        perform bridge.announce('session:' || file.session_id, 'file',
                                bridge.event_payload(to_jsonb(file)) || jsonb_build_object('conflict', true));
    end if;
end
$$;
comment on function bridge.write_file is
    'Writes a file of a reply; `revision` is the one that the reply started from. If the user changed the file since, the reply''s text becomes a version marked as a conflict.';

create function bridge.write_files(job bridge.jobs, files jsonb) returns text
language plpgsql set search_path = ''
as $$
declare
    reply_id uuid := (select m.id from public.messages m where m.reply_to = job.question_id);
    file jsonb;
    refused text[] := '{}';
begin
    -- in one order, as they are locked
    for file in
        select f.value from jsonb_array_elements(write_files.files) f order by f.value ->> 'path'
    loop
        begin
            perform bridge.write_file(
                job, reply_id, file ->> 'path', file ->> 'content', file ->> 'language', (file ->> 'revision')::int);
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            refused := refused || format('%s: %s', left(file ->> 'path', 80), sqlerrm);
        end;
    end loop;
    return nullif(array_to_string(refused, '; '), '');
end
$$;
comment on function bridge.write_files is
    'Writes the files [{path, content, language?, revision?}] of a reply. A refused file does not affect the others. Returns which were refused, and why.';


-- schemas/fleet.sql

-- What every call of a worker does: report that it is alive, learn what comes next.

create function bridge.heartbeat(worker text, lease_seconds int default null) returns interval
language plpgsql set search_path = ''
as $$
declare
    lease interval;
begin
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    select w.lease into lease from bridge.workers w
     where w.name = heartbeat.worker and w.seen_at > now() - interval '5 seconds'
       and (heartbeat.lease_seconds is null or w.lease = make_interval(secs => heartbeat.lease_seconds));
    if not found then
        delete from bridge.workers w where w.seen_at < now() - interval '1 day';
        insert into bridge.workers as w (name, lease)
        values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)))
        on conflict (name) do update
           set seen_at = now(), lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end
        returning w.lease into lease;
    end if;
    return lease;
end
$$;
comment on function bridge.heartbeat is 'Records that a worker is alive; returns the length of its leases.';

create function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    horizon timestamptz := coalesce(
        (select w.horizon from bridge.workers w where w.name = queue_hints.worker), '-infinity');
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    ready boolean := (
        select j.run_at from bridge.jobs j where j.worker is null and j.run_at >= horizon and j.run_at <= now()
         order by j.run_at, j.id limit 1) is not null;
begin
    return jsonb_build_object(
        'next_in_ms', (
            select case when min(t.at) is not null  -- least and greatest would ignore a null
                        then least(greatest(extract(epoch from min(t.at) - now()) * 1000, 0), 86400000)::int end
              from (
                (select j.run_at from bridge.jobs j
                  where j.worker is null and j.run_at > now() order by j.run_at limit 1)
                union all
                select min(h.lease_until) from (
                    select j.lease_until from bridge.jobs j
                     where j.worker is not null and j.run_at >= horizon and j.worker <> queue_hints.worker
                     order by j.run_at, j.id) h
                union all
                -- a job that another worker is claiming right now has a lease that is not visible yet
                select now() + w.lease from bridge.workers w where w.name = queue_hints.worker and ready
              ) t (at)
        ),
        'workers', (select count(*) from bridge.live_workers),
        'ready', ready
    );
end
$$;
comment on function bridge.queue_hints is
    'next_in_ms: when another worker''s lease ends or a retry is due (null: nothing is scheduled); workers: how many are live; ready: whether there is a job to claim.';

create function public.bridge_leave(worker text) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
begin
    delete from bridge.workers w where w.name = bridge_leave.worker;
end
$$;
comment on function public.bridge_leave is
    'Removes a worker that stops from the live workers. Its jobs stay with it until their leases end.';


-- schemas/claim.sql

-- Claim: a worker takes jobs under a lease.

create function bridge.history_of(question public.messages, most int) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    -- the newest within the limits, then sorted oldest first as a conversation is read
    return (
        select coalesce(jsonb_agg(jsonb_build_object('role', h.role, 'content', h.content) order by h.ordinal), '[]')
          from (
            select m.ordinal, m.role, m.content,
                   sum(octet_length(m.content)) over (order by m.ordinal desc) as bytes
              from (
                select m.ordinal, m.role, m.content from public.messages m
                 where m.session_id = question.session_id and m.ordinal < question.ordinal
                   and m.content <> ''
                   and (m.role = 'user' or m.status in ('done', 'cancelled'))
                 order by m.ordinal desc limit history_of.most
              ) m
          ) h
         where h.bytes <= 262144);
end
$$;
comment on function bridge.history_of is
    'What was written before a question: up to `most` messages and 256 KiB, as [{role, content}].';

create function bridge.files_of(session_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'path', f.path, 'language', f.language, 'revision', f.revision,
                   'content', case when f.bytes <= 524288 then f.content end) order by f.path), '[]')
          from (
            select c.path, c.language, c.revision, c.content,
                   sum(octet_length(c.content)) over (order by c.updated_at desc, c.path) as bytes
              from public.code_files c where c.session_id = files_of.session_id
          ) f);
end
$$;
comment on function bridge.files_of is
    'The code files of a session, as [{path, language, revision, content}]. Contents are included newest first, up to 512 KiB in total; after that, content is null. The revision is always sent, so a reply can replace a file whose content it was not given without causing a conflict.';

create function bridge.payload(job bridge.jobs, history int, taken_over boolean) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    question public.messages;
    session public.sessions;
begin
    select m.* into strict question from public.messages m where m.id = job.question_id;
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    return jsonb_build_object(
        'question_id', question.id,
        'reply_id', (select r.id from public.messages r where r.reply_to = question.id),
        'attempt', job.attempt,
        'failures', job.failures,
        'cancel', job.cancel,
        'taken_over', payload.taken_over,
        'queued_ms', least(extract(epoch from clock_timestamp() - job.queued_at) * 1000, 2147483647)::int,
        'ready_ms', least(extract(epoch from clock_timestamp() - job.run_at) * 1000, 2147483647)::int,
        'message', question.content,
        'data', question.data,
        'session', jsonb_build_object(
            'id', session.id, 'user_id', session.user_id, 'title', session.title,
            'function', session.function, 'metadata', session.metadata),
        'history', bridge.history_of(question, payload.history),
        'files', bridge.files_of(session.id));
end
$$;
comment on function bridge.payload is 'Everything a worker needs to answer a question, in one value.';

create function bridge.open_attempt(
    job bridge.jobs, history int, is_new boolean default false, taken_over boolean default false
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    opened jsonb;
begin
    if is_new and not job.cancel then
        set constraints all immediate;  -- so that a deferred trigger fails only this job, not the whole claim
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp();
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = job.question_id and m.status <> 'running';
    end if;
    opened := bridge.payload(job, open_attempt.history, open_attempt.taken_over);
    if not (bridge.is_readable(opened -> 'data') and bridge.is_readable(opened #> '{session,metadata}')) then
        raise exception 'unreadable data or session metadata' using errcode = '22023';
    end if;
    return opened;
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this job's fault: the worker repeats the claim
    end if;
    -- only this job is affected; its worker finishes it as failed
    return jsonb_build_object(
        'question_id', job.question_id, 'attempt', job.attempt, 'failures', job.failures,
        'cancel', job.cancel, 'taken_over', open_attempt.taken_over, 'broken', sqlstate || ' ' || sqlerrm);
end
$$;
comment on function bridge.open_attempt is
    'Returns the job''s payload, or {…, broken} if that fails. For a new attempt, it first opens the reply row.';

create function bridge.claim_horizon(worker text) returns timestamptz
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    since timestamptz;
begin
    select w.horizon into since from bridge.workers w
     where w.name = claim_horizon.worker
       and w.horizon_set_at > now() - interval '10 seconds' and w.horizon_set_at <= now();
    if not found then
        -- A job's run_at is the start of the transaction that wrote it, or later. Half a minute covers open transactions;
        -- a job from a longer one is found when the horizon is next set.
        since := least(
            now() - interval '30 seconds',
            (select j.run_at from bridge.jobs j
              where j.worker is null and j.run_at is not null order by j.run_at limit 1),
            (select j.run_at from bridge.jobs j where j.worker is not null order by j.run_at limit 1));
        update bridge.workers w set horizon = since, horizon_set_at = now() where w.name = claim_horizon.worker;
    end if;
    return since;
end
$$;
comment on function bridge.claim_horizon is
    'The earliest run_at that a worker searches from, refreshed every ten seconds. While any transaction is open, Postgres keeps the index entries of ended jobs: after 100,000 of them, a search from the oldest entry was 17 times as slow.';

-- Only heads of sessions have a run_at, and a session has at most one (jobs_head_of_session): a row locked below is
-- the only job of its session that may run. Everything about it is read in later statements, whose snapshots include
-- what the job before it left. The session is locked too, so that it cannot be deleted meanwhile.

create function bridge.take_expired(worker text, horizon timestamptz, slots int) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
    taken bigint[];
begin
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= take_expired.horizon
                      and h.worker <> take_expired.worker and h.lease_until < now()
                    order by h.run_at, h.id))
           and j.worker <> take_expired.worker and j.lease_until < now()
         order by j.lease_until
         limit take_expired.slots
           for key share of s skip locked
           for update of j skip locked
    ) r;
    insert into bridge.runs (question_id, attempt, worker, outcome)
    select j.question_id, j.attempt, j.worker, 'lost' from bridge.jobs j where j.id = any (taken)
        on conflict do nothing;
    return taken;
end
$$;
comment on function bridge.take_expired is
    'Locks up to `slots` jobs whose lease with another worker has ended, and records those attempts as lost.';

create function bridge.take_ready(horizon timestamptz, slots int) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
    taken bigint[];
begin
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.worker is null and j.run_at >= take_ready.horizon and j.run_at <= now()
         order by j.run_at, j.id
         limit take_ready.slots
           for key share of s skip locked
           for update of j skip locked
    ) r;
    return taken;
end
$$;
comment on function bridge.take_ready is 'Locks up to `slots` jobs that are due and that no worker holds.';

create function public.bridge_claim(worker text, slots int, holding uuid[], lease_seconds int, history int)
returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
-- The queue is short-lived and its statistics are always stale: this and the functions it calls walk the indexes.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    snapshot text := pg_current_snapshot()::text;
    lease_end timestamptz := now() + bridge.heartbeat(bridge_claim.worker, bridge_claim.lease_seconds);
    horizon timestamptz := bridge.claim_horizon(bridge_claim.worker);
    expired bigint[];
    taken bigint[];
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- appending to an array does not copy it, unlike appending to a jsonb
begin
    -- Return again, under the same attempt, jobs whose claim answer was lost. They use slots like any other, so a worker
    -- that now asks for fewer gets them in parts. Even without a free slot it gets one.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= horizon and h.worker = bridge_claim.worker
                    order by h.run_at, h.id))
           and j.worker = bridge_claim.worker and not (j.question_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update
    loop
        update bridge.jobs j set lease_until = lease_end where j.id = job.id;
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history);
    end loop;

    -- jobs of vanished workers come before new ones
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);
    expired := bridge.take_expired(bridge_claim.worker, horizon, slots);
    taken := bridge.take_ready(horizon, slots - cardinality(expired));
    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int
         where j.id = any (taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history, true, job.id = any (expired));
    end loop;
    return bridge.queue_hints(bridge_claim.worker) || jsonb_build_object('jobs', to_jsonb(jobs), 'snapshot', snapshot);
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others. Returns {jobs: [{question_id, …}], next_in_ms, workers, ready, snapshot}; the snapshot shows which transactions the claim has seen.';


-- schemas/beat.sql

-- Beat: a worker extends its leases and writes checkpoints.

create function bridge.write_checkpoints(items jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    update public.messages m
       set content = coalesce(i.content, m.content),
           data = case when e.value ? 'data' then i.data else m.data end,
           seq = i.seq,
           updated_at = clock_timestamp()
      from jsonb_array_elements(write_checkpoints.items) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, seq int, content text, data jsonb)
     where m.reply_to = i.question_id and m.attempt = i.attempt and m.status = 'running' and m.seq < i.seq;
end
$$;
comment on function bridge.write_checkpoints is
    'Writes partial replies [{question_id, attempt, seq, content?, data?}]. The caller holds their jobs, so none is stale.';

create function public.bridge_beat(worker text, jobs jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    lease interval := bridge.heartbeat(bridge_beat.worker);
    states jsonb;
    checkpoints jsonb;
    item jsonb;
begin
    perform from bridge.jobs j
      join jsonb_to_recordset(bridge_beat.jobs) i (question_id uuid) on j.question_id = i.question_id
      order by j.id for update of j;
    -- A beat comes every second, a lease lasts thirty: extending it once a quarter has passed costs a tenth of the
    -- writes, and at least half of it is always left.
    update bridge.jobs j set lease_until = now() + lease
      from jsonb_to_recordset(bridge_beat.jobs) i (question_id uuid, attempt int)
     where j.question_id = i.question_id and j.worker = bridge_beat.worker and j.attempt = i.attempt
       and j.lease_until < now() + lease * 0.75;
    select coalesce(jsonb_object_agg(
               i.question_id, case when j.id is null then 'lost' when j.cancel then 'cancel' else 'ok' end), '{}'),
           coalesce(jsonb_agg(e.value) filter (where j.id is not null and e.value ? 'seq'), '[]')
      into states, checkpoints
      from jsonb_array_elements(bridge_beat.jobs) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int)
      left join bridge.jobs j
        on j.question_id = i.question_id and j.worker = bridge_beat.worker and j.attempt = i.attempt;
    set constraints all immediate;  -- so that a deferred trigger fails here and not at the commit of the whole beat
    begin
        perform bridge.write_checkpoints(checkpoints);
    exception when others then
        -- one that Postgres refuses must affect neither the others nor any lease
        for item in select jsonb_array_elements(checkpoints) loop
            begin
                perform bridge.write_checkpoints(jsonb_build_array(item));
            exception when others then
                raise warning 'bridge_beat: checkpoint of % refused: %', item ->> 'question_id', sqlerrm;
            end;
        end loop;
    end;
    return bridge.queue_hints(bridge_beat.worker) || jsonb_build_object('results', states);
end
$$;
comment on function public.bridge_beat is
    'Extends the leases of jobs [{question_id, attempt, seq?, content?, data?}] and writes those with a seq as checkpoints. Returns {results: {question_id: ok|lost|cancel}, next_in_ms, workers, ready}.';


-- schemas/finish.sql

-- Finish: a worker reports how attempts ended.

create function bridge.record_run(job bridge.jobs, outcome text, run jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, model, input_tokens, output_tokens,
                             cached_tokens, queue_ms, first_delta_ms, duration_ms, error)
    select job.question_id, job.attempt, job.worker, record_run.outcome, r.function, r.model, r.input_tokens,
           r.output_tokens, r.cached_tokens, r.queue_ms, r.first_delta_ms, r.duration_ms, r.error
      from jsonb_to_record(record_run.run) r (
               function text, model text, input_tokens int, output_tokens int, cached_tokens int, queue_ms int,
               first_delta_ms int, duration_ms int, error jsonb)
        on conflict on constraint runs_pkey do nothing;
end
$$;
comment on function bridge.record_run is 'Records an attempt; one that is already recorded stays as it is.';

create function bridge.finish(job bridge.jobs, result jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    outcome text := case when job.cancel then 'cancelled' else result ->> 'outcome' end;
    retry_at timestamptz := case
        when outcome = 'released' then now()
        when outcome = 'failed' and result ? 'retry_in_ms'
            then now() + make_interval(secs => least((result ->> 'retry_in_ms')::float8, 86400000) / 1000)
        end;
    refused text;
begin
    -- so that a deferred trigger fails here and not at the commit, where it would fail the other results too
    set constraints all immediate;
    perform bridge.record_run(job, outcome, coalesce(nullif(result -> 'run', 'null'), '{}'));
    if retry_at is not null then
        -- the text so far stays visible until the next attempt opens the reply again
        perform bridge.set_status(job.question_id, 'queued');
        update bridge.jobs j
           set worker = null, lease_until = null, run_at = retry_at,
               failures = j.failures + (outcome = 'failed')::int
         where j.id = job.id;
        if outcome = 'released' then
            perform bridge.announce_work(array[job.question_id]);
        end if;
        return;
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
    perform bridge.end_job(job, outcome, case when outcome = 'failed' then result -> 'error' end, result);
end
$$;
comment on function bridge.finish is
    'Writes how an attempt ended. The caller holds session and job. If the user cancelled first, every outcome becomes cancelled.';

create function bridge.finish_held(job bridge.jobs, result jsonb) returns text
language plpgsql set search_path = ''
as $$
begin
    perform bridge.finish(job, result);
    return 'ok';
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this result's fault: the worker repeats the batch
    end if;
    -- refused because of its content: end it as failed, without that content
    raise warning 'bridge_finish: % refused: % %', job.question_id, sqlstate, sqlerrm;
    perform bridge.finish(job, jsonb_build_object(
        'outcome', 'failed',
        'error', jsonb_build_object('code', 'unstorable', 'message', 'The reply could not be stored.'),
        'run', jsonb_build_object('error', jsonb_build_object(
            'code', 'unstorable', 'detail', sqlstate || ' ' || sqlerrm))));
    return 'refused';
end
$$;
comment on function bridge.finish_held is
    'Finishes a job that its worker holds: ok, or refused (it was ended as failed). A refused result does not affect the others.';

create function bridge.state_of_unheld(worker text, question_id uuid, attempt int) returns text
language plpgsql stable set search_path = ''
as $$
begin
    return case
        -- the same finish again: its first answer was lost
        when exists (
            select from bridge.runs r
             where r.question_id = state_of_unheld.question_id and r.attempt = state_of_unheld.attempt
               and r.worker = state_of_unheld.worker and r.outcome <> 'lost') then 'ok'
        when exists (select from public.messages m where m.id = state_of_unheld.question_id) then 'lost'
        else 'gone' end;
end
$$;
comment on function bridge.state_of_unheld is
    'For a job that its worker does not hold: ok (this attempt is already finished), lost, or gone (the question is deleted).';

create function public.bridge_finish(worker text, results jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    result record;
    job bridge.jobs;
    state text;
    states jsonb := '{}';
    charges jsonb[] := '{}';
begin
    perform from public.sessions s
      where s.id in (
          select j.session_id from bridge.jobs j
            join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id)
      order by s.id for no key update;
    perform from bridge.jobs j
      join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id
      order by j.id for update of j;
    for result in
        select i.*, e.value as item
          from jsonb_array_elements(bridge_finish.results) e
         cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, user_id text, run jsonb)
    loop
        select j.* into job from bridge.jobs j
         where j.question_id = result.question_id
           and j.worker = bridge_finish.worker and j.attempt = result.attempt;
        if found then
            state := bridge.finish_held(job, result.item);
        else
            state := bridge.state_of_unheld(bridge_finish.worker, result.question_id, result.attempt);
        end if;
        -- deleting the session does not avoid the charge: the tokens were used
        if state = 'gone' or (job.id is not null and state = 'ok') then
            charges := charges || (coalesce(result.run, '{}') || jsonb_build_object(
                'user_id', coalesce(job.user_id::text, result.user_id)));
        end if;
        states := states || jsonb_build_object(result.question_id, state);
    end loop;
    perform bridge.charge_tokens(to_jsonb(charges));
    return bridge.queue_hints(bridge_finish.worker) || jsonb_build_object('results', states);
end
$$;
comment on function public.bridge_finish is
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, seq?, files?, error?, retry_in_ms?, run?}]. Returns {results: {question_id: ok|lost|gone|refused}, next_in_ms, workers, ready}.';


-- schemas/operators.sql

-- For operators: the state of the queue, and the questions that the worker gave up on.

create function public.bridge_status() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'queued', (select count(*) from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'waiting', (select count(*) from bridge.jobs j where j.run_at is null),
        'retrying', (select count(*) from bridge.jobs j where j.worker is null and j.run_at > now()),
        'running', (select count(*) from bridge.jobs j where j.worker is not null),
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
comment on function public.bridge_status is 'The queue, the live workers and the last hour.';

create function public.bridge_dead_letters(max_rows int default 100) returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'question_id', d.question_id, 'session_id', d.session_id, 'user_id', s.user_id,
                   'function', s.function, 'attempt', d.attempt, 'failures', d.failures, 'error', d.error,
                   'created_at', d.created_at,
                   'runs', (
                       select coalesce(jsonb_agg(to_jsonb(r) - 'question_id' order by r.attempt), '[]')
                         from bridge.runs r where r.question_id = d.question_id)
               ) order by d.created_at desc), '[]')
          from (
            select x.* from bridge.dead_letters x order by x.created_at desc limit bridge_dead_letters.max_rows
          ) d
          join public.sessions s on s.id = d.session_id);
end
$$;
comment on function public.bridge_dead_letters is
    'The questions that the worker gave up on, newest first, each with all its attempts.';

create function public.bridge_dead_retry(question_ids uuid[] default null) returns int
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    question public.messages;
    letters uuid[];
    ready uuid[] := '{}';
    retried int := 0;
begin
    select array_agg(d.question_id) into letters from (
        select x.question_id from bridge.dead_letters x
         where bridge_dead_retry.question_ids is null or x.question_id = any (bridge_dead_retry.question_ids)
         order by x.id limit 500
    ) d;
    perform from public.sessions s
      where s.id in (select d.session_id from bridge.dead_letters d where d.question_id = any (letters))
      order by s.id for no key update;
    for question in
        select m.* from public.messages m
          join bridge.dead_letters d on d.question_id = m.id
         where d.question_id = any (letters)
           and not exists (select from bridge.jobs j where j.question_id = m.id)
         order by m.session_id, m.ordinal
    loop
        -- not charged: the failure was not the user's fault
        if bridge.requeue(question, false) then
            ready := ready || question.id;
        end if;
        retried := retried + 1;
    end loop;
    perform bridge.announce_work(ready);
    return retried;
end
$$;
comment on function public.bridge_dead_retry is
    'Requeues dead letters with a fresh count of failures (null: the 500 oldest). Returns how many.';

create function public.bridge_dead_drop(question_ids uuid[] default null) returns int
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    dropped int;
begin
    delete from bridge.dead_letters d
     where bridge_dead_drop.question_ids is null or d.question_id = any (bridge_dead_drop.question_ids);
    get diagnostics dropped = row_count;
    return dropped;
end
$$;
comment on function public.bridge_dead_drop is
    'Deletes dead letters (null: all of them); their messages stay failed. Returns how many.';

create function public.bridge_doctor() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'unpublished', (
            select coalesce(jsonb_agg(t.name order by t.name), '[]')
              from unnest(array['sessions', 'messages', 'code_files']) t (name)
             where not exists (
                select from pg_catalog.pg_publication_tables p
                 where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = t.name)),
        'topics_policy', case when not exists (
            select from pg_catalog.pg_policies p
             where p.schemaname = 'realtime' and p.tablename = 'messages' and p.policyname like 'bridge: %')
            then bridge.topics_policy() end,
        'can_announce', has_function_privilege('realtime.send(jsonb, text, text, boolean)', 'execute'));
end
$$;
comment on function public.bridge_doctor is
    'What `bridge doctor` cannot see from outside: tables missing from the publication, the policy to create if it is missing, and whether broadcasts can be sent.';


-- schemas/trim.sql

-- Retention: bounded deletes of everything that would otherwise grow for ever.

create function bridge.trim_runs(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    deleted int;
begin
    delete from bridge.runs r where r.ctid = any (array(
        select x.ctid from bridge.runs x
         where x.created_at < now() - make_interval(days => trim_runs.days)
           and not exists (select from bridge.jobs j where j.question_id = x.question_id)
           and not exists (select from bridge.dead_letters d where d.question_id = x.question_id)
           -- without a reply, only the runs know the last attempt, which the next one must exceed
           and exists (select from public.messages m where m.reply_to = x.question_id)
         order by x.created_at limit trim_runs.most for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_runs is
    'Deletes up to `most` runs older than `days` whose question is answered and has no dead letter; returns how many.';

create function public.bridge_trim(
    runs_days int default 30,
    dead_letters_days int default 90,
    versions_days int default null,
    max_rows int default 5000
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int;
    letters int;
    versions int;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days) < 1 then
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
    delete from public.code_file_versions v where v.id = any (array(
        select x.id from public.code_file_versions x
         where x.created_at < now() - make_interval(days => bridge_trim.versions_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics versions = row_count;
    rest := rest - versions;
    -- deletions forget ids as well, but one that deletes many sessions leaves more than it forgets
    rest := rest - bridge.forget_ids(rest);
    return jsonb_build_object('runs', runs, 'dead_letters', letters, 'versions', versions, 'more', rest = 0);
end
$$;
comment on function public.bridge_trim is
    'Deletes attempts, dead letters and earlier versions of files that are older than the given days (null keeps all), at most max_rows rows. Returns {runs, dead_letters, versions, more}; if `more`, call it again.';


-- schemas/grants.sql

-- Who may call what. The tables' grants stand with the tables.

revoke all on all functions in schema bridge from public, anon, authenticated, service_role;

-- for users: the public functions run as their caller, and the private ones check whose message it is
revoke all on function public.cancel_message, public.retry_message from public, anon, authenticated, service_role;
grant usage on schema bridge to authenticated;
grant execute on function bridge.cancel_message, bridge.retry_message to authenticated;
grant execute on function public.cancel_message, public.retry_message to authenticated;

-- for workers and operators, who hold the secret key
revoke all on function
    public.bridge_claim, public.bridge_beat, public.bridge_finish, public.bridge_leave,
    public.bridge_status, public.bridge_doctor, public.bridge_trim,
    public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop
    from public, anon, authenticated;
grant execute on function
    public.bridge_claim, public.bridge_beat, public.bridge_finish, public.bridge_leave,
    public.bridge_status, public.bridge_doctor, public.bridge_trim,
    public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop
    to service_role;


-- schemas/topics.sql

-- Who may listen on which private topic. Only the service role may send.
--
-- On the hosted service `postgres` may only create and drop policies here, and some projects refuse even that to
-- `supabase db push` (supabase/cli issue 6116). Then this warns, and `bridge doctor` prints what to run in the SQL
-- editor of the dashboard.

create function bridge.topics_policy() returns text
language plpgsql immutable set search_path = ''
as $function$
begin
    -- the id is cast behind a guard and compared with the key: one index lookup, however many sessions there are
    return $policy$create policy "bridge: users listen on their own topics" on realtime.messages
    for select to authenticated
    using (
        extension = 'broadcast'
        and case
            when (select realtime.topic()) ~ '^session:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then exists (
                select from public.sessions s
                 where s.id = substr((select realtime.topic()), 9)::uuid and s.user_id = (select auth.uid()))
            else (select realtime.topic()) = 'user:' || (select auth.uid())::text
        end
    );$policy$;
end
$function$;
comment on function bridge.topics_policy is 'The statement that lets users listen on their own topics.';
revoke all on function bridge.topics_policy from public, anon, authenticated, service_role;

do $$
begin
    if not exists (
        select from pg_catalog.pg_policies p
         where p.schemaname = 'realtime' and p.tablename = 'messages' and p.policyname like 'bridge: %'
    ) then
        execute bridge.topics_policy();
    end if;
exception when insufficient_privilege then
    raise warning 'Creating the policy on realtime.messages was refused (%). Run `bridge doctor`: it prints what to run in the SQL editor of the dashboard.', sqlerrm;
end
$$;
