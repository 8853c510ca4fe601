-- Where a claim begins to look. While a transaction is open anywhere, Postgres keeps the index entries of ended jobs,
-- and a look-up from the oldest job on passes all of them: after 100,000 jobs it took 17 times as long.

alter table bridge.workers
    add column horizon timestamptz not null default '-infinity',
    add column looked_at timestamptz not null default '-infinity';
comment on column bridge.workers.horizon is
    'The worker looks for jobs with a run_at from here on. It lies before every one that could be seen at looked_at.';
comment on column bridge.workers.looked_at is 'When the worker last looked at all jobs, and set its horizon.';

create or replace function bridge.seen(worker text, lease_seconds int default null) returns interval
language plpgsql
set search_path = ''
as $$
declare
    lease interval;
begin
    -- silence is noticed after half a minute: a write every few seconds is enough to be known as alive
    select w.lease into lease from bridge.workers w
     where w.name = seen.worker and w.seen_at > now() - interval '5 seconds'
       and (seen.lease_seconds is null or w.lease = make_interval(secs => seen.lease_seconds));
    if not found then
        delete from bridge.workers w where w.seen_at < now() - interval '1 day';
        insert into bridge.workers as w (name, lease)
        values (seen.worker, make_interval(secs => coalesce(seen.lease_seconds, 30)))
        on conflict (name) do update
           set seen_at = now(), lease = case when seen.lease_seconds is null then w.lease else excluded.lease end
        returning w.lease into lease;
    end if;
    return lease;
end
$$;

create function bridge.look(worker text) returns timestamptz
language plpgsql
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    since timestamptz;
begin
    select w.horizon into since from bridge.workers w
     where w.name = look.worker and w.looked_at > now() - interval '10 seconds' and w.looked_at <= now();
    if not found then
        -- A job's run_at is the beginning of the transaction that wrote it, or later: half a minute is left for those
        -- under way, and what took longer is found when the worker looks the next time.
        since := least(
            now() - interval '30 seconds',
            (select j.run_at from bridge.jobs j
              where j.worker is null and j.run_at is not null order by j.run_at limit 1),
            (select j.run_at from bridge.jobs j where j.worker is not null order by j.run_at limit 1));
        update bridge.workers w set horizon = since, looked_at = now() where w.name = look.worker;
    end if;
    return since;
end
$$;
comment on function bridge.look is
    'The time from which on a worker''s jobs and those it may take have their run_at. Every ten seconds it is set anew.';

create or replace function bridge.outlook(worker text) returns jsonb
language plpgsql
stable
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    since timestamptz := coalesce(
        (select w.horizon from bridge.workers w where w.name = outlook.worker), '-infinity');
    -- Looks are written in the order of the index that they are to walk: any other that holds the same jobs has no
    -- horizon, and plans are made from statistics that are always stale.
    ready boolean := (
        select j.run_at from bridge.jobs j where j.worker is null and j.run_at >= since and j.run_at <= now()
         order by j.run_at, j.id limit 1) is not null;
begin
    return jsonb_build_object(
        'next_in_ms', (
            select case when min(t.at) is not null  -- least and greatest would pass over a null
                        then least(greatest(extract(epoch from min(t.at) - now()) * 1000, 0), 86400000)::int end
              from (
                (select j.run_at from bridge.jobs j
                  where j.worker is null and j.run_at > now() order by j.run_at limit 1)
                union all
                select min(h.lease_until) from (
                    select j.lease_until from bridge.jobs j
                     where j.worker is not null and j.run_at >= since and j.worker <> outlook.worker
                     order by j.run_at, j.id) h
                union all
                -- what another worker is claiming at this moment has a lease that cannot be seen yet
                select now() + w.lease from bridge.workers w where w.name = outlook.worker and ready
              ) t (at)
        ),
        'workers', (
            -- one that vanished counts for a while; a silence of five minutes is the longest sweep
            select count(*) from bridge.workers w
             where w.seen_at > now() - least(greatest(w.lease, interval '30 seconds'), interval '5 minutes')
        ),
        'ready', ready
    );
