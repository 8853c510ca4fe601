-- Broadcasts on private Realtime topics: `session:<id>` and `user:<id>` for frontends, `worker:<name>` for one worker,
-- `bridge:inbox` for all of them.
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
    if octet_length(event_payload.record::text) <= 32768 then  -- the usual case
        return event_payload.record;
    end if;
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
    for each row when ((old.title, old.function, old.metadata, old.on_new_message, old.model)
                       is distinct from (new.title, new.function, new.metadata, new.on_new_message, new.model))
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
