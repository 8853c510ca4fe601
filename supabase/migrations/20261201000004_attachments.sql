-- Attachments in Storage, and the models that users may choose.

alter table public.sessions add column model text;
comment on column public.sessions.model is
    'The model that answers, of public.models; null: each function uses its own.';
grant insert (model), update (model) on public.sessions to authenticated;

alter table public.messages
    add column attachments jsonb,
    add column model text;
comment on column public.messages.attachments is
    'On a question: the objects of the bucket `attachments` that belong to it, [{path, name, type, size}]. Insert [{path, name}].';
comment on column public.messages.model is
    'On a question: the model that answers it, of public.models; null: the session''s.';
grant insert (attachments, model) on public.messages to authenticated;

alter table public.functions
    add column accepts jsonb not null default '[]',
    add constraint functions_accepts check (
        jsonb_typeof(accepts) = 'array' and jsonb_array_length(accepts) <= 32
        and not jsonb_path_exists(accepts, '$[*] ? (!(@ like_regex "^[a-z0-9.+-]{1,127}/[a-z0-9.+-]{1,127}$"))'));
comment on column public.functions.accepts is 'The types of attachments that it reads, such as image/png.';

alter table bridge.limits
    drop constraint limits_name,
    add constraint limits_name check (name in (
        'messages_per_minute', 'sessions_per_minute', 'changes_per_minute', 'unfinished_replies', 'running_replies',
        'tokens_per_day', 'sessions', 'files_per_session', 'versions_per_file', 'message_bytes', 'file_bytes',
        'steps_per_message', 'step_bytes', 'steps_bytes', 'attachments_per_message', 'attachment_bytes',
        'uploads_per_session'));
insert into bridge.limits (name, value) values
    ('attachments_per_message', 8),
    ('attachment_bytes', 10485760),
    ('uploads_per_session', 200)
    on conflict do nothing;


-- schemas/models.sql -------------------------------------------------------------------------------

create table public.models (
    name text primary key,
    title text,
    ordinal int not null default 0,
    constraint models_name_size check (octet_length(name) between 1 and 128),
    constraint models_title_size check (octet_length(title) between 1 and 256),
    constraint models_printable check (
        concat_ws(' ', name, title)
            !~ '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]')
);
comment on table public.models is 'The models that users may choose. Empty: each function uses its own.';
comment on column public.models.name is 'The name of a client in baml_src.';
comment on column public.models.title is 'What to call it; null: its name.';
comment on column public.models.ordinal is 'Its place in a list.';

alter table public.models enable row level security;
revoke all on public.models from public, anon, authenticated, service_role;
grant select on public.models to authenticated;
grant select, insert, update, delete on public.models to service_role;

create policy "signed-in users read the models" on public.models for select to authenticated using (true);

alter table public.sessions add constraint sessions_model_fkey
    foreign key (model) references public.models (name) on update cascade on delete set null not valid;
create index sessions_of_model on public.sessions (model) where model is not null;

alter table public.messages add constraint messages_model_fkey
    foreign key (model) references public.models (name) on update cascade on delete set null not valid;
create index messages_of_model on public.messages (model) where model is not null;


-- schemas/attachments.sql --------------------------------------------------------------------------

create table bridge.attachments (
    path text not null,
    message_id uuid not null references public.messages (id) on delete cascade,
    created_at timestamptz not null default now(),
    primary key (path, message_id)
);
comment on table bridge.attachments is 'Which messages name which objects of the bucket `attachments`.';
comment on column bridge.attachments.path is 'The name of the object: <session>/<uuid>.<extension>.';

create index attachments_of_message on bridge.attachments (message_id);
create index attachments_by_time on bridge.attachments (created_at);

revoke all on bridge.attachments from public, anon, authenticated, service_role;


-- uploads ------------------------------------------------------------------------------------------

create function bridge.has_storage() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return coalesce(has_table_privilege(to_regclass('storage.objects'), 'select'), false);
end
$$;
comment on function bridge.has_storage is 'Whether the project has Storage, and the schema''s functions can read its objects.';

