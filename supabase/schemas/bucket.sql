-- The private bucket of attachments, and who may store and read objects there. Only the service role may change or
-- remove them.
--
-- On the hosted service `storage.objects` belongs to another role, which lets `postgres` create policies and triggers on
-- it. Where `supabase db push` may not, this warns, and `bridge doctor` prints what to run in the SQL editor of the dashboard.

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
