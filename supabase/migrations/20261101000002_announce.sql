-- Hints: what changed is said on private Realtime topics. A hint may be lost; it never stops a row.

create function bridge.announce(topic text, event text, payload jsonb) returns void
language plpgsql
security definer
set search_path = ''
set lock_timeout = '100ms'
as $$
begin
    perform realtime.send(announce.payload, announce.event, announce.topic, true);
exception when others then
    raise warning 'bridge.announce: % on %: %', announce.event, announce.topic, sqlerrm;
end
$$;
comment on function bridge.announce is 'Sends a broadcast on a private topic when the transaction commits; never fails.';

create function bridge.slim(record jsonb) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    omitted text[];
begin
    select array_agg(f.key order by f.key) into omitted
      from jsonb_each(slim.record) f
     where octet_length(f.value::text) > 32768;
    if omitted is null then
        return slim.record;
    end if;
    return slim.record - omitted || jsonb_build_object('omitted', to_jsonb(omitted));
end
$$;
comment on function bridge.slim is 'A row as an event: fields above 32 KiB are left out and named in `omitted`.';

create function bridge.announce_message() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform bridge.announce('session:' || new.session_id, 'message', bridge.slim(to_jsonb(new)));
    return null;
end
$$;
comment on function bridge.announce_message is 'Tells a session''s topic about a row of messages.';

create trigger announce_insert after insert on public.messages
    for each row execute function bridge.announce_message();
-- never for a checkpoint, which changes neither
create trigger announce_update after update on public.messages
    for each row when (old.status is distinct from new.status or old.attempt is distinct from new.attempt)
    execute function bridge.announce_message();

create function bridge.announce_file() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform bridge.announce('session:' || new.session_id, 'file', bridge.slim(to_jsonb(new)));
    return null;
end
$$;
comment on function bridge.announce_file is 'Tells a session''s topic about a row of code_files.';

create trigger announce_insert after insert on public.code_files
    for each row execute function bridge.announce_file();
create trigger announce_update after update on public.code_files
    for each row when (old.revision is distinct from new.revision or old.path is distinct from new.path
                       or old.language is distinct from new.language)
    execute function bridge.announce_file();

create function bridge.announce_session() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform bridge.announce('user:' || new.user_id, 'session', bridge.slim(to_jsonb(new)));
    return null;
end
$$;
comment on function bridge.announce_session is 'Tells a user''s topic about a row of sessions.';

create trigger announce_insert after insert on public.sessions
    for each row execute function bridge.announce_session();
-- not for every message, which moves last_ordinal and updated_at alone
create trigger announce_update after update on public.sessions
    for each row when ((old.title, old.function, old.metadata, old.on_new_message)
                       is distinct from (new.title, new.function, new.metadata, new.on_new_message))
    execute function bridge.announce_session();

create function bridge.announce_deleted_sessions() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- a user that is deleted takes all sessions along: nobody is left to be told
    perform bridge.announce('user:' || d.user_id, 'session_deleted', jsonb_build_object('id', d.id))
       from deleted d
      where exists (select from auth.users u where u.id = d.user_id);
    return null;
end
$$;
comment on function bridge.announce_deleted_sessions is 'Tells users'' topics which of their sessions are gone.';

create trigger announce_delete after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.announce_deleted_sessions();

revoke all on all functions in schema bridge from public, anon, authenticated, service_role;


-- For frontends that prefer postgres_changes. Realtime never filters DELETE by RLS: the ids of deleted
-- rows (and nothing but the primary key: replica identity is the default) reach every subscriber.
do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
    alter publication supabase_realtime add table public.sessions, public.messages, public.code_files;
end
$$;