-- Names are compared byte by byte, as only an index in that order (idx_objects_bucket_id_name) finds those below a
-- session: the character after the slash is the 0.
create function bridge.count_objects(session_id uuid, most bigint) returns int
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select count(*) from (
            select from storage.objects o
             where o.bucket_id = 'attachments'
               and o.name collate "C" > count_objects.session_id || '/'
               and o.name collate "C" < count_objects.session_id || '0'
             limit count_objects.most) x);
end
$$;
comment on function bridge.count_objects is 'How many objects a session has in the bucket, up to `most`.';

create function bridge.may_upload(name text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
    if may_upload.name !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z0-9]{1,8}$' then
        return false;
    end if;
    return exists (
        select from public.sessions s
         where s.id = split_part(may_upload.name, '/', 1)::uuid and s.user_id = auth.uid());
end
$$;
comment on function bridge.may_upload is
    'Whether the caller may store an object of this name in the bucket `attachments`: <own session>/<uuid>.<extension>.';

-- Storage inserts the row twice: as the user, to ask the policy, and rolls that back; and for itself, once it has the
-- bytes. Only the second insert sees what uploads at the same time have stored.
create function bridge.limit_uploads() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    uploader text := coalesce(new.owner_id, auth.uid()::text);
    session_id uuid;
    most bigint;
begin
    if uploader is null or new.name !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' then
        return new;
    end if;
    -- a stranger's upload is refused by the policy, after this: it must not wait here, nor make the owner wait
    select s.id into session_id from public.sessions s
     where s.id = split_part(new.name, '/', 1)::uuid and s.user_id::text = uploader;
    if not found then
        return new;
    end if;
    most := bridge.limit_of('uploads_per_session', uploader::uuid);
    if most is null then
        return new;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('bridge.uploads ' || session_id, 0));
    if bridge.count_objects(session_id, most) >= most then
        raise exception 'Too many files in this session (limit %)', most using errcode = '42501';
    end if;
    return new;
end
$$;
comment on function bridge.limit_uploads is
    'Refuses what a user stores in the bucket `attachments` beyond the limit of uploads in a session, also of uploads at the same time.';


-- what a question names ----------------------------------------------------------------------------

create function bridge.extensions_of(type text) returns text[]
language plpgsql immutable set search_path = ''
as $$
begin
    return case extensions_of.type
        when 'image/png' then '{png}' when 'image/jpeg' then '{jpg,jpeg}' when 'image/gif' then '{gif}'
        when 'image/webp' then '{webp}' when 'application/pdf' then '{pdf}' when 'audio/mpeg' then '{mp3,mpeg}'
        when 'audio/wav' then '{wav}' when 'text/plain' then '{txt}' end::text[];
end
$$;
comment on function bridge.extensions_of is
    'The extensions of a type; null: of a type that the project''s owner has added to the bucket.';

create function bridge.check_attachment(item jsonb, session_id uuid) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    path text := item ->> 'path';
    name text := item ->> 'name';
    known text[] := '{png,jpg,jpeg,gif,webp,pdf,mp3,mpeg,wav}';
    extension text;
    type text;
    size bigint;
begin
    if jsonb_typeof(item) <> 'object' or jsonb_typeof(item -> 'path') <> 'string' or jsonb_typeof(item -> 'name') <> 'string'
       or path is null or name is null
    then
        raise exception 'An attachment must be {"path": …, "name": …}, both text' using errcode = 'PT400';
    end if;
    if path !~ ('^' || session_id || '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z0-9]{1,8}$') then
        raise exception 'The path of an attachment must be <session id>/<uuid>.<extension>, in lower case, of this session'
            using errcode = 'PT400';
    end if;
    if octet_length(name) > 255 or name !~ '[^\s.]'
       or name ~ '[/\\\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
    then
        raise exception 'The name of an attachment must have 1 to 255 bytes, without slashes and control characters'
            using errcode = 'PT400';
    end if;
    -- in one statement: in between two, the object could be removed, and then be no orphan any more
    select lower(split_part(o.metadata ->> 'mimetype', ';', 1)), (o.metadata ->> 'size')::bigint into type, size
      from storage.objects o
     where o.bucket_id = 'attachments' and o.name = path
       and not exists (select from bridge.orphans r where r.prefix = o.name)
     order by o.created_at desc limit 1;
    if not found then
        raise exception 'There is no upload %', path
            using errcode = 'PT404', hint = 'Upload it to the bucket "attachments" first. What no message names is removed after a day.';
    end if;
    if coalesce(size, 0) = 0 or type is null or type !~ '^[a-z0-9.+-]{1,127}/[a-z0-9.+-]{1,127}$' then
        raise exception 'The upload % is empty or has no type', path using errcode = 'PT400';
    end if;
    if split_part(path, '.', 2) <> all (bridge.extensions_of(type)) then
        raise exception 'The extension of % does not fit its type, %', path, type using errcode = 'PT400';
    end if;
    extension := lower(substring(name from '\.([^.]*)$'));
    if extension = any (known) and (extension = any (bridge.extensions_of(type))) is not true then
        raise exception 'The extension of "%" does not fit its type, %', name, type using errcode = 'PT400';
    end if;
    return jsonb_build_object('path', path, 'name', name, 'type', type, 'size', size);
