-- Sessions, messages and code files: what a frontend reads and writes.
--
-- Every grant is explicit: what the platform grants by default in schema `public` is taken back first.

create schema if not exists bridge;
comment on schema bridge is 'The worker''s bookkeeping. Private: never add it to the exposed schemas of the API.';
revoke all on schema bridge from public;


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
comment on column public.sessions.function is 'The BAML function that answers; the worker serves those of BRIDGE_FUNCTIONS alone.';
comment on column public.sessions.on_new_message is
    'What a new message does while a reply runs: enqueue (wait), interrupt (cancel the reply), reject (refuse the insert).';
comment on column public.sessions.last_ordinal is 'The ordinal of the newest question; taken under the row''s lock.';

create index sessions_of_user on public.sessions (user_id, updated_at desc);

alter table public.sessions enable row level security;
revoke all on public.sessions from public, anon, authenticated, service_role;
grant select, delete on public.sessions to authenticated;
grant insert (id, title, function, metadata, on_new_message) on public.sessions to authenticated;
grant update (title, function, metadata, on_new_message) on public.sessions to authenticated;
grant select, insert, update, delete on public.sessions to service_role;

create policy "a user reads own sessions" on public.sessions
    for select to authenticated using (user_id = (select auth.uid()));
create policy "a user opens own sessions" on public.sessions
    for insert to authenticated with check (user_id = (select auth.uid()));
create policy "a user changes own sessions" on public.sessions
    for update to authenticated using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
create policy "a user deletes own sessions" on public.sessions
    for delete to authenticated using (user_id = (select auth.uid()));


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
    -- a question's size is told by bridge.accept_question in better words; this holds for everybody
    constraint messages_content_size check (octet_length(content) <= case role when 'user' then 32768 else 1048576 end),
    constraint messages_data_size check (octet_length(data::text) <= 1048576)
);
comment on table public.messages is 'Questions (role user) and replies (role assistant) of a session.';
comment on column public.messages.ordinal is 'The order in the session: questions even, a reply its question + 1.';
comment on column public.messages.data is 'On a question: extra named arguments. On a reply: the structured result.';
comment on column public.messages.status is 'queued, running, done, failed or cancelled; a question mirrors its reply.';
comment on column public.messages.attempt is 'Which attempt wrote this reply. It only ever grows: it is the fence and the client''s order.';
comment on column public.messages.seq is 'The last delta that content and data contain.';
comment on column public.messages.error is 'Of a failed reply: {code, message}, safe to show.';

alter table public.messages enable row level security;
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated;
grant insert (id, session_id, content, data) on public.messages to authenticated;
grant select, insert, update, delete on public.messages to service_role;

create policy "a user reads messages of own sessions" on public.messages
    for select to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));
create policy "a user asks in own sessions" on public.messages
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
comment on table public.code_files is 'The code files of a session, as they are now.';
comment on column public.code_files.revision is 'Grows with every change of the content.';
comment on column public.code_files.message_id is 'The reply that wrote it last; null if a user did.';

create index code_files_of_message on public.code_files (message_id);

alter table public.code_files enable row level security;
revoke all on public.code_files from public, anon, authenticated, service_role;
grant select, delete on public.code_files to authenticated;
grant insert (id, session_id, path, content, language) on public.code_files to authenticated;
grant update (path, content, language) on public.code_files to authenticated;
grant select, insert, update, delete on public.code_files to service_role;

create policy "a user reads files of own sessions" on public.code_files
    for select to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));
create policy "a user adds files to own sessions" on public.code_files
    for insert to authenticated
    with check (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));
create policy "a user changes files of own sessions" on public.code_files
    for update to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())))
    with check (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));
create policy "a user deletes files of own sessions" on public.code_files
    for delete to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));

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
comment on table public.code_file_versions is 'Every earlier content of a code file, and replies'' contents that lost to a user''s edit.';
comment on column public.code_file_versions.revision is 'The revision this was; of a conflict: the revision it was made from (0: none).';
comment on column public.code_file_versions.conflict is 'A reply wrote this while the user edited the file: the user''s text stayed.';

