-- What every call of a worker does: report that it is alive, learn what comes next.

create function bridge.note_functions(names text[], known_until timestamptz) returns void
language plpgsql set search_path = ''
as $$
begin
    -- A write every few seconds is enough, by whichever worker is first. The others do not wait for its transaction:
    -- what they have to write can wait for their next heartbeat.
    if exists (
           select from unnest(note_functions.names) n (name)
            where n.name is not null and not exists (
                select from bridge.functions f
                 where f.name = n.name and f.known_until > note_functions.known_until - interval '5 seconds'))
       and pg_try_advisory_xact_lock('bridge.functions'::regclass::oid::bigint)
    then
        insert into bridge.functions as f (name, known_until)
        select distinct n.name, note_functions.known_until from unnest(note_functions.names) n (name)
         where n.name is not null
        on conflict (name) do update set known_until = excluded.known_until
         where f.known_until < excluded.known_until;
        delete from bridge.functions f where f.known_until < now() - interval '1 day';
    end if;
end
$$;
comment on function bridge.note_functions is 'Records until when a worker that knows these functions counts as live.';

create function bridge.heartbeat(
    worker text, lease_seconds int default null, functions text[] default null, failing text[] default '{}',
    unproven text[] default '{}', capacity int default null, history int default 0, hears interval default '15 seconds',
    knows_steps boolean default false,
    out lease interval, out missed boolean
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    before bridge.workers;
    me bridge.workers;
begin
    select w.* into before from bridge.workers w where w.name = heartbeat.worker;
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    if before.seen_at > now() - interval '5 seconds'
       and (before.hears_until > now() or coalesce(before.capacity, 0) = 0)
       and (heartbeat.lease_seconds is null
            or (before.lease = make_interval(secs => heartbeat.lease_seconds)
                and before.functions is not distinct from heartbeat.functions
                and before.failing = heartbeat.failing and before.unproven = heartbeat.unproven
                and before.capacity is not distinct from heartbeat.capacity
                and before.history = heartbeat.history and before.hears = heartbeat.hears
                and before.knows_steps = heartbeat.knows_steps))
    then
        lease := before.lease;
        missed := false;
        return;
    end if;
    -- not if it has only been silent for long
    missed := coalesce(before.capacity > 0 and before.hears_until <= now()
                       and before.hears_until < before.seen_at + before.hears
                       and (heartbeat.lease_seconds is null or heartbeat.capacity > 0), false);
    -- A row says which functions the worker of a job has, so it stays as long as its jobs. Nobody waits for a row.
    delete from bridge.workers w where w.name = any (array(
        select o.name from bridge.workers o
         where o.seen_at < now() - interval '10 minutes'
           and not exists (
            select from bridge.jobs j
             where (j.worker, j.run_at) >= (o.name, '-infinity') and (j.worker, j.run_at) <= (o.name, 'infinity'))
           for update skip locked));
    insert into bridge.workers as w (
        name, lease, functions, failing, unproven, capacity, history, hears, knows_steps, hears_until)
    values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)), heartbeat.functions,
            heartbeat.failing, heartbeat.unproven, heartbeat.capacity, heartbeat.history, heartbeat.hears,
            heartbeat.knows_steps, case when heartbeat.capacity > 0 then now() + heartbeat.hears else '-infinity' end)
    on conflict (name) do update
       set seen_at = now(),
           lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end,
           functions = case when heartbeat.lease_seconds is null then w.functions else excluded.functions end,
           failing = case when heartbeat.lease_seconds is null then w.failing else excluded.failing end,
           unproven = case when heartbeat.lease_seconds is null then w.unproven else excluded.unproven end,
           -- one that has missed something subscribes again: until it says that it has, it does not hear
           capacity = case when missed then 0
                           when heartbeat.lease_seconds is null then w.capacity else excluded.capacity end,
           history = case when heartbeat.lease_seconds is null then w.history else excluded.history end,
           hears = case when heartbeat.lease_seconds is null then w.hears else excluded.hears end,
           knows_steps = case when heartbeat.lease_seconds is null then w.knows_steps else excluded.knows_steps end,
           hears_until = case
               when missed then '-infinity'
               when heartbeat.lease_seconds is not null then excluded.hears_until
               when w.capacity > 0 then now() + w.hears else '-infinity' end
    returning w.* into me;
    -- as long as bridge.live_workers counts it
    perform bridge.note_functions(
        me.functions, now() + least(greatest(me.lease, interval '30 seconds'), interval '5 minutes'));
    lease := me.lease;
end
$$;
comment on function bridge.heartbeat is
    'Records that a worker is alive and, from a claim (with lease_seconds), what it answers and hears. Returns the length of its leases; missed: it counts as not hearing any more, as it did not confirm a job in time.';

-- Which jobs a worker may claim --------------------------------------------------------------------
--
-- Those whose function it answers; and those whose function nobody knows, so that they fail instead of waiting for
-- ever. In between are those that only other workers can answer. In a deploy that adds a function, the first worker
-- that knows it may come half a minute after the first question.

create function bridge.unknown_wait() returns interval
language plpgsql immutable set search_path = ''
as $$
begin
    return interval '30 seconds';
