-- Attachments: files in Supabase Storage that questions and replies name.
--
-- A project may have no Storage: nothing but attachments needs it.

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
