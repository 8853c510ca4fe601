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
         where f.session_id = job.session_id and f.path = write_file.path for update nowait;
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
set lock_timeout = '50ms'  -- for a path that the user is adding; what the user has locked is not waited for
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
