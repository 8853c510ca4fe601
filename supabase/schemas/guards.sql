-- Input guards: what a user writes must neither stop a worker nor reach another user.
--
-- - JSON that Postgres accepts and a worker cannot read (nested a thousand levels deep, a number of five thousand
--   digits) would make the whole answer of a claim unreadable, for every worker that claims it.
-- - Ids of deleted rows are public (postgres_changes). A user who inserts one again, while a worker is still answering
--   the deleted question, must not receive that answer in a reply or on the session's topic.

create function bridge.is_readable(value jsonb) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
    return is_readable.value is null or not (
        jsonb_path_exists(is_readable.value, 'strict $.**{33}')
        or jsonb_path_exists(
            is_readable.value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'));
end
$$;
comment on function bridge.is_readable is
    'Whether every JSON parser can read a value: at most 32 levels deep, numbers within the range of a double.';

create function bridge.check_json() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    value jsonb;
begin
    -- not `to_jsonb(new) -> tg_argv[0]`, which copies the whole row
    if tg_argv[0] = 'metadata' then
        value := new.metadata;
    else
        value := new.data;
    end if;
    if not bridge.is_readable(value) then
        raise exception '"%" is nested too deeply or contains a number that is too large', tg_argv[0]
            using errcode = 'PT400', hint = 'Use at most 32 levels and numbers up to 1e308. Send larger numbers as text.';
    end if;
    return new;
end
$$;
comment on function bridge.check_json is 'Trigger argument (column): refuses JSON that a worker could not read.';

create trigger check_json before insert or update of metadata on public.sessions
    for each row when (new.metadata <> '{}') execute function bridge.check_json('metadata');
create trigger check_json before insert on public.messages
    for each row when (new.data is not null) execute function bridge.check_json('data');

create function bridge.forget_ids(most int) returns int
language plpgsql set search_path = ''
as $$
declare
    forgotten int;
begin
    delete from bridge.deleted_ids i where i.id = any (array(
        select x.id from bridge.deleted_ids x where x.deleted_at < now() - interval '7 days'
         order by x.deleted_at limit forget_ids.most for update skip locked));
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;
comment on function bridge.forget_ids is 'Deletes up to `most` of the ids that are older than a week; returns how many.';

create function bridge.forget_broadcasts(session_ids uuid[], most_bytes bigint default null) returns int
language plpgsql security definer set search_path = '' set lock_timeout = '100ms'
as $$
declare
    ids text[] := array(select x.id::text from unnest(forget_broadcasts.session_ids) x (id));
    topics text[] := array(select 'session:' || x.id from unnest(ids) x (id));
    bytes bigint;
    forgotten int;
    more int;
begin
    if ids = '{}' or not has_table_privilege('realtime.messages', 'delete') then
        return 0;
    end if;
    select coalesce(sum(pg_table_size(i.inhrelid)), 0) into bytes
      from pg_catalog.pg_inherits i where i.inhparent = 'realtime.messages'::regclass;
    if bytes > forget_broadcasts.most_bytes then
        return 0;
    end if;
    delete from realtime.messages m where m.topic = any (topics);
    get diagnostics forgotten = row_count;
    delete from realtime.messages m where m.event = 'session' and m.topic ^@ 'user:' and m.payload ->> 'id' = any (ids);
    get diagnostics more = row_count;
    forgotten := forgotten + more;
    delete from realtime.messages m
     where m.event = 'job' and m.topic ^@ 'worker:' and m.payload #>> '{session,id}' = any (ids);
    get diagnostics more = row_count;
    return forgotten + more;
exception when others then
    raise warning 'bridge.forget_broadcasts: %', sqlerrm;
    return 0;
end
$$;
comment on function bridge.forget_broadcasts is
    'Deletes what Realtime has stored of broadcasts about sessions (for three days), and returns how many. There is no index to find them by: if the table is larger than `most_bytes`, it does nothing.';

create function bridge.note_deleted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if tg_table_name = 'sessions' then
        insert into bridge.deleted_ids (id) select d.id from deleted d order by d.id on conflict do nothing;
        -- at once where that takes a moment, otherwise bridge_trim does it
        perform bridge.forget_broadcasts(array(select d.id from deleted d), 33554432);
    else
        -- a week: Supabase's tokens do not live longer, and no reply takes as long
        insert into bridge.deleted_ids (id)
        select d.id from deleted d where d.role = 'user' and d.updated_at > now() - interval '7 days' order by d.id
        on conflict do nothing;
    end if;
    perform bridge.forget_ids(500);
    return null;
end
$$;
comment on function bridge.note_deleted is 'Keeps the ids of deleted sessions and questions for a week, and forgets what was broadcast about the sessions.';

create trigger note_deleted after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();
create trigger note_deleted after delete on public.messages
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();

create function bridge.refuse_deleted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if exists (select from bridge.deleted_ids d where d.id = new.id) then
        raise exception 'Id % belonged to a deleted row; use a new one', new.id using errcode = 'PT409';
    end if;
    return new;
end
$$;
comment on function bridge.refuse_deleted is
    'No user gets the topic of another''s deleted session, and no question the fence (question, worker, attempt) of another.';

-- after the insert, which waits for a concurrent deletion of the same id
create trigger refuse_deleted after insert on public.sessions
    for each row execute function bridge.refuse_deleted();
create trigger refuse_deleted before insert on public.messages
    for each row when (new.role = 'user') execute function bridge.refuse_deleted();