create index code_file_versions_of_file on public.code_file_versions (file_id, revision desc);
create index code_file_versions_of_session on public.code_file_versions (session_id);
create index code_file_versions_of_message on public.code_file_versions (message_id);

alter table public.code_file_versions enable row level security;
revoke all on public.code_file_versions from public, anon, authenticated, service_role;
grant select on public.code_file_versions to authenticated;
grant select, insert, update, delete on public.code_file_versions to service_role;

create policy "a user reads versions of own sessions" on public.code_file_versions
    for select to authenticated
    using (exists (select from public.sessions s where s.id = session_id and s.user_id = (select auth.uid())));


-- the worker's bookkeeping -------------------------------------------------------------------------

create table bridge.jobs (
    id bigint generated always as identity primary key,
    message_id uuid not null references public.messages (id) on delete cascade,
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
    constraint jobs_message_id_key unique (message_id),
    constraint jobs_held_is_head check (worker is null or (run_at is not null and lease_until is not null))
) with (fillfactor = 70);  -- room for heartbeats to update in place
comment on table bridge.jobs is 'Unfinished questions. A finished job''s row is gone.';
comment on column bridge.jobs.user_id is 'The session''s user, whose unfinished questions are limited.';
comment on column bridge.jobs.run_at is
    'Only the head of a session has one: the earliest time it may run. Null: it waits behind an earlier question.';
comment on column bridge.jobs.worker is 'Who holds it, until lease_until. Null: nobody.';
comment on column bridge.jobs.attempt is 'The fence: every write of a worker carries (worker, attempt).';
comment on column bridge.jobs.failures is 'Attempts that failed or whose worker vanished; released ones do not count.';
comment on column bridge.jobs.cancel is 'The user asked to stop; whoever touches the job next ends it.';

-- At most one head a session, and only a head can be held: two jobs of one session never run at once.
create unique index jobs_head_of_session on bridge.jobs (session_id) where run_at is not null;
create index jobs_ready on bridge.jobs (run_at, id) where worker is null and run_at is not null;
create index jobs_held on bridge.jobs (worker) where worker is not null;
create index jobs_in_session on bridge.jobs (session_id, ordinal);
create index jobs_of_user on bridge.jobs (user_id);

create table bridge.runs (
    message_id uuid not null references public.messages (id) on delete cascade,
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
    primary key (message_id, attempt),
    constraint runs_outcome check (outcome in ('done', 'failed', 'cancelled', 'released', 'lost'))
);
comment on table bridge.runs is 'One row an attempt: what it was, what it cost, how it ended.';
comment on column bridge.runs.queue_ms is 'From the insert (or the retry''s time) to the claim, in milliseconds.';
comment on column bridge.runs.first_delta_ms is 'From the claim to the first delta, in milliseconds.';
comment on column bridge.runs.error is '{code, message, detail}: detail is for operators, never shown to users.';

create index runs_by_time on bridge.runs (created_at);

create table bridge.dead_letters (
    id bigint generated always as identity primary key,
    message_id uuid not null references public.messages (id) on delete cascade,
    session_id uuid not null references public.sessions (id) on delete cascade,
    attempt int not null,
    failures int not null,
    error jsonb not null,
    created_at timestamptz not null default now(),
    constraint dead_letters_message_id_key unique (message_id)
);
comment on table bridge.dead_letters is 'Questions that were given up; their attempts are in bridge.runs.';

create index dead_letters_of_session on bridge.dead_letters (session_id);

create table bridge.workers (
    name text primary key,
    lease interval not null,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
) with (fillfactor = 50);
comment on table bridge.workers is 'Workers by their boot-unique names, and when each was last heard of.';

revoke all on all tables in schema bridge from public, anon, authenticated, service_role;