end
$$;
comment on function bridge.outlook is
    'next_in_ms: when a lease of another worker ends or a retry is due (null: nothing in sight); workers: how many live; ready: whether there is something to claim.';

create or replace function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int
) returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
-- the queue is short-lived and its statistics are always stale: walk the index, whatever they say
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    lease_end timestamptz;
    since timestamptz;
    taken bigint[];
    expired bigint[];
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- an array is appended to in place, where a jsonb would be copied each time
    seen text := pg_current_snapshot()::text;
begin
    if bridge_claim.lease_seconds = 0 then
        delete from bridge.workers w where w.name = bridge_claim.worker;
        return bridge.outlook(bridge_claim.worker) || jsonb_build_object('jobs', to_jsonb(jobs), 'snapshot', seen);
    end if;
    lease_end := now() + bridge.seen(bridge_claim.worker, bridge_claim.lease_seconds);
    since := bridge.look(bridge_claim.worker);
    -- What an earlier claim took and its worker never heard of: the same attempt once more. It fills slots like any
    -- other, and comes in parts as well, if its worker asks for less than it had asked for.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= since and h.worker = bridge_claim.worker
                    order by h.run_at, h.id))
           and j.worker = bridge_claim.worker and not (j.message_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update
    loop
        update bridge.jobs j set lease_until = lease_end where j.id = job.id;
        jobs := jobs || bridge.claimed(job, bridge_claim.history);
    end loop;
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);

    -- Only heads of sessions have a run_at, and a session has at most one (jobs_head_of_session):
    -- a row locked here is the one job of its session that may run. Everything about it is read in later
    -- statements, whose snapshots see what the job before it left. The session is locked along, so that nobody
    -- deletes it meanwhile. What another worker left comes before what is new.
    select coalesce(array_agg(r.id), '{}') into expired from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= since
                      and h.worker <> bridge_claim.worker and h.lease_until < now()
                    order by h.run_at, h.id))
           and j.worker <> bridge_claim.worker and j.lease_until < now()
         order by j.lease_until
         limit bridge_claim.slots
           for key share of s skip locked
           for update of j skip locked
    ) r;
    insert into bridge.runs (message_id, attempt, worker, outcome)
    select j.message_id, j.attempt, j.worker, 'lost' from bridge.jobs j where j.id = any (expired)
        on conflict do nothing;
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.worker is null and j.run_at >= since and j.run_at <= now()
         order by j.run_at, j.id
         limit bridge_claim.slots - cardinality(expired)
           for key share of s skip locked
           for update of j skip locked
    ) r;

    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int
         where j.id = any (taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.claimed(job, bridge_claim.history, true, job.id = any (expired));
    end loop;
    return bridge.outlook(bridge_claim.worker) || jsonb_build_object('jobs', to_jsonb(jobs), 'snapshot', seen);
end
$$;

comment on function public.bridge_claim is
    'Takes up to `slots` jobs under a lease: those this worker holds but does not know (not in `holding`; one at least), then others. Returns {jobs, next_in_ms, workers, ready, snapshot}; what the snapshot does not see the claim has not seen. With lease_seconds 0 the worker leaves: it counts no more.';

revoke all on function bridge.look from public, anon, authenticated, service_role;

-- A plan that was made while the queue was short reads the table whole, and is kept by its connection: with what an open
-- snapshot leaves in the table that took 250 ms a call. Whoever looks for jobs walks an index, as a claim does.
alter function public.bridge_finish(text, jsonb) set enable_seqscan = off;
alter function public.bridge_finish(text, jsonb) set enable_bitmapscan = off;
alter function bridge.promote() set enable_seqscan = off;
alter function bridge.promote() set enable_bitmapscan = off;
alter function bridge.enqueue_questions() set enable_seqscan = off;
alter function bridge.enqueue_questions() set enable_bitmapscan = off;
alter function bridge.accept_question() set enable_seqscan = off;
alter function bridge.accept_question() set enable_bitmapscan = off;