end
$$;
comment on function bridge.unknown_wait is
    'How long a job must have been due, and its function unknown to all live workers, before any worker may claim it.';

create function bridge.known_functions(own text[], since timestamptz) returns text[]
language plpgsql stable set search_path = ''
as $$
begin
    return array(
        select f.name from bridge.functions f where f.known_until > known_functions.since
         union select n.name from unnest(known_functions.own) n (name) where n.name is not null
         order by 1);
end
$$;
comment on function bridge.known_functions is
    'The functions that some worker has known after `since`, and those of the caller, sorted.';

create function bridge.answered_elsewhere(worker text) returns text[]
language plpgsql stable set search_path = ''
as $$
begin
    return array(
        select distinct f.name
          from bridge.workers w
          join bridge.live_workers l on l.name = w.name
         cross join unnest(w.functions) f (name)
         where w.name <> answered_elsewhere.worker and f.name <> all (w.failing));
end
$$;
comment on function bridge.answered_elsewhere is
    'The functions that other live workers answer, as far as these do not fail there.';

create function bridge.unknown_jobs(known text[], due timestamptz, most int) returns setof bridge.jobs
language plpgsql stable set search_path = ''
set enable_sort = off set enable_incremental_sort = off  -- so that only jobs_ready_by_function fits
as $$
begin
    return query
        select j.* from generate_subscripts(unknown_jobs.known, 1) n (at)
         cross join lateral (
            select g.* from bridge.jobs g
             where g.worker is null and g.run_at <= unknown_jobs.due
               and g.function > coalesce(unknown_jobs.known[n.at - 1], '')  -- a function has at least one byte
               and g.function < unknown_jobs.known[n.at]
             order by g.function, g.run_at, g.id limit unknown_jobs.most) j
         union all
        (select j.* from bridge.jobs j
          where j.worker is null and j.run_at <= unknown_jobs.due
            and j.function > coalesce(unknown_jobs.known[cardinality(unknown_jobs.known)], '')
          order by j.function, j.run_at, j.id limit unknown_jobs.most);
end
$$;
comment on function bridge.unknown_jobs is
    'Jobs without a worker, due at a time, whose function is not `known` (sorted): up to `most` from each gap between two known names in the index, so that no other job is read.';

-- What a worker is told about the future --------------------------------------------------------------
--
-- Every worker could claim at the moment at which something falls due. A few are enough: by a hash of the job and the
-- worker, about three of the fleet look at once, five more a second later, and the others at their next sweep.

create function bridge.due_for(worker text, fleet bigint, job_id bigint, due_at timestamptz) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
declare
    rank float8 := (hashtextextended(due_for.worker, due_for.job_id)::float8 / 18446744073709551616 + 0.5) * due_for.fleet;
begin
    return case when rank < 3 then due_for.due_at when rank < 8 then due_for.due_at + interval '1 second' end;
end
$$;
comment on function bridge.due_for is
    'When one worker of a fleet looks at a job that falls due at `due_at`; null: it leaves that to others.';

create function bridge.next_lease_end(worker text, ready boolean) returns timestamptz
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    me bridge.workers;
    known text[];
begin
    select w.* into me from bridge.workers w where w.name = next_lease_end.worker;
    known := bridge.known_functions(coalesce(me.functions, '{}'), now());
    return least((
        select min(h.at) from (
            select case when me.functions is null or j.cancel or j.function = any (me.functions) then j.lease_until
                        else greatest(j.lease_until, bridge.unknown_wait() + greatest(
                            j.run_at, (select f.known_until from bridge.functions f where f.name = j.function))) end
              from bridge.jobs j
             where j.worker is not null and j.run_at >= coalesce(me.horizon, '-infinity')
               and j.worker <> next_lease_end.worker
               and (me.functions is null or j.cancel or j.function = any (me.functions) or j.function <> all (known))
               -- A dispatched job is confirmed within a second or so, and then it is held for longer: nobody needs to
               -- look, unless its worker does not hear. A worker that has just started was not told of its insert.
               and (j.is_confirmed or j.lease_until < now() + bridge.dispatch_lease() / 2
                    or me.started_at > now() - interval '30 seconds'
                    or not exists (select from bridge.workers w where w.name = j.worker and w.hears_until > now()))
             order by j.run_at, j.id) h (at)),
        -- a job that another worker is claiming right now has a lease that is not visible yet
        case when next_lease_end.ready then now() + me.lease end);
end
$$;
comment on function bridge.next_lease_end is
    'When the next lease of another worker ends, on a job that this worker could take over; null: none. `ready`: whether there is a job to claim.';

create function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
-- The plans do not depend on the names of functions; making them anew takes longer than all else here.
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    horizon timestamptz := '-infinity';
    own text[];
    capacity int;
    knows_steps boolean;
    known text[];
    fleet bigint;
    watchers bigint;
    ready boolean;
    next_at timestamptz;  -- when the next job falls due, as far as this worker may claim it
    unknown_at timestamptz;
    held bigint[];
