-- A worker claims only what it can answer, and what nobody has known for half a minute.

-- In the order in which everybody locks them. A block, because the CLI begins no explicit transaction.
do $$
begin
    lock table public.sessions in share row exclusive mode;
    lock table bridge.jobs in access exclusive mode;
end
$$;

-- the queue --------------------------------------------------------------------------------------

alter table bridge.jobs add column function text;
comment on column bridge.jobs.function is
    'The session''s function, kept equal to it by triggers. Only the head of a session has one, as only heads are claimed.';

create function bridge.set_function() returns trigger
language plpgsql set search_path = ''
as $$
begin
    -- whoever makes a job the head holds the session's lock, so this is the newest function
    select s.function into new.function from public.sessions s where s.id = new.session_id;
    return new;
end
$$;
comment on function bridge.set_function is 'Gives a job that becomes the head of its session the session''s function.';

create trigger set_function before insert or update of run_at on bridge.jobs
    for each row when (new.run_at is not null and new.function is null)
    execute function bridge.set_function();

create function bridge.follow_function() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    ready uuid[];
begin
    -- A claim holds the job's lock until it has read the session: this waits for it, so both always agree. A job that
    -- waits is due anew: other workers may search from a later time, and half a minute must pass before it can fail.
    with head as (
        update bridge.jobs j
           set function = new.function,
               run_at = case when j.worker is null then greatest(j.run_at, now()) else j.run_at end
         where j.session_id = new.id and j.run_at is not null
        returning j.question_id, j.worker, j.run_at
    )
    select array_agg(h.question_id) into ready from head h where h.worker is null and h.run_at <= now();
    perform bridge.announce_work(ready);
    return null;
end
$$;
comment on function bridge.follow_function is
    'A session''s function was changed: so is that of its head, which other workers may now claim.';

create trigger follow_function after update on public.sessions
    for each row when (old.function is distinct from new.function)
    execute function bridge.follow_function();

update bridge.jobs j set function = s.function
  from public.sessions s
 where s.id = j.session_id and j.run_at is not null;
alter table bridge.jobs add constraint jobs_head_has_function check (run_at is null or function is not null);

-- For workers that say which functions they answer. A session's function may be any text, so this index also finds
-- the jobs whose function nobody knows: they are in the gaps between the known names.
-- Its condition is not that of jobs_ready, so that a query can fit this one only: if most jobs have one function, the
-- planner takes jobs_ready to find another, and reads all of them.
create index jobs_ready_by_function on bridge.jobs (function, run_at, id) where worker is null and function is not null;


-- the fleet --------------------------------------------------------------------------------------

drop function bridge.heartbeat(text, int);

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

create function bridge.heartbeat(worker text, lease_seconds int default null, functions text[] default null)
returns interval
language plpgsql set search_path = ''
as $$
declare
    me bridge.workers;
begin
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    select w.* into me from bridge.workers w
     where w.name = heartbeat.worker and w.seen_at > now() - interval '5 seconds'
       and (heartbeat.lease_seconds is null
            or (w.lease = make_interval(secs => heartbeat.lease_seconds)
                and w.functions is not distinct from heartbeat.functions));
    if not found then
        delete from bridge.workers w where w.seen_at < now() - interval '1 day';
        insert into bridge.workers as w (name, lease, functions)
        values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)), heartbeat.functions)
        on conflict (name) do update
           set seen_at = now(),
               lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end,
               functions = case when heartbeat.lease_seconds is null then w.functions else excluded.functions end
        returning w.* into me;
        -- as long as bridge.live_workers counts it
        perform bridge.note_functions(
            me.functions, now() + least(greatest(me.lease, interval '30 seconds'), interval '5 minutes'));
    end if;
    return me.lease;
end
$$;
comment on function bridge.heartbeat is
    'Records that a worker is alive and, from a claim (with lease_seconds), what it answers; returns the length of its leases.';

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

create function bridge.unknown_jobs(known text[], due timestamptz, most int) returns setof bridge.jobs
language plpgsql stable set search_path = ''
set enable_sort = off  -- so that only jobs_ready_by_function fits
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

