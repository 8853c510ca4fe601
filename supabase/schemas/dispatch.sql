-- Dispatch: what becomes ready is handed to one worker that hears its topic and has room. No other worker is bothered.
--
--   becomes ready ─ choose ─┬ room, small payload: held, with a short lease + payload ─▶ worker:<name>
--                           ├ room, a larger one:  held + hint ─▶ worker:<name>, which claims what it holds
--                           └ nobody has room:     stays ready + `work` ─▶ bridge:inbox, and workers claim
--   held ─ first beat, within a second ─▶ confirmed, with a full lease
--     └ not confirmed in time ─▶ another worker's claim; whoever did not confirm counts as not hearing
--
-- It runs in the transaction of a user's insert. Choosing never waits for a lock. If telling a worker fails, the job is
-- ready again. It reads the row of each worker: half a millisecond for a thousand.

create function bridge.dispatch_lease() returns interval
language plpgsql immutable set search_path = ''
as $$
begin
    return interval '3 seconds';
end
$$;
comment on function bridge.dispatch_lease is 'How long a dispatched job may stay unconfirmed.';

create function bridge.used_slots(worker text, horizon timestamptz) returns int[]
language plpgsql set search_path = ''  -- volatile: each call sees what has been committed before it
set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return array(  -- 0: without one
        select coalesce(h.slot, 0) from bridge.jobs h
         where h.worker is not null
           and (h.worker, h.run_at) >= (used_slots.worker, used_slots.horizon)
           and (h.worker, h.run_at) <= (used_slots.worker, 'infinity')
         order by h.worker, h.run_at);  -- as in bridge.held_by
end
$$;
comment on function bridge.used_slots is 'The slots of a worker that its jobs take; 0 for each job without one.';

create function bridge.lock_slots(worker text, horizon timestamptz, room int, most int) returns int[]
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    used int[] := bridge.used_slots(worker, horizon);
    passed int := 0;
    locked int[] := '{}';
    free int[] := '{}';
begin
    -- A slot's lock lasts until its job is visible to everybody. So no two transactions fill the same slot, and a user
    -- who keeps a transaction open keeps the slots of its questions from the others, and not the worker.
    -- A job without a slot takes up the last free one, for everybody alike.
    if cardinality(used) >= room then
        return locked;
    end if;
    for slot in 1 .. room loop
        continue when slot = any (used);
        passed := passed + 1;
        exit when passed > room - cardinality(used) or cardinality(locked) >= most;
        if pg_try_advisory_xact_lock(hashtextextended('bridge.slot ' || worker, slot)) then
            locked := locked || slot;
        end if;
    end loop;
    if locked = '{}' then
        return locked;
    end if;
    -- others may have filled some before they were locked
    used := bridge.used_slots(worker, horizon);
    passed := 0;
    for slot in 1 .. room loop
        continue when slot = any (used);
        passed := passed + 1;
        exit when passed > room - cardinality(used) or cardinality(free) = cardinality(locked);
        if slot = any (locked) then
            free := free || slot;
        end if;
    end loop;
    return free;
end
$$;
comment on function bridge.lock_slots is
    'Locks up to `most` of a worker''s first `room` slots, of those that are free, until the end of the transaction, without waiting. The worker then has `room` jobs at most.';

create function bridge.running_replies(user_id uuid, horizon timestamptz) returns bigint
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return (
        select count(*) from (
            select from bridge.jobs h
             where h.worker is not null
               and (h.user_id, h.run_at) >= (running_replies.user_id, running_replies.horizon)
               and (h.user_id, h.run_at) <= (running_replies.user_id, 'infinity')
             order by h.user_id, h.run_at offset 0) r);  -- in the order of jobs_running_of_user, the only one that fits
end
$$;
comment on function bridge.running_replies is 'How many replies of a user are running, of those that began after `horizon`.';

