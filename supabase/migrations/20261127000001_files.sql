-- Files that are there already, when a user or a reply adds one under their path; and those of other people.
--
-- - An upsert of a path that is taken adds no file, and is not one too many. PostgREST sets every column that it was
--   sent, the session's as well: a user may write that one, and may not change it.
-- - A user renames a file to a path at the moment in which a reply adds it: the user's text stays, and the reply's is kept
--   as a version and announced as a conflict, as it is for every other edit.
-- - A file for somebody else's session was refused, but not before that session was locked.

drop function bridge.check_files(uuid);

create function bridge.check_files(session_id uuid, path text) returns void
language plpgsql
set search_path = ''
as $$
declare
    session public.sessions;
    most bigint;
begin
    session := bridge.lock_session(check_files.session_id, auth.uid());
    if session.id is null then
        raise exception 'There is no session % of yours.', check_files.session_id using errcode = '42501';
    end if;
    most := bridge.limit_of('files_per_session', session.user_id);
    if (select count(*) from public.code_files f where f.session_id = check_files.session_id) >= most
       and not exists (
           select from public.code_files f
            where f.session_id = check_files.session_id and f.path = check_files.path)
    then
        perform bridge.refuse(format('At most %s files are kept in a session.', most), 'files_per_session', most);
    end if;
end
$$;
comment on function bridge.check_files is
    'Refuses a file too many; one whose path is taken is none. Takes the session''s lock, if it is the caller''s.';

create or replace function bridge.revise_file() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        perform bridge.check_files(new.session_id, new.path);
        new.revision := 1;
        new.created_at := now();
    elsif new.session_id <> old.session_id and auth.uid() is not null then
        raise exception 'A file stays in its session.' using errcode = 'PT400', hint = 'Add it to the other session.';
    elsif new.content is distinct from old.content then
        new.revision := old.revision + 1;
        insert into public.code_file_versions (file_id, session_id, path, content, language, revision, message_id)
        values (old.id, old.session_id, old.path, old.content, old.language, old.revision, old.message_id);
        perform bridge.trim_versions(old.id, old.session_id);
        if new.message_id is not distinct from old.message_id and auth.uid() is not null then
            new.message_id := null;  -- a user's own edit: no reply wrote this
        end if;
    else
        new.revision := old.revision;
    end if;
    -- not sooner: the limit of somebody else's session is not to be told
    perform bridge.check_file_size(new.session_id, new.content);
    new.updated_at := clock_timestamp();
    return new;
end
$$;

grant update (session_id) on public.code_files to authenticated;

create or replace function bridge.write_file(job bridge.jobs, reply_id uuid, item jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
    file public.code_files;
begin
    for look in 1 .. 5 loop
        select f.* into file from public.code_files f
         where f.session_id = (job).session_id and f.path = item ->> 'path' for update;
        exit when found;
        -- Whoever renames a file takes no lock of the session's. The insert waits for one that is under way, and finds
        -- the path taken; the next look sees by what.
        insert into public.code_files (session_id, path, content, language, message_id)
        values ((job).session_id, item ->> 'path', item ->> 'content', item ->> 'language', write_file.reply_id)
            on conflict on constraint code_files_session_path_key do nothing;
        if found then
            return;
        end if;
    end loop;
    if file.id is null then
        raise exception 'the path is taken and free by turns' using errcode = '23505';
    end if;
    if file.revision = (item ->> 'revision')::int or file.message_id = write_file.reply_id then
        update public.code_files f
           set content = item ->> 'content', language = coalesce(item ->> 'language', f.language),
               message_id = write_file.reply_id
         where f.id = file.id;
    elsif file.content <> item ->> 'content' then
        -- the user edited it (or added it) meanwhile: the user's text stays
        insert into public.code_file_versions
            (file_id, session_id, path, content, language, revision, conflict, message_id)
        values (file.id, file.session_id, file.path, item ->> 'content', item ->> 'language',
                coalesce((item ->> 'revision')::int, 0), true, write_file.reply_id);
        perform bridge.announce('session:' || file.session_id, 'file',
                                bridge.slim(to_jsonb(file)) || jsonb_build_object('conflict', true));
    end if;
end
$$;

revoke all on function bridge.check_files from public, anon, authenticated, service_role;
