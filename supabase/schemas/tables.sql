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
    parent uuid,
    model text,
    constraint sessions_title_size check (octet_length(title) <= 1024),
    constraint sessions_function_size check (octet_length(function) between 1 and 128),
    -- it is shown to operators: no control characters, no line separators, nothing that changes the direction of text
    constraint sessions_function_printable check (
        function !~ '[\u0001-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]'),
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

comment on column public.sessions.parent is
    'The question whose handler has opened this session, to ask another function; null: a user has opened it.';

comment on column public.sessions.model is
    'The model that answers, of public.models; null: each function uses its own.';

create index sessions_of_user on public.sessions (user_id, updated_at desc);
create index sessions_of_parent on public.sessions (parent) where parent is not null;

alter table public.sessions enable row level security;
revoke all on public.sessions from public, anon, authenticated, service_role;
grant select, delete on public.sessions to authenticated;
grant insert (id, title, function, metadata, on_new_message, model) on public.sessions to authenticated;
grant update (title, function, metadata, on_new_message, model) on public.sessions to authenticated;
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
    parts jsonb,
    run_at timestamptz,
    attachments jsonb,
    model text,
    constraint messages_reply_to_key unique (reply_to),
    constraint messages_session_ordinal_key unique (session_id, ordinal),
    constraint messages_role check (role in ('user', 'assistant')),
    constraint messages_status check (status in ('queued', 'running', 'waiting', 'done', 'failed', 'cancelled')),
    -- bridge.check_question reports a question's size with a better message; this one covers every writer
    constraint messages_content_size check (octet_length(content) <= case role when 'user' then 131072 else 1048576 end),
    constraint messages_data_size check (octet_length(data::text) <= 1048576),
    constraint messages_parts_size check (
        parts is null or (jsonb_typeof(parts) = 'array' and octet_length(parts::text) <= 2097152))
);
comment on table public.messages is 'Questions (role user) and replies (role assistant) of a session.';
comment on column public.messages.ordinal is 'The order in the session: questions are even, a reply is its question + 1.';
comment on column public.messages.data is 'On a question: extra named arguments. On a reply: the structured result.';
comment on column public.messages.status is 'queued, running, waiting, done, failed or cancelled; a question mirrors its reply. waiting: for an answer of the user, a time or another reply.';
comment on column public.messages.attempt is 'The attempt that wrote this reply. It only grows: it is the fence, and orders updates for clients.';
comment on column public.messages.seq is 'The last delta that content and data contain.';
comment on column public.messages.error is 'On a failed reply: {code, message}, safe to show to users.';

comment on column public.messages.parts is
    'What a reply consists of, in order, if that is more than text and data: parts of the AI SDK. content is the texts in it and, behind all parts, the text that is being written.';
comment on column public.messages.run_at is 'On a question: it is not answered before this time.';
comment on column public.messages.attachments is
    'On a question: the objects of the bucket `attachments` that belong to it, [{path, name, type, size}]. Insert [{path, name}].';
comment on column public.messages.model is
    'On a question: the model that answers it, of public.models; null: the session''s.';

alter table public.sessions add constraint sessions_parent_fkey
    foreign key (parent) references public.messages (id) on delete cascade;

alter table public.messages enable row level security;
revoke all on public.messages from public, anon, authenticated, service_role;
grant select on public.messages to authenticated;
grant insert (id, session_id, content, data, run_at, attachments, model) on public.messages to authenticated;
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
