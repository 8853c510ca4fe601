-- Claim: a worker takes jobs under a lease.

create function bridge.data_of(reply jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
    rest jsonb := nullif(data_of.reply, 'null');
begin
    if jsonb_typeof(rest) = 'object' then
        -- only where the worker has made them the reply's text and files; otherwise they are ordinary data
        if jsonb_typeof(rest -> 'reply') = 'string' then
            rest := rest - 'reply';
        end if;
        if not jsonb_path_exists(rest, 'lax $.files[*] ? (!exists (@.path) || !exists (@.content))') then
            rest := rest - 'files';
        end if;
    end if;
    return nullif(rest, '{}');
end
$$;
comment on function bridge.data_of is
    'What a reply''s `data` says beyond its text and its files, which are stored as such; null: nothing.';

create function bridge.history_of(question public.messages, most int) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    -- An older worker knows no data: of a reply without text, it would make an empty message, which some models refuse.
    -- No join, which would fit jobs_held too, with the entries of all ended jobs.
    is_older boolean := (
        select w.functions is null from bridge.workers w
         where w.name = (select j.worker from bridge.jobs j where j.question_id = question.id));
    pair record;
    data jsonb;
    bytes bigint := 0;
    messages jsonb[] := '{}';
begin
    -- the newest first, until a limit is reached
    for pair in
        select q.content as asked, r.content as replied, r.data from public.messages r
          join public.messages q on q.id = r.reply_to
         where r.session_id = question.session_id and r.ordinal < question.ordinal
           and r.status in ('done', 'cancelled')
           and (r.content <> '' or (is_older is not true and bridge.data_of(r.data) is not null))
         order by r.ordinal desc limit history_of.most / 2
    loop
        data := bridge.data_of(pair.data);
        bytes := bytes + octet_length(pair.asked) + octet_length(pair.replied) + coalesce(octet_length(data::text), 0);
        exit when bytes > 262144;
        if not bridge.is_readable(data) then  -- a trigger or an administrator wrote it
            continue when pair.replied = '';
            data := null;
        end if;
        messages := messages
            || jsonb_build_object('role', 'assistant', 'content', pair.replied, 'data', data)
            || jsonb_build_object('role', 'user', 'content', pair.asked);
    end loop;
    return (
        select coalesce(jsonb_agg(m.message order by m.n desc), '[]')
          from unnest(messages) with ordinality m (message, n));
end
$$;
comment on function bridge.history_of is
    'What was said before a question, as [{role, content, data?}]: the questions that have a reply, each followed by it, up to `most` messages and 256 KiB. One that failed, or was cancelled before it had any text, is left out.';

create function bridge.files_of(session_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'path', f.path, 'language', f.language, 'revision', f.revision,
                   'content', case when f.bytes <= 524288 then f.content end) order by f.path), '[]')
          from (
            select c.path, c.language, c.revision, c.content,
                   sum(octet_length(c.content)) over (order by c.updated_at desc, c.path) as bytes
              from public.code_files c where c.session_id = files_of.session_id
          ) f);
end
$$;
comment on function bridge.files_of is
    'The code files of a session, as [{path, language, revision, content}]. Contents are included newest first, up to 512 KiB in total; after that, content is null. The revision is always sent, so a reply can replace a file whose content it was not given without causing a conflict.';

create function bridge.payload(job bridge.jobs, history int, taken_over boolean) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    question public.messages;
    session public.sessions;
begin
    select m.* into strict question from public.messages m where m.id = job.question_id;
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    return jsonb_build_object(
        'question_id', question.id,
        'reply_id', (select r.id from public.messages r where r.reply_to = question.id),
        'attempt', job.attempt,
        'failures', job.failures,
        'cancel', job.cancel,
        'taken_over', payload.taken_over,
        'queued_ms', least(extract(epoch from clock_timestamp() - job.queued_at) * 1000, 2147483647)::int,
        'ready_ms', least(extract(epoch from clock_timestamp() - job.run_at) * 1000, 2147483647)::int,
        'message', question.content,
        'data', question.data,
        'session', jsonb_build_object(
            'id', session.id, 'user_id', session.user_id, 'title', session.title,
            'function', session.function, 'metadata', session.metadata),
        'history', bridge.history_of(question, payload.history),
        'files', bridge.files_of(session.id));
end
$$;
comment on function bridge.payload is 'Everything a worker needs to answer a question, in one value.';

create function bridge.open_attempt(
    job bridge.jobs, history int, is_new boolean default false, taken_over boolean default false
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    opened jsonb;
begin
    if is_new and not job.cancel then
        set constraints all immediate;  -- so that a deferred trigger fails only this job, not the whole claim
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp();
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = job.question_id and m.status <> 'running';
    end if;
    opened := bridge.payload(job, open_attempt.history, open_attempt.taken_over);
    if not (bridge.is_readable(opened -> 'data') and bridge.is_readable(opened #> '{session,metadata}')) then
        raise exception 'unreadable data or session metadata' using errcode = '22023';
    end if;
    return opened;
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this job's fault: the worker repeats the claim
    end if;
    -- only this job is affected; its worker finishes it as failed
    return jsonb_build_object(
        'question_id', job.question_id, 'attempt', job.attempt, 'failures', job.failures,
        'cancel', job.cancel, 'taken_over', open_attempt.taken_over, 'broken', sqlstate || ' ' || sqlerrm);
end
$$;
comment on function bridge.open_attempt is
    'Returns the job''s payload, or {…, broken} if that fails. For a new attempt, it first opens the reply row.';

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

-- Only heads of sessions have a run_at, and a session has at most one (jobs_head_of_session): a row locked below is
-- the only job of its session that may run. Everything about it is read in later statements, whose snapshots include
-- what the job before it left. The session is locked too, so that it cannot be deleted meanwhile.

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