create or replace function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
-- The plans do not depend on the names of functions; making them anew takes longer than all else here.
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    horizon timestamptz := '-infinity';
    own text[];
    known text[];
    lease interval;
    ready boolean;
    next_at timestamptz;  -- when the next job falls due, as far as this worker may claim it
    lease_at timestamptz;
    unknown_at timestamptz;
begin
    select w.horizon, w.functions, w.lease into horizon, own, lease
      from bridge.workers w where w.name = queue_hints.worker;
    horizon := coalesce(horizon, '-infinity');
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    if own is null then
        ready := (
            select j.run_at from bridge.jobs j where j.worker is null and j.run_at >= horizon and j.run_at <= now()
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
                     order by j.function, j.run_at, j.id limit 1) is not null,
                   (select j.run_at from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and (j.function, j.run_at) > (n.name, now()) and (j.function, j.run_at) <= (n.name, 'infinity')
                     order by j.function, j.run_at, j.id limit 1)
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
    lease_at := (
        select min(h.at) from (
            select case when own is null or j.cancel or j.function = any (own) then j.lease_until
                        else greatest(j.lease_until, bridge.unknown_wait() + greatest(
                            j.run_at, (select f.known_until from bridge.functions f where f.name = j.function))) end
              from bridge.jobs j
             where j.worker is not null and j.run_at >= horizon and j.worker <> queue_hints.worker
               and (own is null or j.cancel or j.function = any (own) or j.function <> all (known))
             order by j.run_at, j.id) h (at));
    if ready then  -- a job that another worker is claiming right now has a lease that is not visible yet
        lease_at := least(lease_at, now() + lease);
    end if;
    next_at := least(next_at, lease_at);
    return jsonb_build_object(
        'next_in_ms', case when next_at is not null  -- least and greatest would ignore a null
            then least(greatest(extract(epoch from next_at - now()) * 1000, 0), 86400000)::int end,
        'workers', (select count(*) from bridge.live_workers),
        'ready', ready
    );
end
$$;
comment on function bridge.queue_hints is
    'Of the jobs that the worker may claim: next_in_ms: when another worker''s lease ends, a retry is due or half a minute has passed for a function that nobody knows (null: nothing is scheduled); ready: whether there is a job to claim. workers: how many are live.';

create or replace function public.bridge_leave(worker text) returns void
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


-- the claim --------------------------------------------------------------------------------------

drop function public.bridge_claim(text, int, uuid[], int, int);
drop function bridge.claim_horizon(text);
drop function bridge.take_expired(text, timestamptz, int);
drop function bridge.take_ready(timestamptz, int);

create function bridge.claim_horizon(worker text, functions text[]) returns timestamptz
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    since timestamptz;
    oldest timestamptz;
begin
    select w.horizon into since from bridge.workers w
     where w.name = claim_horizon.worker
       and w.horizon_set_at > now() - interval '10 seconds' and w.horizon_set_at <= now();
    if not found then
        -- A job's run_at is the start of the transaction that wrote it, or later. Half a minute covers open transactions;
        -- a job from a longer one is found when the horizon is next set.
        if claim_horizon.functions is null then
            oldest := (
                select j.run_at from bridge.jobs j
                 where j.worker is null and j.run_at is not null order by j.run_at limit 1);
        else
            oldest := (
                select min((select j.run_at from bridge.jobs j
                             where j.worker is null and j.function = n.name
                             order by j.function, j.run_at limit 1))
                  from unnest(claim_horizon.functions) n (name));
        end if;
        since := least(
            now() - interval '30 seconds',
            oldest,
            (select j.run_at from bridge.jobs j where j.worker is not null order by j.run_at limit 1));
        update bridge.workers w set horizon = since, horizon_set_at = now() where w.name = claim_horizon.worker;
    end if;
    return since;
end
$$;
comment on function bridge.claim_horizon is
    'The earliest run_at that a worker with these functions (null: all) searches from, refreshed every ten seconds. While any transaction is open, Postgres keeps the index entries of ended jobs: after 100,000 of them, a search from the oldest entry was 17 times as slow.';