end
$$;
comment on function bridge.check_attachment is
    'Returns {path, name, type, size} of an attachment {path, name} of a session, or refuses it.';

create function bridge.check_attachments(question public.messages, owner uuid) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('attachments_per_message', check_attachments.owner);
    most_bytes bigint := bridge.limit_of('attachment_bytes', check_attachments.owner);
    item jsonb;
    bytes numeric := 0;
    checked jsonb[] := '{}';
begin
    if question.attachments is null or question.attachments in ('[]', 'null') then
        return null;
    end if;
    if jsonb_typeof(question.attachments) <> 'array' or pg_column_size(question.attachments) > 65536 then
        raise exception '"attachments" must be a list of {"path": …, "name": …}' using errcode = 'PT400';
    end if;
    if jsonb_array_length(question.attachments) > least(most, 64) then
        raise exception 'Too many attachments: % (limit %)', jsonb_array_length(question.attachments), least(most, 64)
            using errcode = 'PT413', hint = 'Send them with several messages.';
    end if;
    if not bridge.has_storage() then
        raise exception 'This project has no Storage' using errcode = 'PT404';
    end if;
    for item in select e.value from jsonb_array_elements(question.attachments) e loop
        item := bridge.check_attachment(item, question.session_id);
        if exists (select from unnest(checked) c (value) where c.value ->> 'path' = item ->> 'path') then
            raise exception 'The upload % is named twice', item ->> 'path' using errcode = 'PT400';
        end if;
        bytes := bytes + (item ->> 'size')::bigint;
        checked := checked || item;
    end loop;
    if bytes > most_bytes then
        raise exception 'Attachments too large: % bytes (limit %)', bytes, most_bytes
            using errcode = 'PT413', hint = 'Send fewer of them, or smaller ones.';
    end if;
    return to_jsonb(checked);
end
$$;
comment on function bridge.check_attachments is
    'Returns the attachments of a question as [{path, name, type, size}], or refuses them; null: it has none. The caller holds the session.';

create function bridge.keep_attachments() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if new.role = 'user' then
        insert into bridge.attachments (path, message_id)
        select a.value ->> 'path', new.id from jsonb_array_elements(new.attachments) a
            on conflict do nothing;
        return null;
    end if;
    delete from bridge.attachments a where a.message_id = new.id;
    insert into bridge.attachments (path, message_id)
    select distinct substr(f.url, 13), new.id
      from jsonb_array_elements(new.parts) p
     cross join lateral (select p.value ->> 'url' as url where p.value ->> 'type' = 'file') f
     where f.url ~ ('^attachments/' || new.session_id || '/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[a-z0-9]{1,8}$')
        on conflict do nothing;
    return null;
end
$$;
comment on function bridge.keep_attachments is 'Notes which objects a message names.';

create trigger keep_attachments after insert on public.messages
    for each row when (new.attachments is not null) execute function bridge.keep_attachments();
-- not for a checkpoint: what a running reply names is kept while it runs. A new attempt begins without parts.
create trigger keep_parts after update on public.messages
    for each row when ((old.parts is not null or new.parts is not null) and old.status is distinct from new.status)
    execute function bridge.keep_attachments();


-- schemas/orphans.sql ------------------------------------------------------------------------------