begin
    select w.horizon, w.functions, w.capacity, w.knows_steps into horizon, own, capacity, knows_steps
      from bridge.workers w where w.name = queue_hints.worker;
    horizon := coalesce(horizon, '-infinity');
    -- the two first of those that hear; whoever does not hear watches too
    select count(*),
           count(*) filter (where l.hears_until > now()
                              and hashtextextended(l.name, 0) < hashtextextended(queue_hints.worker, 0))
      into fleet, watchers from bridge.live_workers l;
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    if own is null then
        ready := (
            select j.run_at from bridge.jobs j
             where j.worker is null and j.run_at >= horizon and j.run_at <= now() and (j.steps = 0 or knows_steps)
             order by j.run_at, j.id limit 1) is not null;
        next_at := (
            select j.run_at from bridge.jobs j where j.worker is null and j.run_at > now()
             order by j.run_at, j.id limit 1);
    else
        known := bridge.known_functions(own, now());
        -- Pairs and no `function =`: only jobs_ready_by_function fits them, and they lead to the place in it.
        select coalesce(bool_or(f.is_ready), false), min(f.next_at) into ready, next_at
          from (
            select (select j.run_at from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and (j.function, j.run_at) >= (n.name, horizon) and (j.function, j.run_at) <= (n.name, now())
                       and (j.steps = 0 or knows_steps)
                     order by j.function, j.run_at, j.id limit 1) is not null,
                   (select min(case when capacity is null then d.run_at
                                    else bridge.due_for(queue_hints.worker, fleet, d.id, d.run_at) end)
                      from (
                        select j.id, j.run_at from bridge.jobs j
                         where j.worker is null and j.function is not null
                           and (j.function, j.run_at) > (n.name, now())
                           and (j.function, j.run_at) <= (n.name, 'infinity')
                         order by j.function, j.run_at, j.id limit 10) d)
              from unnest(own) n (name)) f (is_ready, next_at);
        -- A few of each gap: if there are more, the claim at the time of these finds them. If a function was known until
        -- a moment ago, its time counts from then.
        unknown_at := (
            select min(greatest(j.run_at, f.known_until))
              from bridge.unknown_jobs(known, 'infinity', 10) j left join bridge.functions f on f.name = j.function
          ) + bridge.unknown_wait();
        ready := ready or coalesce(unknown_at <= now(), false);
        if unknown_at > now() then
            next_at := least(next_at, unknown_at);
        end if;
    end if;
    -- what was dispatched to it and has not arrived: its claim brings it
    if not ready then
        held := bridge.held_by(queue_hints.worker, horizon);
        ready := exists (
            select from bridge.jobs j
             where j.id = any (held) and j.worker is not distinct from queue_hints.worker
               and not j.is_confirmed and j.lease_until < now());
    end if;
    ready := ready or exists (select from bridge.ended_children);  -- its claim wakes their parents
    if capacity is null then  -- it does not know lease_in_ms
        next_at := least(next_at, bridge.next_lease_end(queue_hints.worker, ready));
    end if;
    return jsonb_build_object(
        'next_in_ms', bridge.milliseconds_until(next_at),
        'workers', fleet,
        'ready', ready,
        'watches', watchers < 2 or capacity = 0,
        'at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint
    );
end
$$;
comment on function bridge.queue_hints is
    'Of the jobs that the worker may claim: next_in_ms: when a retry is due or half a minute has passed for a function that nobody knows (null: nothing is scheduled); ready: whether there is a job to claim. workers: how many are live; watches: whether this is one of those that hear of inserts by postgres_changes (two that hear their topics, and all that do not); at_ms: the time in the database. An older worker is told in next_in_ms of leases too.';

create function bridge.milliseconds_until(at timestamptz) returns int
language plpgsql set search_path = ''
as $$
begin
    return case when milliseconds_until.at is not null  -- least and greatest would ignore a null
        then least(greatest(extract(epoch from milliseconds_until.at - clock_timestamp()) * 1000, 0), 86400000)::int end;
end
$$;
comment on function bridge.milliseconds_until is 'How long until a time: null for null, 0 if it has passed, at most a day.';

create function bridge.lease_hint(worker text, ready boolean) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'lease_in_ms', bridge.milliseconds_until(bridge.next_lease_end(lease_hint.worker, lease_hint.ready)));
end
$$;
comment on function bridge.lease_hint is
    'lease_in_ms: when the next lease of another worker ends (null: none does). It reads every job that is held, so not every call returns it.';

create function public.bridge_leave(worker text) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    left_by text[];
begin
    delete from bridge.workers w where w.name = bridge_leave.worker returning w.functions into left_by;
    -- no wait, as in bridge.note_functions: at worst the functions count as known until the worker would have vanished
    if pg_try_advisory_xact_lock('bridge.functions'::regclass::oid::bigint) then
        update bridge.functions f set known_until = now()
         where f.name = any (left_by) and f.known_until > now()
           and not exists (
            select from bridge.workers w join bridge.live_workers l on l.name = w.name
             where f.name = any (w.functions));
    end if;
end
$$;
comment on function public.bridge_leave is
    'Removes a worker that stops from the live workers; what only it knew is no longer known. Its jobs stay with it until their leases end.';
