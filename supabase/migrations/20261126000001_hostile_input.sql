-- What a user can write must neither stop a worker nor reach another user.
--
-- - JSON that Postgres takes and a worker cannot read (nested a thousand deep, a number of five thousand digits) made the
--   whole answer of a claim unreadable, for every worker that claimed it.
-- - Ids of deleted rows are no secret (postgres_changes). Whoever inserted one again, while a worker still had the deleted
--   question in hand, could be given what that worker went on to say: in its reply, or on the session's topic.


-- JSON that can be read everywhere -----------------------------------------------------------------

create function bridge.is_readable(value jsonb) returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
    return is_readable.value is null or not (
        jsonb_path_exists(is_readable.value, 'strict $.**{33}')
        or jsonb_path_exists(
            is_readable.value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))'));
end
$$;
comment on function bridge.is_readable is
    'Whether a value is nested at most 32 deep, its numbers within those of a double: what JSON parsers can be relied on to read.';

create function bridge.check_json() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    name text;
begin
    if tg_table_name = 'messages' then
        name := case when not bridge.is_readable(new.data) then 'data' end;
    else
        name := case when not bridge.is_readable(new.metadata) then 'metadata' end;
    end if;
    if name is not null then
        raise exception '"%" is nested too deep, or has a number that is too large.', name
            using errcode = 'PT400', hint = 'At most 32 levels, and numbers up to 1e308. Send a larger number as text.';
    end if;
    return new;
end
$$;
comment on function bridge.check_json is 'Refuses JSON that a worker could not read.';

create trigger check_json before insert or update of metadata on public.sessions
    for each row when (new.metadata <> '{}') execute function bridge.check_json();

-- and a row that was there before fails alone
create or replace function bridge.claimed(
    job bridge.jobs, history int, opens boolean default false, taken_over boolean default false
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
    told jsonb;
begin
    if opens and not (job).cancel then
        set constraints all immediate;  -- a trigger that is deferred speaks here, not at the commit of the whole claim
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values ((job).session_id, (job).ordinal + 1, 'assistant', 'running', (job).message_id, (job).attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp();
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = (job).message_id and m.status <> 'running';
    end if;
    told := bridge.payload(job, claimed.history, claimed.taken_over);
    if not (bridge.is_readable(told -> 'data') and bridge.is_readable(told #> '{session,metadata}')) then
        raise exception 'its data or its session''s metadata cannot be read' using errcode = '22023';
    end if;
    return told;
exception when others then
    if bridge.passes(sqlstate) then
        raise;  -- no fault of this job's: the claim is asked for again
    end if;
    -- this one alone is lost to its worker, which finishes it as failed
    return jsonb_build_object(
        'message_id', (job).message_id, 'attempt', (job).attempt, 'failures', (job).failures,
        'cancel', (job).cancel, 'taken_over', claimed.taken_over, 'broken', sqlstate || ' ' || sqlerrm);
end
$$;


-- ids of what is gone ------------------------------------------------------------------------------

create table bridge.deleted_ids (
    id uuid primary key,
    deleted_at timestamptz not null default now()
);
comment on table bridge.deleted_ids is
    'Sessions and questions that were deleted within the last week. A worker may still have one in hand, and a user may still listen to its topic.';

create index deleted_ids_by_time on bridge.deleted_ids (deleted_at);
revoke all on bridge.deleted_ids from public, anon, authenticated, service_role;

create function bridge.note_deleted() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    since timestamptz := now() - interval '7 days';  -- no token of Supabase's lives longer, and no reply takes as long
begin
    if tg_table_name = 'sessions' then
        insert into bridge.deleted_ids (id) select d.id from deleted d order by d.id on conflict do nothing;
    else
        insert into bridge.deleted_ids (id)
        select d.id from deleted d where d.role = 'user' and d.updated_at > since order by d.id
        on conflict do nothing;
    end if;
    with forgotten as materialized (
        select x.id from bridge.deleted_ids x where x.deleted_at < since
         order by x.deleted_at limit 500 for update skip locked)
    delete from bridge.deleted_ids i using forgotten where i.id = forgotten.id;
    return null;
end
$$;
comment on function bridge.note_deleted is 'Keeps the ids of deleted sessions and questions for a week.';

create trigger note_deleted after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.note_deleted();

create function bridge.refuse_deleted() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    if exists (select from bridge.deleted_ids d where d.id = new.id) then
        raise exception 'The id % was in use, and what had it was deleted.', new.id
            using errcode = 'PT409', hint = 'Choose a new one.';
    end if;
    return new;
end
$$;
comment on function bridge.refuse_deleted is
    'Nobody gets the topic of a session that somebody else had, and no question the fence (message, worker, attempt) of another.';

-- after the insert, which waits for a deletion of the same id that is under way
create trigger refuse_deleted after insert on public.sessions
    for each row execute function bridge.refuse_deleted();

revoke all on function bridge.is_readable, bridge.check_json, bridge.note_deleted, bridge.refuse_deleted
    from public, anon, authenticated, service_role;
