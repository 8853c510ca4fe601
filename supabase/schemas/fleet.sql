-- What every call of a worker does: report that it is alive, learn what comes next.

create function bridge.heartbeat(worker text, lease_seconds int default null) returns interval
language plpgsql set search_path = ''
as $$
declare
    lease interval;
begin
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    select w.lease into lease from bridge.workers w
     where w.name = heartbeat.worker and w.seen_at > now() - interval '5 seconds'
       and (heartbeat.lease_seconds is null or w.lease = make_interval(secs => heartbeat.lease_seconds));
    if not found then
        delete from bridge.workers w where w.seen_at < now() - interval '1 day';
        insert into bridge.workers as w (name, lease)
        values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)))
        on conflict (name) do update
           set seen_at = now(), lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end
        returning w.lease into lease;
    end if;
    return lease;
end
$$;
comment on function bridge.heartbeat is 'Records that a worker is alive; returns the length of its leases.';

create function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    horizon timestamptz := coalesce(
        (select w.horizon from bridge.workers w where w.name = queue_hints.worker), '-infinity');
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    ready boolean := (
        select j.run_at from bridge.jobs j where j.worker is null and j.run_at >= horizon and j.run_at <= now()
         order by j.run_at, j.id limit 1) is not null;
begin
    return jsonb_build_object(
        'next_in_ms', (
            select case when min(t.at) is not null  -- least and greatest would ignore a null
                        then least(greatest(extract(epoch from min(t.at) - now()) * 1000, 0), 86400000)::int end
              from (
                (select j.run_at from bridge.jobs j
                  where j.worker is null and j.run_at > now() order by j.run_at limit 1)
                union all
                select min(h.lease_until) from (
                    select j.lease_until from bridge.jobs j
                     where j.worker is not null and j.run_at >= horizon and j.worker <> queue_hints.worker
                     order by j.run_at, j.id) h
                union all
                -- a job that another worker is claiming right now has a lease that is not visible yet
                select now() + w.lease from bridge.workers w where w.name = queue_hints.worker and ready
              ) t (at)
        ),
        'workers', (select count(*) from bridge.live_workers),
        'ready', ready
    );
end
$$;
comment on function bridge.queue_hints is
    'next_in_ms: when another worker''s lease ends or a retry is due (null: nothing is scheduled); workers: how many are live; ready: whether there is a job to claim.';

create function public.bridge_leave(worker text) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
begin
    delete from bridge.workers w where w.name = bridge_leave.worker;
end
$$;
comment on function public.bridge_leave is
    'Removes a worker that stops from the live workers. Its jobs stay with it until their leases end.';