create function bridge.may_run(user_id uuid, horizon timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('running_replies', may_run.user_id);
begin
    return most is null or bridge.running_replies(user_id, horizon) < most;
end
$$;
comment on function bridge.may_run is 'Whether one more reply of a user may run.';

create function bridge.asks_little(user_id uuid, function text, horizon timestamptz) returns boolean
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return (
        select count(*) <= 2 from (
            select from bridge.jobs j  -- in the order of jobs_ready_by_user, the only one that fits
             where j.worker is null and j.function is not null
               and (j.function, j.user_id, j.run_at) >= (asks_little.function, asks_little.user_id, asks_little.horizon)
               and (j.function, j.user_id, j.run_at) <= (asks_little.function, asks_little.user_id, now())
             order by j.function, j.user_id, j.run_at limit 3) w);
end
$$;
comment on function bridge.asks_little is 'Whether at most two questions of a user wait.';

create function bridge.has_backlog(function text, horizon timestamptz, is_newcomer boolean, excluded uuid[])
returns boolean
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    oldest bigint[];
    waiting record;
begin
    oldest := array(
        select j.id from bridge.jobs j
         where j.worker is null and j.function is not null
           and (j.function, j.run_at) >= (has_backlog.function, has_backlog.horizon)
           and (j.function, j.run_at) <= (has_backlog.function, now())
           and j.question_id <> all (has_backlog.excluded)
         order by j.function, j.run_at, j.id limit 4);
    if oldest = '{}' then
        return false;
    elsif cardinality(oldest) = 4 then  -- perhaps all of one user who has asked a lot: what of the others?
        oldest := oldest || bridge.waiting_users(array[has_backlog.function], 16, 1, has_backlog.horizon);
    end if;
    for waiting in
        select distinct j.user_id from unnest(oldest) e (id)
         cross join lateral (  -- each by its id
            select h.user_id, h.question_id from bridge.jobs h where h.id = e.id limit 1) j
         where j.question_id <> all (has_backlog.excluded)
    loop
        if bridge.may_run(waiting.user_id, has_backlog.horizon)
           and not (has_backlog.is_newcomer and bridge.running_replies(waiting.user_id, has_backlog.horizon) > 0)
        then
            return true;
        end if;
    end loop;
    return false;
end
$$;
comment on function bridge.has_backlog is
    'Whether questions of a function wait that are next: of users who may run one more or, before a newcomer''s, of users who have nothing running. Then a claim decides, and nothing is dispatched past them.';

create function bridge.choose_worker(
    session_id uuid, user_id uuid, function text, finisher text, failed_by text, excluded uuid[],
    may_take_last boolean, has_steps boolean,
    out worker text, out slot int, out lease interval
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    candidate record;
    running bigint;
    most bigint;
    is_shared boolean;
    room int;
begin
    -- Of now, and not of the transaction's begin: its user's request may have waited, and gone on for long.
    -- Each session has an order of the workers of its own: it stays with a worker, which has joined its topic, as long
    -- as that one has room, and a fleet that changes moves few sessions.
    for candidate in
        select w.name, w.capacity, w.horizon, w.lease,
               choose_worker.function = any (w.failing) as is_failing,
               choose_worker.function = any (w.unproven) as is_unproven
          from bridge.workers w
         where w.hears_until > clock_timestamp() and w.capacity > 0
           and choose_worker.function = any (w.functions)
           and (choose_worker.function <> all (w.failing) or choose_worker.function = any (w.unproven))
           and w.name is distinct from choose_worker.failed_by
           and (w.knows_steps or not choose_worker.has_steps)
         order by w.name is distinct from choose_worker.finisher,
                  hashtextextended(w.name, hashtextextended(choose_worker.session_id::text, 0))
         limit 3
    loop
        if running is null then
            -- as bridge.limit_of, for the user and for everybody
            select (array_agg(l.value order by l.user_id nulls last))[1],
                   bool_or(l.user_id is null and l.value is not null)
              into most, is_shared
              from bridge.limits l
             where l.name = 'running_replies' and (l.user_id = choose_worker.user_id or l.user_id is null);
            -- As in bridge.claimed_by_others. A question of a user whose replies are being counted right now is claimed.
            if most is not null
               and not pg_try_advisory_xact_lock(hashtextextended('bridge.running_replies ' || user_id, 0)) then
                return;
            end if;
            running := bridge.running_replies(user_id, candidate.horizon);
            if running >= most or bridge.has_backlog(function, candidate.horizon, running = 0, excluded) then
                return;
            end if;
        end if;
        if candidate.is_failing then
            -- one question at a time tells whether a model that was out of order answers again
            continue when not pg_try_advisory_xact_lock(hashtextextended(
                'bridge.probe ' || candidate.name, hashtextextended(choose_worker.function, 0)));
            continue when exists (
                select from bridge.jobs h
                 where h.worker is not null and h.function = choose_worker.function
                   and (h.worker, h.run_at) >= (candidate.name, candidate.horizon)
                   and (h.worker, h.run_at) <= (candidate.name, 'infinity'));
        end if;
        -- as in a claim: few questions for a model that has not answered yet, and a quarter of all slots only for users
        -- who have asked little
        room := case
            when candidate.is_unproven and not candidate.is_failing then least(candidate.capacity, 3)
            when is_shared then candidate.capacity - candidate.capacity / 4
            else candidate.capacity end;
        slot := (bridge.lock_slots(candidate.name, candidate.horizon, room, 1))[1];
        if slot is null and may_take_last and is_shared and running = 0 and not candidate.is_unproven
           and bridge.asks_little(user_id, function, candidate.horizon)
        then
            slot := (bridge.lock_slots(candidate.name, candidate.horizon, candidate.capacity, 1))[1];
        end if;
        if slot is not null then
            worker := candidate.name;
            lease := least(candidate.lease, bridge.dispatch_lease());
            return;
        end if;
    end loop;
end
$$;
comment on function bridge.choose_worker is
    'The worker to which a question of this session and user is handed, with the slot that it will take there, locked: the first in the session''s order of those that hear, answer the function well and have room. Null: none, or others wait who are next, or the user has as many replies running as allowed. may_take_last: of the last quarter of the slots, too, if the user has nothing running and asks little.';

create function bridge.tell(dispatched bridge.jobs) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    -- A deferred trigger of the project on messages fires now, where it fails only this job, as in a claim; not at the commit,
    -- where it would fail its user's request.
    deferred text := (
        select string_agg(format('public.%I', c.conname), ', ') from pg_catalog.pg_constraint c
         where c.conrelid = 'public.messages'::regclass and c.condeferred);
    present record;
    told jsonb;
begin
    select j as job, w.history, j.function = any (w.functions) and w.capacity > 0 as is_there into present
      from bridge.jobs j left join bridge.workers w on w.name = j.worker
     where j.id = dispatched.id and j.worker = dispatched.worker and j.attempt = dispatched.attempt
       and not j.is_confirmed;
    if not found then
        return null;
    elsif present.is_there is not true then
        raise exception 'it has left, or the session has another function now';
    end if;
    if deferred is not null then
        execute 'set constraints ' || deferred || ' immediate';
    end if;
    if dispatched.lease_until < clock_timestamp() + bridge.dispatch_lease() / 2 then  -- its user's request has taken long
        update bridge.jobs j set lease_until = clock_timestamp() + bridge.dispatch_lease() where j.id = dispatched.id;
    end if;
    told := bridge.open_attempt(present.job, present.history, is_new => true, most_bytes => 32768);
    if deferred is not null then
        execute 'set constraints ' || deferred || ' deferred';
    end if;
    if octet_length(told::text) > 32768 then
        told := told - 'known';  -- the worker calls for its steps
    end if;
    if octet_length(told::text) > 32768 then  -- the worker claims what it holds
        told := jsonb_build_object('question_id', dispatched.question_id, 'attempt', dispatched.attempt);
    end if;
    return told || jsonb_build_object('at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint);
exception when others then
    -- a claim finds out whether the question is broken, or what its user may not do
    raise warning 'bridge.tell: % %', sqlstate, sqlerrm;
    update bridge.jobs j
       set worker = null, slot = null, lease_until = null, attempt = j.attempt - 1, is_confirmed = true
     where j.id = dispatched.id;
    begin
        update public.messages m set status = 'queued' where m.id = dispatched.question_id and m.status <> 'queued';
    exception when others then
        raise warning 'bridge.tell: % %', sqlstate, sqlerrm;  -- a claim sets it
    end;
    perform bridge.announce_work(array[dispatched.question_id]);
    return null;
end
$$;
comment on function bridge.tell is
    'Opens the attempt of a dispatched job. Returns its payload or, above 32 KiB, the hint {question_id, attempt}: Realtime stores each broadcast for three days. Null: the job is no longer dispatched, or opening it failed and it has been announced as ready again.';

create function bridge.push() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    told jsonb;
begin
    -- bridge_finish tells its own caller, in its answer
    if new.worker is distinct from nullif(current_setting('bridge.finisher', true), '') then
        told := bridge.tell(new);
        if told is not null then
            perform bridge.announce('worker:' || new.worker, 'job', told);
        end if;
    end if;
    return null;
end
$$;
comment on function bridge.push is 'Tells a worker of a job that was dispatched to it.';

-- At the commit, so that a request that goes on, and writes files for its question, is told whole.
create constraint trigger push after insert or update of worker on bridge.jobs
    deferrable initially deferred
    for each row when (new.worker is not null and not new.is_confirmed)
    execute function bridge.push();

create function bridge.dispatch(question_ids uuid[], released_by text default null, is_new boolean default false)
returns void
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    finisher text := nullif(current_setting('bridge.finisher', true), '');
    job bridge.jobs;
    chosen record;
    rest uuid[] := '{}';
begin
    if coalesce(cardinality(dispatch.question_ids), 0) = 0 then
        return;
    elsif cardinality(dispatch.question_ids) > 32 then  -- a backlog
        perform bridge.announce_work(dispatch.question_ids);
        return;
    end if;
    for job in
        select j.* from unnest(dispatch.question_ids) q (id)
         cross join lateral (
            select h.* from bridge.jobs h  -- by its question: the indexes of ready jobs are full of ended ones
             where h.question_id = q.id and case when h.worker is null then h.run_at <= now() end
               for update skip locked) j
    loop
        chosen := bridge.choose_worker(
            job.session_id, job.user_id, job.function, finisher, coalesce(dispatch.released_by, job.failed_by),
            dispatch.question_ids, true, job.steps > 0);
        if chosen.worker is null then
            rest := rest || job.question_id;
            continue;
        end if;
        update bridge.jobs j
           set worker = chosen.worker, slot = chosen.slot, lease_until = clock_timestamp() + chosen.lease,
               attempt = j.attempt + 1, is_confirmed = false
         where j.id = job.id
        returning j.* into job;
        -- should that worker be gone: of an insert, two workers hear by postgres_changes
        if not is_new and chosen.worker is distinct from finisher then
            perform bridge.announce_due(job, job.lease_until + interval '0.2 seconds', job.worker);
        end if;
    end loop;
    perform bridge.announce_work(rest);
end
$$;
comment on function bridge.dispatch is
    'Hands each of these questions, if it is ready, to one worker; announces the rest to all. Called by whatever makes a job ready. released_by: the worker that has just given them back, which gets none of them. is_new: they have just been inserted.';

create function bridge.announce_due(job bridge.jobs, at timestamptz, besides text) returns boolean
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    looking text[] := array(
        select w.name from bridge.workers w
         where w.hears_until > clock_timestamp() and w.capacity > 0 and w.name <> announce_due.besides
           and job.function = any (w.functions) and job.function <> all (w.failing)
         order by hashtextextended(w.name, hashtextextended(job.session_id::text, 0)) limit 2);
begin
    perform bridge.announce('worker:' || l.name, 'due', jsonb_build_object(
                'in_ms', bridge.milliseconds_until(announce_due.at)))
       from unnest(looking) l (name);
    return looking <> '{}';
end
$$;
comment on function bridge.announce_due is
    'Tells two workers that hear, and not the one `besides` them, to look for a job at a time; false: there is none.';