create table bridge.orphans (
    prefix text primary key,
    since timestamptz not null default now(),
    taken_until timestamptz not null default '-infinity',
    worker text
);
comment on table bridge.orphans is 'What workers are to remove from the bucket `attachments`.';
comment on column bridge.orphans.prefix is 'The name of an object or, with a slash at the end, of a session: all below it.';
comment on column bridge.orphans.taken_until is 'Until when its worker has time to remove it; then another one does.';
comment on column bridge.orphans.worker is 'The worker that was asked last to remove it.';

create table bridge.orphan_search (
    id boolean primary key default true,
    position text not null default '',
    next_at timestamptz not null default '-infinity',
    constraint orphan_search_one_row check (id)
);
comment on table bridge.orphan_search is 'How far the search for objects that no message names has come. One row.';
comment on column bridge.orphan_search.position is 'The object that was looked at last; empty: the search begins again.';

insert into bridge.orphan_search default values;

revoke all on bridge.orphans, bridge.orphan_search from public, anon, authenticated, service_role;

create function bridge.orphan_sessions() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if bridge.has_storage() then
        insert into bridge.orphans (prefix)
        select d.id || '/' from deleted d where bridge.count_objects(d.id, 1) > 0 order by d.id
            on conflict do nothing;
    end if;
    return null;
end
$$;
comment on function bridge.orphan_sessions is 'Notes the objects of deleted sessions, so that a worker removes them.';

create trigger orphan_sessions after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.orphan_sessions();

create function bridge.find_orphans(most int) returns void
language plpgsql set search_path = ''
as $$
declare
    search bridge.orphan_search;
    names text[];
    unnamed text[];
    locked uuid[];
begin
    select s.* into search from bridge.orphan_search s where s.next_at <= now() for update skip locked;
    if not found then
        return;
    end if;
    names := array(
        select o.name from storage.objects o
         where o.bucket_id = 'attachments' and o.name collate "C" > search.position
         order by o.name collate "C" limit find_orphans.most);
    update bridge.orphan_search s
       set position = case when cardinality(names) = find_orphans.most then names[find_orphans.most] else '' end,
           next_at = now() + case when cardinality(names) = find_orphans.most
                                  then interval '1 minute' else interval '10 minutes' end
     where s.id;
    unnamed := array(
        select n.name from unnest(names) n (name)
         where not exists (select from bridge.attachments a where a.path = n.name)
           and n.name ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/');
    -- A question that names one holds its session. A locked session is left to the next search.
    locked := array(
        select s.id from public.sessions s
         where s.id in (select split_part(u.name, '/', 1)::uuid from unnest(unnamed) u (name))
         order by s.id for no key update skip locked);
    insert into bridge.orphans (prefix)
    select u.name
      from unnest(unnamed) u (name)
     cross join lateral (select split_part(u.name, '/', 1)::uuid as session_id) o
     where case when o.session_id = any (locked)
                then not exists (select from bridge.attachments a where a.path = u.name)
                     -- of a reply that is not finished
                     and not exists (select from bridge.jobs j where j.session_id = o.session_id)
                     and exists (
                        select from storage.objects x
                         where x.bucket_id = 'attachments' and x.name = u.name
                           and x.created_at < now() - interval '1 day')
                else not exists (select from public.sessions s where s.id = o.session_id)
                     and not exists (select from bridge.orphans r where r.prefix = o.session_id || '/') end
     order by u.name
        on conflict do nothing;
end
$$;
comment on function bridge.find_orphans is
    'Looks at the next `most` objects, if that is due, and notes those that no message has named for a day, and those whose session does not exist.';

create function bridge.has_orphans() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return exists (select from bridge.orphans o where o.taken_until <= now())
        or exists (select from bridge.orphan_search s where s.next_at <= now());
end
$$;
comment on function bridge.has_orphans is 'Whether a worker should call bridge_orphans.';

create function public.bridge_orphans(worker text, most int default 20) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    taken text[];
begin
    if bridge.has_storage() then
        perform bridge.find_orphans(1000);
    else
        update bridge.orphan_search s set next_at = now() + interval '1 hour' where s.next_at <= now();
    end if;
    with locked as (
        select o.prefix from bridge.orphans o
         where o.taken_until <= now()
         order by o.since limit least(bridge_orphans.most, 100) for update skip locked
    ), updated as (
        update bridge.orphans o set taken_until = now() + interval '20 seconds', worker = bridge_orphans.worker
          from locked l where o.prefix = l.prefix
        returning o.prefix
    )
    select array_agg(u.prefix order by u.prefix) into taken from updated u;
    return to_jsonb(coalesce(taken, '{}'));
end
$$;
comment on function public.bridge_orphans is
    'Up to `most` names of objects to remove from the bucket `attachments`, or with a slash at the end of sessions, all of whose objects are to be removed. The caller has 20 seconds; then another worker gets them.';

create function public.bridge_orphans_done(worker text, prefixes text[]) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
begin
    delete from bridge.orphans o where o.prefix = any (array(
        select x.prefix from bridge.orphans x
         where x.prefix = any (bridge_orphans_done.prefixes) order by x.prefix for update skip locked));
end
$$;
comment on function public.bridge_orphans_done is 'Forgets what was removed. Safe to repeat.';


-- schemas/bucket.sql -------------------------------------------------------------------------------

create function bridge.attachments_access() returns text
language plpgsql immutable set search_path = ''
as $function$
begin
    -- the id is cast behind a guard and compared with the key: one index lookup for each object
    return $access$drop policy if exists "bridge: users add attachments to their own sessions" on storage.objects;
create policy "bridge: users add attachments to their own sessions" on storage.objects
    for insert to authenticated
    with check (bucket_id = 'attachments' and bridge.may_upload(name));
drop policy if exists "bridge: users read the attachments of their own sessions" on storage.objects;
create policy "bridge: users read the attachments of their own sessions" on storage.objects
    for select to authenticated
    using (
        bucket_id = 'attachments'
        and case when name ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' then exists (
            select from public.sessions s
             where s.id = split_part(name, '/', 1)::uuid and s.user_id = (select auth.uid()))
        else false end
    );