create function bridge.take_expired(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    expired bigint[] := array(
        select c.id from (
            select h.id, h.lease_until from bridge.jobs h
             where h.worker is not null and h.run_at >= take_expired.horizon
               and h.worker <> take_expired.worker and h.lease_until < now()
               -- one that was cancelled needs no function to end
               and (take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                    or (h.function <> all (take_expired.known) and h.run_at <= take_expired.due))
             order by h.run_at, h.id) c
         order by c.lease_until);
    taken bigint[];
begin
    if expired = '{}' then
        return expired;
    end if;
    -- Each by its id, and in a form that only the primary keys fit: a plan made for a short queue takes any index, and
    -- its connection keeps it.
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from unnest(expired) with ordinality e (id, n)
         cross join lateral (
            select h.id, h.session_id from bridge.jobs h
             where h.id = e.id
               and case when take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                             or h.function <> all (take_expired.known)
                        then h.worker <> take_expired.worker and h.lease_until < now() end
               for update skip locked) j
         cross join lateral (
            select from public.sessions s where s.id = j.session_id for key share skip locked) s
         order by e.n limit take_expired.slots
    ) r;
    insert into bridge.runs (question_id, attempt, worker, outcome)
    select j.question_id, j.attempt, j.worker, 'lost' from bridge.jobs j where j.id = any (taken)
        on conflict do nothing;
    return taken;
end
$$;
comment on function bridge.take_expired is
    'Locks up to `slots` jobs whose lease with another worker has ended and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`; records those attempts as lost.';

create function bridge.ready_jobs(horizon timestamptz, functions text[], known text[], due timestamptz, most int)
returns bigint[]
language plpgsql stable set search_path = ''
as $$
begin
    return array(
        select r.id from (
            select j.id, j.run_at
              from (select distinct u.name from unnest(ready_jobs.functions) u (name)) n
             cross join lateral (
                select h.id, h.run_at from bridge.jobs h
                 where h.worker is null and h.function is not null  -- and pairs, as in bridge.queue_hints
                   and (h.function, h.run_at) >= (n.name, ready_jobs.horizon)
                   and (h.function, h.run_at) <= (n.name, now())
                 order by h.function, h.run_at, h.id limit ready_jobs.most) j
             union all
            select u.id, u.run_at + bridge.unknown_wait() from bridge.unknown_jobs(known, due, most) u
          ) r (id, at)
         order by r.at, r.id limit ready_jobs.most);
end
$$;
comment on function bridge.ready_jobs is
    'Up to `most` jobs that no worker holds, in the order in which they could be claimed: those of the `functions`, and those due at `due` whose function is not `known`.';

create function bridge.take_ready(horizon timestamptz, functions text[], known text[], due timestamptz, slots int)
returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    most int := take_ready.slots + 8;  -- a few more than needed, as others may have locked some
    ready bigint[];
    taken bigint[] := '{}';
begin
    if take_ready.functions is null then
        select coalesce(array_agg(r.id), '{}') into taken from (
            select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
             where j.worker is null and j.run_at >= take_ready.horizon and j.run_at <= now()
             order by j.run_at, j.id
             limit take_ready.slots
               for key share of s skip locked
               for update of j skip locked
        ) r;
        return taken;
    end if;
    while cardinality(taken) < take_ready.slots loop
        ready := bridge.ready_jobs(horizon, functions, known, due, most);
        select coalesce(array_agg(r.id), '{}') into taken from (
            select j.id from unnest(ready) with ordinality e (id, n)
             cross join lateral (  -- each by its id, as in bridge.take_expired
                select h.id, h.session_id from bridge.jobs h
                 where h.id = e.id
                   and case when h.worker is not null then false
                            when h.function = any (take_ready.functions) then h.run_at <= now()
                            else h.run_at <= take_ready.due and h.function <> all (take_ready.known) end
                   for update skip locked) j
             cross join lateral (
                select from public.sessions s where s.id = j.session_id for key share skip locked) s
             order by e.n limit take_ready.slots
        ) r;
        exit when cardinality(ready) < most;  -- there are no more
        most := most * 4;
    end loop;
    return taken;
