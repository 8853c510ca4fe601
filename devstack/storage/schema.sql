-- The schema `storage` with the names, columns, grants and behaviour of Supabase Storage v1.62. The superuser
-- supabase_admin applies it before any migration. It is idempotent.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'supabase_storage_admin') then
        create role supabase_storage_admin nologin noinherit noreplication;
    end if;
end
$$;
-- Lets migrations create policies and triggers on the tables below; devstack/guard.sql refuses the rest.
grant supabase_storage_admin to postgres with inherit true, set false;

create schema if not exists storage;
comment on schema storage is 'Storage: buckets, and the objects in them.';
revoke all on schema storage from public;
grant all on schema storage to supabase_storage_admin;
grant usage on schema storage to postgres, anon, authenticated, service_role;
alter default privileges in schema storage grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges in schema storage grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges in schema storage grant all on functions to postgres, anon, authenticated, service_role;

do $$
begin
    if to_regtype('storage.buckettype') is null then
        create type storage.buckettype as enum ('STANDARD', 'ANALYTICS', 'VECTOR');
    end if;
end
$$;
alter type storage.buckettype owner to supabase_storage_admin;

create table if not exists storage.buckets (
    id text not null primary key,
    name text not null,
    owner uuid,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    public boolean default false,
    avif_autodetection boolean default false,
    file_size_limit bigint,
    allowed_mime_types text[],
    owner_id text,
    type storage.buckettype not null default 'STANDARD'
);
comment on table storage.buckets is 'Policies on this table control who may see, create, change and delete buckets.';
comment on column storage.buckets.owner is 'Field is deprecated, use owner_id instead';
create unique index if not exists bname on storage.buckets (name);

create table if not exists storage.objects (
    id uuid not null default gen_random_uuid() primary key,
    bucket_id text constraint "objects_bucketId_fkey" references storage.buckets (id),
    name text,
    owner uuid,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    last_accessed_at timestamptz default now(),
    metadata jsonb,
    path_tokens text[] generated always as (string_to_array(name, '/')) stored,
    version text,
    owner_id text,
    user_metadata jsonb
);
comment on table storage.objects is
    'A row for each object. Policies on this table control who may upload, download, list, change and remove objects.';
comment on column storage.objects.owner is 'Field is deprecated, use owner_id instead';
create unique index if not exists bucketid_objname on storage.objects (bucket_id, name);
create index if not exists name_prefix_search on storage.objects (name text_pattern_ops);
create index if not exists idx_objects_bucket_id_name on storage.objects (bucket_id, name collate "C");

alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;

-- As on the hosted service, these functions have no search_path of their own and everybody may call them.
create or replace function storage.foldername(name text) returns text[]
    language sql
    immutable
as $$
    select (string_to_array(name, '/'))[1 : cardinality(string_to_array(name, '/')) - 1];
$$;
comment on function storage.foldername(text) is 'The folders of an object''s name.';

create or replace function storage.filename(name text) returns text
    language sql
    immutable
as $$
    select (string_to_array(name, '/'))[cardinality(string_to_array(name, '/'))];
$$;
comment on function storage.filename(text) is 'The part of an object''s name after the last slash.';

create or replace function storage.extension(name text) returns text
    language sql
    immutable
as $$
    select reverse(split_part(reverse(storage.filename(name)), '.', 1));
$$;
comment on function storage.extension(text) is 'The part of a file''s name after the last dot; the whole name without one.';

create or replace function storage.operation() returns text
    language sql
    stable
as $$
    select current_setting('storage.operation', true);
$$;
comment on function storage.operation() is 'What the request does, for use in policies; such as storage.object.upload.';

create or replace function storage.allow_any_operation(expected_operations text[]) returns boolean
    language sql
    stable
as $$
    select coalesce(
        regexp_replace(storage.operation(), '^storage\.', '')
            = any (select regexp_replace(expected, '^storage\.', '')
                   from unnest(expected_operations) as expected where expected <> ''),
        false);
$$;
comment on function storage.allow_any_operation(text[]) is 'Whether the request does one of these operations.';

create or replace function storage.allow_only_operation(expected_operation text) returns boolean
    language sql
    stable
as $$
    select storage.allow_any_operation(array[expected_operation]);
$$;
comment on function storage.allow_only_operation(text) is 'Whether the request does this operation.';

create or replace function storage.update_updated_at_column() returns trigger
    language plpgsql
as $$
begin
    new.updated_at = now();
    return new;
end
$$;
create or replace trigger update_objects_updated_at before update on storage.objects
    for each row execute function storage.update_updated_at_column();

create or replace function storage.enforce_bucket_name_length() returns trigger
    language plpgsql
as $$
begin
    if length(new.name) > 100 then
        raise exception 'bucket name "%" is too long (% characters). Max is 100.', new.name, length(new.name);
    end if;
    return new;
end
$$;
create or replace trigger enforce_bucket_name_length_trigger before insert or update of name on storage.buckets
    for each row execute function storage.enforce_bucket_name_length();

-- A row that is deleted in SQL would leave its bytes behind.
create or replace function storage.protect_delete() returns trigger
    language plpgsql
as $$
begin
    if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' then
        raise exception 'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
            using hint = 'This prevents accidental data loss from orphaned objects.', errcode = '42501';
    end if;
    return null;
end
$$;
create or replace trigger protect_buckets_delete before delete on storage.buckets
    for each statement execute function storage.protect_delete();
create or replace trigger protect_objects_delete before delete on storage.objects
    for each statement execute function storage.protect_delete();

do $$
declare
    helper regprocedure;
begin
    for helper in select oid from pg_catalog.pg_proc where pronamespace = 'storage'::regnamespace loop
        execute format('alter function %s owner to supabase_storage_admin', helper);
    end loop;
end
$$;
