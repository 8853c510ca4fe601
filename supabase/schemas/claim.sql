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

create function bridge.history_of(
    question public.messages, most int, most_bytes bigint default null, is_older boolean default false
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    pair record;
    bytes bigint := 0;
    messages jsonb[] := '{}';
begin
    -- the newest first, until a limit is reached
    for pair in
        select q.content as asked, q.attachments, r.content as replied, r.data, pg_column_size(r.data) as stored
          from public.messages r
          join public.messages q on q.id = r.reply_to
         where r.session_id = question.session_id and r.ordinal < question.ordinal
           and r.status in ('done', 'cancelled')
           and (r.content <> '' or (not is_older and r.data is not null and bridge.data_of(r.data) is not null))
         order by r.ordinal desc limit history_of.most / 2
    loop
        if pair.data is not null then  -- by what is stored, before anything long is read
            if bytes + pair.stored > history_of.most_bytes then
                return null;
            end if;
            pair.data := bridge.data_of(pair.data);
        end if;
        bytes := bytes + octet_length(pair.asked) + octet_length(pair.replied)
            + coalesce(octet_length(pair.data::text), 0) + coalesce(octet_length(pair.attachments::text), 0);
        exit when bytes > 262144;
        if bytes > history_of.most_bytes then
            return null;
        end if;
        if pair.data is not null and not bridge.is_readable(pair.data) then  -- a trigger or an administrator wrote it
            continue when pair.replied = '';
            pair.data := null;
        end if;
        messages := jsonb_build_object('role', 'assistant', 'content', pair.replied, 'data', pair.data) || messages;
        messages := (jsonb_build_object('role', 'user', 'content', pair.asked)
            || case when pair.attachments is null then '{}'
                    else jsonb_build_object('attachments', pair.attachments) end) || messages;
    end loop;
    return to_jsonb(messages);
end
$$;
comment on function bridge.history_of is
    'What was said before a question, as [{role, content, data?, attachments?}]: the questions that have a reply, each followed by it, up to `most` messages and 256 KiB; null if that is more than `most_bytes`. One that failed, or was cancelled before it had any text, is left out. is_older: without replies that have only data, of which an older worker would make empty messages, and some models refuse these.';

create function bridge.files_of(session_id uuid, most_bytes bigint default null) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    if not exists (select from public.code_files f where f.session_id = files_of.session_id) then
        return '[]';
    end if;
    return (
        select case when max(f.bytes) > files_of.most_bytes then null else coalesce(
                   jsonb_agg(jsonb_build_object(
                       'path', f.path, 'language', f.language, 'revision', f.revision,
                       'content', case when f.bytes <= 524288 then f.content end) order by f.path)
                   filter (where files_of.most_bytes is null or f.bytes <= files_of.most_bytes), '[]') end
          from (
            select c.path, c.language, c.revision, c.content,
                   sum(octet_length(c.content)) over (order by c.updated_at desc, c.path) as bytes
              from public.code_files c where c.session_id = files_of.session_id
          ) f);
end
$$;
comment on function bridge.files_of is
    'The code files of a session, as [{path, language, revision, content}]; null if they hold more than `most_bytes`. Contents are included newest first, up to 512 KiB in total; after that, content is null. The revision is always sent, so a reply can replace a file whose content it was not given without causing a conflict.';

create function bridge.payload(
    job bridge.jobs, question public.messages, reply_id uuid, history int, taken_over boolean, is_older boolean,
    most_bytes bigint
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    session public.sessions;
    said jsonb;
    files jsonb;
begin
    -- its parts in the order of what they cost
    if octet_length(question.content) > payload.most_bytes or pg_column_size(question.data) > payload.most_bytes then
        return null;
    end if;
    said := bridge.history_of(question, payload.history, payload.most_bytes, payload.is_older);
    if said is null then
        return null;
    end if;
    files := bridge.files_of(question.session_id, payload.most_bytes);
    if files is null then
        return null;
    end if;
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    if not ((question.data is null or bridge.is_readable(question.data))
            and (session.metadata = '{}' or bridge.is_readable(session.metadata))) then
        raise exception 'unreadable data or session metadata' using errcode = '22023';
    end if;
    return jsonb_build_object(
        'question_id', question.id,
        'reply_id', payload.reply_id,
        'attempt', job.attempt,
        'failures', job.failures,
        'cancel', job.cancel,
        'taken_over', payload.taken_over,
        'queued_ms', least(extract(epoch from clock_timestamp() - job.queued_at) * 1000, 2147483647)::int,
        'ready_ms', least(extract(epoch from clock_timestamp() - job.run_at) * 1000, 2147483647)::int,
        'since', job.since,
        'steps', job.steps,
        'message', question.content,
        'data', question.data,
        'attachments', question.attachments,
        'model', coalesce(question.model, session.model),
        'session', jsonb_build_object(
            'id', session.id, 'user_id', session.user_id, 'title', session.title,
            'function', session.function, 'metadata', session.metadata),
        'history', said,
        'files', files);
end
$$;
comment on function bridge.payload is
    'Everything a worker needs to answer a question, in one value; null if a part of it is larger than `most_bytes`.';

create function bridge.open_attempt(
    job bridge.jobs, history int, is_new boolean default false, taken_over boolean default false,
    is_older boolean default false, most_bytes bigint default null
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    question public.messages;
    reply_id uuid;
    kept bridge.steps;
    opened jsonb;
begin
    if is_new and not job.cancel then
        if job.steps > 0 then
            select s.* into kept from bridge.steps s
             where s.question_id = job.question_id order by s.ordinal desc limit 1;
        end if;
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, error = null, updated_at = clock_timestamp(),
               -- What finished steps have shown stays, and counts as the first delta. With seq 0, a client that is
               -- sent the next delta before this row would take it for the first.
               content = left(m.content, coalesce(kept.chars, 0)),
               parts = bridge.first_parts(m.parts, kept.parts),
               data = case when kept.name is not null then m.data end,
               seq = (kept.name is not null)::int
        returning m.id into reply_id;
    end if;
    if reply_id is null then  -- it had one, and perhaps a trigger of the project keeps that as it is
        reply_id := (select r.id from public.messages r where r.reply_to = job.question_id);
    end if;
    select m.* into strict question from public.messages m where m.id = job.question_id;
    if is_new and not job.cancel and question.status <> 'running' then
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = job.question_id;
        select m.* into strict question from public.messages m where m.id = job.question_id;
    end if;
    opened := bridge.payload(job, question, reply_id, history, taken_over, is_older, most_bytes);
    if job.steps > 0 then
        opened := opened || (
            select jsonb_build_object('seq', r.seq, 'content', r.content, 'reply_data', r.data, 'parts', r.parts)
              from public.messages r where r.reply_to = job.question_id) || bridge.few_steps_of(job);
    end if;
    -- there were some left when it was asked; the replies before it may have used them up since
    if (is_new or not job.is_confirmed) and not job.cancel and not bridge.tokens_left(job.user_id) then
        opened := opened || jsonb_build_object('used_up', true);
    end if;
    return coalesce(opened, jsonb_build_object('question_id', job.question_id, 'attempt', job.attempt));
end
$$;
comment on function bridge.open_attempt is
    'Returns the job''s payload, or only {question_id, attempt} if it is larger than `most_bytes`. For a new attempt, it first opens the reply row.';

create function bridge.open_claimed(
    job bridge.jobs, history int, is_older boolean, is_new boolean default false, taken_over boolean default false
) returns jsonb
language plpgsql set search_path = ''
as $$
begin
    return bridge.open_attempt(job, history, is_new, taken_over, is_older);
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this job's fault: the worker repeats the claim
    end if;
    -- only this job is affected; its worker finishes it as failed
    return jsonb_build_object(
        'question_id', job.question_id, 'attempt', job.attempt, 'failures', job.failures,
        'cancel', job.cancel, 'taken_over', open_claimed.taken_over, 'broken', sqlstate || ' ' || sqlerrm);
end
$$;
comment on function bridge.open_claimed is 'As bridge.open_attempt, for a claim: {…, broken} if that fails.';

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

create function bridge.estimate_tokens(job bridge.jobs, out input_tokens int, out output_tokens int)
language plpgsql stable set search_path = ''
as $$
begin
    -- four bytes a token, a thousand tokens for an image or a document, and no more context than a claim brings
    input_tokens := (
        coalesce((select octet_length(m.content) + coalesce(octet_length(m.data::text), 0)
                    from public.messages m where m.id = job.question_id), 0)
        + coalesce((
            select sum(case a.value ->> 'type' when 'text/plain' then (a.value ->> 'size')::bigint else 4000 end)
              from public.messages m cross join jsonb_array_elements(m.attachments) a
             where m.id = job.question_id), 0)
        + least(262144, coalesce((
            select sum(octet_length(m.content)) from public.messages m
             where m.session_id = job.session_id and m.ordinal < job.ordinal and m.status in ('done', 'cancelled')), 0))
        + least(524288, coalesce((
            select sum(octet_length(f.content)) from public.code_files f where f.session_id = job.session_id), 0))) / 4;
    output_tokens := coalesce((
        select octet_length(m.content) from public.messages m where m.reply_to = job.question_id), 0) / 4;
end
$$;
comment on function bridge.estimate_tokens is 'About how many tokens an attempt cost that nobody reports.';

create function bridge.record_lost(jobs bigint[]) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, input_tokens, output_tokens)
    -- whoever has not confirmed a job has hardly asked a model: if it has, it will report what that cost
    select j.question_id, j.attempt, j.worker, 'lost', j.function, e.input_tokens, e.output_tokens
      from bridge.jobs j left join lateral bridge.estimate_tokens(j) e on j.is_confirmed
     where j.id = any (record_lost.jobs)
        on conflict do nothing;
    update bridge.workers w set hears_until = now()
     where w.name = any (array(
        select o.name from bridge.workers o
         where o.hears_until > now()
           and o.name in (select j.worker from bridge.jobs j where j.id = any (record_lost.jobs) and not j.is_confirmed)
           for update skip locked));  -- one that is locked is calling right now
end
$$;
comment on function bridge.record_lost is
    'Records the attempts of jobs whose leases have ended as lost, with an estimate of what they cost. A worker that did not confirm one is given no more until it calls.';

create function bridge.take_expired(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int, knows_steps boolean
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    expired bigint[] := array(
        select c.id from (
            select h.id, h.lease_until from bridge.jobs h
             where h.worker is not null and h.run_at >= take_expired.horizon
               and h.worker <> take_expired.worker and h.lease_until < now()
               and (h.steps = 0 or h.cancel or take_expired.knows_steps)
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
    perform bridge.record_lost(taken);
    return taken;
end
$$;
comment on function bridge.take_expired is
    'Locks up to `slots` jobs whose lease with another worker has ended and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`; records those attempts as lost.';

-- Which of the ready jobs ---------------------------------------------------------------------------
--
-- A job's place is how many replies its user has running, plus how many of the user's other questions come before it.
-- Lower places are taken first, whoever asked first: a user who has nothing running is next.

create function bridge.waiting_users(functions text[], most int, jobs_each int, horizon timestamptz) returns bigint[]
language plpgsql stable set search_path = ''
set enable_sort = off  -- so that only jobs_ready_by_user fits
as $$
declare
    start uuid := gen_random_uuid();  -- if more users wait than are looked at, each claim looks at others
    wanted text;
    last uuid;
    next uuid;
    looked int;
    found_jobs bigint[] := '{}';
begin
    foreach wanted in array waiting_users.functions loop
        looked := 0;
        -- from `start` to the last user, then from the first one to `start`
        for part in 1 .. 2 loop
            last := case part when 1 then start else '00000000-0000-0000-0000-000000000000' end;
            loop
                exit when looked >= waiting_users.most;
                next := (
                    select j.user_id from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and j.function = wanted and j.user_id > last
                     order by j.function, j.user_id, j.run_at, j.id limit 1);
                exit when next is null or (part = 2 and next > start);
                found_jobs := found_jobs || array(
                    select j.id from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and j.function = wanted and j.user_id = next
                       and j.run_at >= waiting_users.horizon and j.run_at <= now()
                     order by j.function, j.user_id, j.run_at, j.id limit waiting_users.jobs_each);
                last := next;
                looked := looked + 1;
            end loop;
        end loop;
    end loop;
    return found_jobs;
end
$$;
comment on function bridge.waiting_users is
    'The first `jobs_each` jobs of up to `most` users who wait for each of the functions, in one look at the index for each user.';

create function bridge.ready_jobs(horizon timestamptz, functions text[], known text[], due timestamptz, most int)
returns bigint[]
language plpgsql stable set search_path = ''
as $$
declare
    oldest bigint[] := array(
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
begin
    if cardinality(oldest) = ready_jobs.most then  -- there are more, perhaps of users who have asked less
        oldest := array(
            select u.id from unnest(oldest) u (id)
             union select u.id from unnest(bridge.waiting_users(functions, 128, 8, horizon)) u (id));
    end if;
    return oldest;
end
$$;
comment on function bridge.ready_jobs is
    'Jobs that no worker holds and that could be claimed: the `most` oldest of the `functions`, and of those due at `due` whose function is not `known`; if there are more, also the oldest ones of each user.';

create function bridge.in_fair_order(
    ready bigint[], horizon timestamptz, worker text, elsewhere text[], others uuid[], knows_steps boolean,
    out jobs bigint[], out functions text[], out newcomers bigint[]
)
language plpgsql set search_path = '' set enable_hashjoin = on set plan_cache_mode = force_generic_plan
as $$
declare
    everybody bigint := bridge.limit_of('running_replies', null);
begin
    with waiting as materialized (
        select j.* from unnest(in_fair_order.ready) e (id)
         cross join lateral (
            select h.id, h.user_id, h.function, h.run_at from bridge.jobs h
             where h.id = e.id and h.worker is null and (h.steps = 0 or in_fair_order.knows_steps)
               -- whose last attempt failed here: another worker makes the next, if one does within eight seconds
               and (h.failed_by is null or h.failed_by <> in_fair_order.worker
                    or h.function <> all (in_fair_order.elsewhere) or h.run_at < now() - interval '8 seconds')) j
    ), running as materialized (
        select u.user_id, bridge.running_replies(u.user_id, in_fair_order.horizon) as replies
          from (select distinct w.user_id from waiting w) u
    ), placed as (
        select j.id, j.user_id, j.function, j.run_at,
               r.replies - 1 + row_number() over (partition by j.user_id order by j.run_at, j.id) as place,
               count(*) over (partition by j.user_id) as ready
          from waiting j join running r on r.user_id = j.user_id
    )
    select coalesce(array_agg(p.id order by p.place, p.run_at, p.id), '{}'),
           coalesce(array_agg(p.function order by p.place, p.run_at, p.id), '{}'),
           coalesce(array_agg(p.id order by p.run_at, p.id) filter (where p.place = 0 and p.ready <= 2), '{}')
      into jobs, functions, newcomers
      from placed p
      left join bridge.limits own on own.name = 'running_replies' and own.user_id = p.user_id
     cross join lateral (select case when own.name is null then everybody else own.value end as most) allowed
     where (allowed.most is null or p.place < allowed.most)
       and (p.place = 0 or p.user_id <> all (in_fair_order.others));
end
$$;
comment on function bridge.in_fair_order is
    'Those of the ready jobs that may run now, by their places, and their functions: within `running_replies` of their users, and none of the `others`, whom another claim is serving, but their first. newcomers: those of users who have nothing running, and at most two sessions waiting, as far as `ready` tells.';

create function bridge.claimed_by_others(ready bigint[], horizon timestamptz) returns uuid[]
language plpgsql set search_path = '' set enable_hashjoin = on
as $$
declare
    everybody bigint := bridge.limit_of('running_replies', null);
    hog record;
    others uuid[] := '{}';
begin
    for hog in
        select c.user_id from (
            select j.user_id, count(*) as jobs
              from unnest(claimed_by_others.ready) e (id)
             cross join lateral (select h.user_id from bridge.jobs h where h.id = e.id limit 1) j  -- each by its id
             group by j.user_id) c
          left join bridge.limits own on own.name = 'running_replies' and own.user_id = c.user_id
         where c.jobs + bridge.running_replies(c.user_id, claimed_by_others.horizon)
             >= case when own.name is null then everybody else own.value end
         order by c.user_id
    loop
        -- what other claims took of this user is seen by the next statement, once the lock is free
        if not pg_try_advisory_xact_lock(hashtextextended('bridge.running_replies ' || hog.user_id, 0)) then
            others := others || hog.user_id;
        end if;
    end loop;
    return others;
end
$$;
comment on function bridge.claimed_by_others is
    'The users for whom another claim is counting replies right now: of those who may have more ready jobs than `running_replies` allows. The others are locked, so that two workers together do not exceed it.';

create function bridge.lock_ready(
    jobs bigint[], functions text[], known text[], due timestamptz, most int
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select j.id from unnest(lock_ready.jobs) with ordinality e (id, n)
         cross join lateral (  -- each by its id, as in bridge.take_expired
            select h.id, h.session_id from bridge.jobs h
             where h.id = e.id
               and case when h.worker is not null then false
                        when h.function = any (lock_ready.functions) then h.run_at <= now()
                        else h.run_at <= lock_ready.due and h.function <> all (lock_ready.known) end
               for update skip locked) j
         cross join lateral (
            select from public.sessions s where s.id = j.session_id for key share skip locked) s
         order by e.n limit greatest(lock_ready.most, 0));
end
$$;
comment on function bridge.lock_ready is 'Locks up to `most` of the jobs, in their order; leaves out those that are locked.';

create function bridge.take_ready(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int, reserve int,
    probing text[], elsewhere text[], knows_steps boolean, out taken bigint[], out is_held_back boolean
)
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    most int := take_ready.slots + 8;  -- a few more than needed, as others may have locked some
    ready bigint[];
    fair record;
    probe record;
    found_jobs bigint[];
    wanted int;
    open_slots int := take_ready.slots - case
        when bridge.limit_of('running_replies', null) is null then 0 else take_ready.reserve end;
begin
    taken := '{}';
    is_held_back := false;
    if take_ready.functions is null then
        select coalesce(array_agg(r.id), '{}') into taken from (
            select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
             where j.worker is null and j.run_at >= take_ready.horizon and j.run_at <= now()
               and (j.steps = 0 or take_ready.knows_steps)
             order by j.run_at, j.id
             limit take_ready.slots
               for key share of s skip locked
               for update of j skip locked
        ) r;
        return;
    end if;
    while cardinality(taken) < take_ready.slots loop
        ready := bridge.ready_jobs(horizon, functions, known, due, most);
        exit when ready = '{}';
        select f.* into fair from bridge.in_fair_order(
            ready, horizon, worker, elsewhere, bridge.claimed_by_others(ready, horizon), knows_steps) f;
        -- of a function that is probing, as many as it is named times
        taken := '{}';
        wanted := 0;
        for probe in
            select p.name, count(*)::int as most from unnest(take_ready.probing) p (name) group by p.name
        loop
            found_jobs := array(
                select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
                 where j.function = probe.name order by j.n);
            wanted := wanted + least(probe.most, cardinality(found_jobs));
            taken := taken || bridge.lock_ready(
                found_jobs, functions, known, due, least(probe.most, open_slots - cardinality(taken)));
        end loop;
        found_jobs := array(
            select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
             where j.function <> all (take_ready.probing) order by j.n);
        wanted := wanted + cardinality(found_jobs);
        taken := taken || bridge.lock_ready(found_jobs, functions, known, due, open_slots - cardinality(taken));
        taken := taken || bridge.lock_ready(
            array(select n.id from unnest(fair.newcomers) n (id)
                   where n.id <> all (taken) and n.id = any (found_jobs)),
            functions, known, due, slots - cardinality(taken));
        is_held_back := cardinality(ready) > cardinality(taken);
        -- more only if others have locked some of these
        exit when cardinality(ready) < most or cardinality(taken) >= least(open_slots, wanted);
        most := most * 4;
    end loop;
end
$$;
comment on function bridge.take_ready is
    'Locks up to `slots` jobs that are due, that no worker holds, and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`. The last `reserve` slots are only for users who have nothing running, and at most two sessions waiting. is_held_back: there are more, for which a slot or a reply of their user has to become free.';

create function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int, functions text[] default null,
    reserve int default 0, probing text[] default '{}', paused text[] default '{}', failing text[] default '{}',
    capacity int default null, hears_seconds int default 15, knows_steps boolean default false
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
-- The queue is short-lived and its statistics are always stale: this and the functions it calls walk the indexes.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    snapshot text := pg_current_snapshot()::text;
    alive record := bridge.heartbeat(
        bridge_claim.worker, bridge_claim.lease_seconds, bridge_claim.functions, bridge_claim.failing,
        array(select n.name from unnest(bridge_claim.probing || bridge_claim.paused) n (name)
               where n.name <> all (bridge_claim.failing) or n.name = any (bridge_claim.probing)
               group by n.name order by n.name),
        bridge_claim.capacity, bridge_claim.history, make_interval(secs => bridge_claim.hears_seconds),
        bridge_claim.knows_steps);
    lease_end timestamptz := now() + alive.lease;
    horizon timestamptz := bridge.claim_horizon(bridge_claim.worker, bridge_claim.functions);
    held bigint[] := bridge.held_by(bridge_claim.worker, horizon);
    due timestamptz := now() - bridge.unknown_wait();
    known text[] := bridge.known_functions(bridge_claim.functions, due);
    elsewhere text[] := bridge.answered_elsewhere(bridge_claim.worker);
    probes text[];
    takes text[];
    again text[] := '{}';
    expired bigint[];
    ready record;
    hints jsonb;
    free int[];  -- slots
    wanted int;
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- appending to an array does not copy it, unlike appending to a jsonb
begin
    set constraints all immediate;  -- so that a deferred trigger fails only its job, not the whole claim
    if exists (select from bridge.ended_children) then
        perform bridge.wake_parents();
    end if;
    -- Return again, under the same attempt, jobs whose claim answer was lost. They use slots like any other, so a worker
    -- that now asks for fewer gets them in parts. Even without a free slot it gets one.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (held)
           and j.worker is not distinct from bridge_claim.worker and not (j.question_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update skip locked
    loop
        -- dispatched some time ago, and it has not arrived
        alive.missed := alive.missed or (not job.is_confirmed and job.lease_until < now() + bridge.dispatch_lease() / 2);
        update bridge.jobs j set lease_until = lease_end, is_confirmed = true where j.id = job.id;
        jobs := jobs || bridge.open_claimed(job, bridge_claim.history, bridge_claim.functions is null);
        again := again || job.function;
    end loop;
    -- what it did not know of is among the few questions that it may have of a function
    probes := array(
        select p.name from (
            select u.name, row_number() over (partition by u.name) as n from unnest(bridge_claim.probing) u (name)) p
         where p.n > (select count(*) from unnest(again) a (name) where a.name = p.name));
    takes := case when bridge_claim.functions is not null then array(
        select f.name from unnest(bridge_claim.functions) f (name)
         where f.name <> all (elsewhere)
            or (f.name <> all (bridge_claim.paused) and (f.name <> all (bridge_claim.probing) or f.name = any (probes)))) end;
    if alive.missed then  -- it subscribes again: until it says that it has, nothing is dispatched to it
        update bridge.workers w set capacity = 0, hears_until = '-infinity' where w.name = bridge_claim.worker;
    end if;

    -- jobs of vanished workers come before new ones
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);
    if bridge_claim.capacity > 0 then  -- what is being dispatched to this worker takes slots that it does not know of
        wanted := slots;
        free := bridge.lock_slots(bridge_claim.worker, horizon, bridge_claim.capacity, slots);
        slots := cardinality(free);
    end if;
    expired := bridge.take_expired(bridge_claim.worker, horizon, takes, known, due, slots, knows_steps);
    select r.* into ready from bridge.take_ready(
        bridge_claim.worker, horizon, takes, known, due, slots - cardinality(expired), bridge_claim.reserve,
        array(select f.name from unnest(probes) f (name) where f.name = any (elsewhere)), elsewhere, knows_steps) r;
    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int,
               slot = free[array_position(ready.taken || expired, j.id)],
               is_confirmed = true
         where j.id = any (ready.taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.open_claimed(
            job, bridge_claim.history, bridge_claim.functions is null, true, job.id = any (expired));
    end loop;
    -- last, as the users' rows in bridge.usage stay locked until the end
    perform bridge.charge_tokens(coalesce((
        select jsonb_agg(jsonb_build_object(
                   'user_id', j.user_id, 'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
          from unnest(expired) e (id)
          join bridge.jobs j on j.id = e.id
          join bridge.runs r on r.question_id = j.question_id and r.attempt = j.attempt - 1), '[]'));
    hints := bridge.queue_hints(bridge_claim.worker);
    if slots < wanted and hints ->> 'ready' = 'true' then  -- some slots are being filled, or will be free in a moment
        hints := hints || jsonb_build_object('next_in_ms', 0);
    end if;
    return hints || bridge.lease_hint(bridge_claim.worker, (hints ->> 'ready')::boolean) || jsonb_build_object(
        'jobs', to_jsonb(jobs), 'snapshot', snapshot, 'held_back', ready.is_held_back, 'elsewhere', to_jsonb(elsewhere),
        'missed', alive.missed)
        || case when bridge.has_orphans() then jsonb_build_object('orphans', true) else '{}' end;
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Of functions that other workers answer well, it takes as many jobs as `probing` names it times, or none if it is `paused`. Those that are `failing` are noted. The last `reserve` slots are for users who have asked little. `capacity`: how many jobs can be dispatched to it while it calls at least every `hears_seconds` (0: it does not hear its topic, or drains; null: it has none, as it has an older version). `knows_steps`: it can go on with questions that have steps; others do not get these. Returns {jobs: [{question_id, …}], held_back, elsewhere, next_in_ms, lease_in_ms, workers, ready, watches, missed, at_ms, snapshot}. held_back: claim again when a reply has ended. elsewhere: the functions that other workers answer well. The snapshot shows which transactions the claim has seen.';