create or replace trigger "bridge: sessions hold a limited number of attachments" before insert on storage.objects
    for each row when (new.bucket_id = 'attachments') execute function bridge.limit_uploads();$access$;
end
$function$;
comment on function bridge.attachments_access is
    'The statements that let users store and read the attachments of their own sessions, and limit how many. They can be run again.';

create function bridge.has_attachments_access() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return not exists (
        select from unnest(array[
            'bridge: users add attachments to their own sessions',
            'bridge: users read the attachments of their own sessions']) n (name)
         where not exists (
            select from pg_catalog.pg_policies p
             where p.schemaname = 'storage' and p.tablename = 'objects' and p.policyname = n.name)
    ) and exists (
        select from pg_catalog.pg_trigger t
         where t.tgrelid = to_regclass('storage.objects') and t.tgenabled in ('O', 'A')
           and t.tgname = 'bridge: sessions hold a limited number of attachments');
end
$$;
comment on function bridge.has_attachments_access is 'Whether everything that bridge.attachments_access() creates is there.';

create function bridge.check_bucket() returns text
language plpgsql stable set search_path = ''
as $$
declare
    bucket record;
begin
    if not bridge.has_storage() then
        return null;
    end if;
    select b.public, b.file_size_limit into bucket from storage.buckets b where b.id = 'attachments';
    if not found then
        return 'The bucket "attachments" is missing.';
    elsif bucket.public then
        return 'The bucket "attachments" is public: anybody can read what users attach.';
    elsif bucket.file_size_limit is null then
        return 'The bucket "attachments" has no limit for the size of a file.';
    end if;
    return null;
end
$$;
comment on function bridge.check_bucket is 'What is wrong with the bucket of attachments, in one line; null: nothing, or the project has no Storage.';

do $$
begin
    if to_regclass('storage.objects') is null then
        return;
    end if;
    insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types) values (
        'attachments', 'attachments', false, 10485760,
        '{image/png,image/jpeg,image/gif,image/webp,application/pdf,audio/mpeg,audio/wav,text/plain}')
        on conflict (id) do nothing;
    if not bridge.has_attachments_access() then
        execute bridge.attachments_access();
    end if;
exception when insufficient_privilege then
    raise warning 'The bucket "attachments" or what guards it cannot be created (%). Run `bridge doctor`: it prints what to run in the SQL editor of the dashboard.', sqlerrm;
end
$$;


-- functions that change ----------------------------------------------------------------------------