end
$$;
comment on function bridge.take_ready is
    'Locks up to `slots` jobs that are due, that no worker holds, and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`.';

create function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int, functions text[] default null
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
-- The queue is short-lived and its statistics are always stale: this and the functions it calls walk the indexes.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    snapshot text := pg_current_snapshot()::text;
    lease_end timestamptz := now() + bridge.heartbeat(
        bridge_claim.worker, bridge_claim.lease_seconds, bridge_claim.functions);
    horizon timestamptz := bridge.claim_horizon(bridge_claim.worker, bridge_claim.functions);
    due timestamptz := now() - bridge.unknown_wait();
    known text[] := bridge.known_functions(bridge_claim.functions, due);
    expired bigint[];
    taken bigint[];
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- appending to an array does not copy it, unlike appending to a jsonb
begin
    -- Return again, under the same attempt, jobs whose claim answer was lost. They use slots like any other, so a worker
    -- that now asks for fewer gets them in parts. Even without a free slot it gets one.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= horizon and h.worker = bridge_claim.worker
                    order by h.run_at, h.id))
           and j.worker = bridge_claim.worker and not (j.question_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update
    loop
        update bridge.jobs j set lease_until = lease_end where j.id = job.id;
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history);
    end loop;

    -- jobs of vanished workers come before new ones
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);
    expired := bridge.take_expired(bridge_claim.worker, horizon, bridge_claim.functions, known, due, slots);
    taken := bridge.take_ready(horizon, bridge_claim.functions, known, due, slots - cardinality(expired));
    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int
         where j.id = any (taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history, true, job.id = any (expired));
    end loop;
    return bridge.queue_hints(bridge_claim.worker) || jsonb_build_object('jobs', to_jsonb(jobs), 'snapshot', snapshot);
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Returns {jobs: [{question_id, …}], next_in_ms, workers, ready, snapshot}; the snapshot shows which transactions the claim has seen.';


-- operators --------------------------------------------------------------------------------------

create or replace function public.bridge_status() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'queued', (select count(*) from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'waiting', (select count(*) from bridge.jobs j where j.run_at is null),
        'retrying', (select count(*) from bridge.jobs j where j.worker is null and j.run_at > now()),
        'running', (select count(*) from bridge.jobs j where j.worker is not null),
        'unknown_function', (
            select count(*) from bridge.jobs j
             where j.worker is null and j.run_at is not null and not exists (
                select from bridge.functions f where f.name = j.function and f.known_until > now())),
        'oldest_seconds', (
            select coalesce(extract(epoch from now() - min(j.run_at)), 0)::float8
              from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'dead_letters', (select count(*) from bridge.dead_letters),
        'workers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                       'name', w.name, 'started_at', w.started_at, 'seen_at', w.seen_at,
                       'running', (select count(*) from bridge.jobs j where j.worker = w.name)) order by w.name), '[]')
              from bridge.live_workers w),
        'last_hour', (
            select jsonb_build_object(
                       'done', count(*) filter (where r.outcome = 'done'),
                       'failed', count(*) filter (where r.outcome = 'failed'),
                       'cancelled', count(*) filter (where r.outcome = 'cancelled'),
                       'input_tokens', coalesce(sum(r.input_tokens), 0),
                       'output_tokens', coalesce(sum(r.output_tokens), 0))
              from bridge.runs r where r.created_at > now() - interval '1 hour'));
end
$$;
comment on function public.bridge_status is
    'The queue, the live workers and the last hour. unknown_function: how many questions wait for a function that no live worker knows.';


-- grants -----------------------------------------------------------------------------------------

revoke all on function
    bridge.set_function, bridge.follow_function,
    bridge.note_functions, bridge.heartbeat, bridge.unknown_wait, bridge.known_functions, bridge.unknown_jobs,
    bridge.claim_horizon, bridge.take_expired, bridge.ready_jobs, bridge.take_ready
    from public, anon, authenticated, service_role;
revoke all on function public.bridge_claim from public, anon, authenticated;
grant execute on function public.bridge_claim to service_role;