create or replace function bridge.check_question(question public.messages, owner uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    -- no more than messages_content_size allows, whatever the limit says
    most bigint := least(bridge.limit_of('message_bytes', check_question.owner), 131072);
begin
    if question.content !~ '\S' and question.attachments is null then
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
comment on function bridge.check_question is
    'Refuses a question that is empty, too long or too far ahead. Its attachments have been checked.';

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
    new.attachments := bridge.check_attachments(new, session.user_id);
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
comment on function bridge.accept_question is
    'Checks a question, gives it its place in the session, and chooses the worker that it will be dispatched to.';

create or replace function bridge.history_of(
    question public.messages, most int, most_bytes bigint default null, is_older boolean default false
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    pair record;
    bytes bigint := 0;
    messages jsonb[] := '{}';
begin
    -- the newest first, until a limit is reached
    for pair in
        select q.content as asked, q.attachments, r.content as replied, r.data, pg_column_size(r.data) as stored
          from public.messages r
          join public.messages q on q.id = r.reply_to
         where r.session_id = question.session_id and r.ordinal < question.ordinal
           and r.status in ('done', 'cancelled')
           and (r.content <> '' or (not is_older and r.data is not null and bridge.data_of(r.data) is not null))
         order by r.ordinal desc limit history_of.most / 2
    loop
        if pair.data is not null then  -- by what is stored, before anything long is read
            if bytes + pair.stored > history_of.most_bytes then
                return null;
            end if;
            pair.data := bridge.data_of(pair.data);
        end if;
        bytes := bytes + octet_length(pair.asked) + octet_length(pair.replied)
            + coalesce(octet_length(pair.data::text), 0) + coalesce(octet_length(pair.attachments::text), 0);
        exit when bytes > 262144;
        if bytes > history_of.most_bytes then
            return null;
        end if;
        if pair.data is not null and not bridge.is_readable(pair.data) then  -- a trigger or an administrator wrote it
            continue when pair.replied = '';
            pair.data := null;
        end if;
        messages := jsonb_build_object('role', 'assistant', 'content', pair.replied, 'data', pair.data) || messages;
        messages := (jsonb_build_object('role', 'user', 'content', pair.asked)
            || case when pair.attachments is null then '{}'
                    else jsonb_build_object('attachments', pair.attachments) end) || messages;
    end loop;
    return to_jsonb(messages);
end
$$;
comment on function bridge.history_of is
    'What was said before a question, as [{role, content, data?, attachments?}]: the questions that have a reply, each followed by it, up to `most` messages and 256 KiB; null if that is more than `most_bytes`. One that failed, or was cancelled before it had any text, is left out. is_older: without replies that have only data, of which an older worker would make empty messages, and some models refuse these.';

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
        'attachments', question.attachments,
        'model', coalesce(question.model, session.model),
        'session', jsonb_build_object(
            'id', session.id, 'user_id', session.user_id, 'title', session.title,
            'function', session.function, 'metadata', session.metadata),
        'history', said,
        'files', files);
end
$$;
comment on function bridge.payload is
    'Everything a worker needs to answer a question, in one value; null if a part of it is larger than `most_bytes`.';

create or replace function bridge.estimate_tokens(job bridge.jobs, out input_tokens int, out output_tokens int)
language plpgsql stable set search_path = ''
as $$
begin
    -- four bytes a token, a thousand tokens for an image or a document, and no more context than a claim brings
    input_tokens := (
        coalesce((select octet_length(m.content) + coalesce(octet_length(m.data::text), 0)
                    from public.messages m where m.id = job.question_id), 0)
        + coalesce((
            select sum(case a.value ->> 'type' when 'text/plain' then (a.value ->> 'size')::bigint else 4000 end)
              from public.messages m cross join jsonb_array_elements(m.attachments) a
             where m.id = job.question_id), 0)
        + least(262144, coalesce((
            select sum(octet_length(m.content)) from public.messages m
             where m.session_id = job.session_id and m.ordinal < job.ordinal and m.status in ('done', 'cancelled')), 0))
        + least(524288, coalesce((
            select sum(octet_length(f.content)) from public.code_files f where f.session_id = job.session_id), 0))) / 4;
    output_tokens := coalesce((
        select octet_length(m.content) from public.messages m where m.reply_to = job.question_id), 0) / 4;
end
$$;
comment on function bridge.estimate_tokens is 'About how many tokens an attempt cost that nobody reports.';

create or replace function public.bridge_claim(
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
        'missed', alive.missed)
        || case when bridge.has_orphans() then jsonb_build_object('orphans', true) else '{}' end;
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Of functions that other workers answer well, it takes as many jobs as `probing` names it times, or none if it is `paused`. Those that are `failing` are noted. The last `reserve` slots are for users who have asked little. `capacity`: how many jobs can be dispatched to it while it calls at least every `hears_seconds` (0: it does not hear its topic, or drains; null: it has none, as it has an older version). `knows_steps`: it can go on with questions that have steps; others do not get these. Returns {jobs: [{question_id, …}], held_back, elsewhere, next_in_ms, lease_in_ms, workers, ready, watches, missed, at_ms, snapshot}. held_back: claim again when a reply has ended. elsewhere: the functions that other workers answer well. The snapshot shows which transactions the claim has seen.';

create or replace function public.bridge_describe(functions json) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    item json;
    its record;
begin
    for item in
        select distinct on (x.item ->> 'name') x.item
          from json_array_elements(bridge_describe.functions) x (item)
         where octet_length(x.item ->> 'name') between 1 and 128
           and x.item ->> 'name' !~ '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
         order by x.item ->> 'name'
         limit 1000
    loop
        begin
            select * into its from json_to_record(item) x (
                name text, title text, description text, parameters json, result json, suggestions jsonb,
                reads_files boolean, accepts jsonb, internal boolean);
            if its.internal then
                delete from public.functions f where f.name = its.name;
            elsif item -> 'title' is null then  -- an older worker knows of nothing but the result
                insert into public.functions as f (name, result) values (its.name, its.result)
                on conflict (name) do update set result = excluded.result, updated_at = now();
            else
                insert into public.functions as f (
                    name, title, description, parameters, result, suggestions, reads_files, accepts)
                values (its.name, its.title, its.description, its.parameters, its.result,
                        coalesce(its.suggestions, '[]'), coalesce(its.reads_files, false),
                        coalesce(its.accepts, '[]'))
                on conflict (name) do update
                   set title = excluded.title, description = excluded.description, parameters = excluded.parameters,
                       result = excluded.result, suggestions = excluded.suggestions,
                       reads_files = excluded.reads_files, accepts = excluded.accepts, updated_at = now();
            end if;
        exception when data_exception or integrity_constraint_violation then  -- of the rest, something is too large
            insert into public.functions as f (name) values (item ->> 'name')
            on conflict (name) do update set result = null, updated_at = now();
        end;
    end loop;
    -- what no worker has known within the last day
    delete from public.functions f
     where f.updated_at < now() - interval '1 day'
       and not exists (select from bridge.functions b where b.name = f.name);
end
$$;
comment on function public.bridge_describe is
    'Describes the functions [{name, title, description, parameters, result, suggestions, reads_files, accepts}] of a worker that '
    'starts. An item without the key title, as older workers send it, changes only the result. One that is internal is '
    'removed. Of one that breaks a bound of the table, only the name is kept.';

create or replace function public.bridge_doctor() returns jsonb
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
        'storage', bridge.has_storage(),
        'attachments_bucket', bridge.check_bucket(),
        'attachments_access', case when to_regclass('storage.objects') is not null and not bridge.has_attachments_access()
            then bridge.attachments_access() end,
        'models', (select coalesce(jsonb_agg(m.name order by m.ordinal, m.name), '[]') from public.models m),
        'can_announce', has_function_privilege('realtime.send(jsonb, text, text, boolean)', 'execute'),
        'authenticated_statement_timeout', (
            select split_part(c.setting, '=', 2)
              from pg_catalog.pg_db_role_setting r
              join pg_catalog.pg_roles o on o.oid = r.setrole
             cross join unnest(r.setconfig) c (setting)
             where o.rolname = 'authenticated' and c.setting like 'statement\_timeout=%'
             order by r.setdatabase desc limit 1));
end
$$;
comment on function public.bridge_doctor is
    'What `bridge doctor` cannot see from outside: tables missing from the publication, the policies and the trigger to create if they are missing, whether there is Storage, what is wrong with its bucket `attachments`, the names of the models, whether broadcasts can be sent, and how long a request of a user may take.';

create function bridge.is_needed(path text, days int) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return exists (
        select from bridge.attachments a
         where a.path = is_needed.path
           and (a.created_at >= now() - make_interval(days => is_needed.days)
                or exists (
                    select from public.messages m
                     where m.id = a.message_id
                       and (exists (select from bridge.jobs j where j.question_id = coalesce(m.reply_to, m.id))
                            or exists (
                                select from bridge.dead_letters d where d.question_id = coalesce(m.reply_to, m.id))))));
end
$$;
comment on function bridge.is_needed is
    'Whether an attachment was named in the last `days`, or by a question that has not ended or has a dead letter, or by its reply.';

create function bridge.trim_attachments(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    paths text[];
    locked uuid[];
    deleted int;
begin
    paths := array(
        select x.path from (
            select a.path from bridge.attachments a
             where a.created_at < now() - make_interval(days => trim_attachments.days)
               and not bridge.is_needed(a.path, trim_attachments.days)
             order by a.created_at limit trim_attachments.most for update skip locked) x);
    -- A question that names one again holds its session. A locked session is left to the next call.
    locked := array(
        select s.id from public.sessions s
         where s.id in (select split_part(p.path, '/', 1)::uuid from unnest(paths) p (path))
         order by s.id for no key update skip locked);
    paths := array(
        select distinct p.path from unnest(paths) p (path)
         where split_part(p.path, '/', 1)::uuid = any (locked)
           and not bridge.is_needed(p.path, trim_attachments.days));
    insert into bridge.orphans (prefix) select p.path from unnest(paths) p (path) order by p.path on conflict do nothing;
    delete from bridge.attachments a where a.path = any (paths);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_attachments is
    'Notes up to `most` attachments that were named more than `days` ago and are not needed, so that a worker removes their objects; returns how often they were named, which may be more. Their messages stay.';

-- it has one more parameter
drop function public.bridge_trim;
create function public.bridge_trim(
    runs_days int default 30,
    dead_letters_days int default 90,
    versions_days int default null,
    max_rows int default 5000,
    steps_days int default 7,
    attachments_days int default null
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int;
    letters int;
    versions int;
    steps int;
    attachments int;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days, bridge_trim.steps_days,
             bridge_trim.attachments_days) < 1
    then
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
    attachments := bridge.trim_attachments(bridge_trim.attachments_days, rest);
    rest := greatest(rest - attachments, 0);  -- an object's names are forgotten together
    -- deletions forget ids as well, but one that deletes many sessions leaves more than it forgets
    rest := rest - bridge.forget_ids(rest);
    return jsonb_build_object(
        'runs', runs, 'dead_letters', letters, 'versions', versions, 'steps', steps,
        'attachments', attachments, 'more', rest = 0,
        'broadcasts', bridge.forget_broadcasts(array(
            select d.id from bridge.deleted_ids d where d.deleted_at > now() - interval '4 days')));
end
$$;
comment on function public.bridge_trim is
    'Deletes attempts, dead letters, steps and earlier versions of files that are older than the given days (null keeps all), at most max_rows rows; has workers remove attachments that are older; and deletes what Realtime still stores of broadcasts about deleted sessions. Returns {runs, dead_letters, versions, steps, attachments, broadcasts, more}; if `more`, call it again.';

drop trigger announce_update on public.sessions;
create trigger announce_update after update on public.sessions
    for each row when ((old.title, old.function, old.metadata, old.on_new_message, old.model)
                       is distinct from (new.title, new.function, new.metadata, new.on_new_message, new.model))
    execute function bridge.announce_row('user', 'session');


-- schemas/grants.sql -------------------------------------------------------------------------------

revoke all on all functions in schema bridge from public, anon, authenticated, service_role;
grant execute on function bridge.cancel_message, bridge.retry_message, bridge.answer_message to authenticated;
grant execute on function bridge.may_upload to authenticated;
revoke all on function public.bridge_orphans, public.bridge_orphans_done, public.bridge_trim
    from public, anon, authenticated;
grant execute on function public.bridge_orphans, public.bridge_orphans_done, public.bridge_trim to service_role;
