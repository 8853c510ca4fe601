-- What the worker calls: claim, beat, finish. All take batches, all are safe to call twice.

create function bridge.seen(worker text, lease_seconds int default null) returns interval
language plpgsql
set search_path = ''
as $$
declare
    lease interval;
begin
    -- a row's worth of writes every second or so is enough to be known as alive
    select w.lease into lease from bridge.workers w
     where w.name = seen.worker and w.seen_at > now() - interval '1 second'
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
comment on function bridge.seen is 'Notes that a worker lives; returns the length of its leases.';

create function bridge.outlook(worker text) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'next_in_ms', (
            select case when min(t.at) is not null  -- least and greatest would pass over a null
                        then least(greatest(extract(epoch from min(t.at) - now()) * 1000, 0), 86400000)::int end
              from (
                (select j.run_at from bridge.jobs j
                  where j.worker is null and j.run_at > now() order by j.run_at limit 1)
                union all
                select min(j.lease_until) from bridge.jobs j
                 where j.worker is not null and j.worker <> outlook.worker
                union all
                -- what another worker is claiming at this moment has a lease that cannot be seen yet
                select now() + w.lease from bridge.workers w
                 where w.name = outlook.worker
                   and exists (select from bridge.jobs j where j.worker is null and j.run_at <= now())
              ) t (at)
        ),
        'workers', (
            select count(*) from bridge.workers w where w.seen_at > now() - greatest(w.lease, interval '30 seconds')
        )
    );
end
$$;
comment on function bridge.outlook is
    'next_in_ms: when a lease of another worker ends or a retry is due (null: nothing in sight); workers: how many live.';

create function bridge.payload(job bridge.jobs, history int, taken_over boolean) returns jsonb
language plpgsql
stable
set search_path = ''
as $$
declare
    question public.messages;
    result jsonb;
begin
    select m.* into strict question from public.messages m where m.id = (job).message_id;
    select jsonb_build_object(
        'message_id', question.id,
        'reply_id', (select r.id from public.messages r where r.reply_to = question.id),
        'attempt', (job).attempt,
        'failures', (job).failures,
        'cancel', (job).cancel,
        'taken_over', payload.taken_over,
        'queued_ms', least(extract(epoch from clock_timestamp() - (job).queued_at) * 1000, 2147483647)::int,
        'ready_ms', least(extract(epoch from clock_timestamp() - (job).run_at) * 1000, 2147483647)::int,
        'message', question.content,
        'data', question.data,
        'session', jsonb_build_object(
            'id', s.id, 'user_id', s.user_id, 'title', s.title, 'function', s.function, 'metadata', s.metadata)
    ) into strict result from public.sessions s where s.id = question.session_id;
    return result || jsonb_build_object(
        -- newest first within the caps, then oldest first as a conversation is read
        'history', (
            select coalesce(jsonb_agg(jsonb_build_object('role', h.role, 'content', h.content) order by h.ordinal), '[]')
              from (
                select m.ordinal, m.role, m.content,
                       sum(octet_length(m.content)) over (order by m.ordinal desc) as bytes
                  from (
                    select m.ordinal, m.role, m.content from public.messages m
                     where m.session_id = question.session_id and m.ordinal < question.ordinal
                       and m.content <> ''
                       and (m.role = 'user' or m.status in ('done', 'cancelled'))
                     order by m.ordinal desc limit payload.history
                  ) m
              ) h
             where h.bytes <= 262144
        ),
        'files', (
            select coalesce(jsonb_agg(jsonb_build_object(
                       'path', f.path, 'language', f.language, 'revision', f.revision,
                       -- one beyond the cap is named, so that a reply that writes it is no conflict
                       'content', case when f.bytes <= 524288 then f.content end) order by f.path), '[]')
              from (
                select c.path, c.language, c.revision, c.content,
                       sum(octet_length(c.content)) over (order by c.updated_at desc, c.path) as bytes
                  from public.code_files c where c.session_id = question.session_id
              ) f
        ));
end
$$;
comment on function bridge.payload is 'Everything that answering a question takes, in one value.';

create function public.bridge_claim(worker text, slots int, holding uuid[], lease_seconds int, history int)
returns jsonb
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
    taken bigint[];
    expired bigint[];
    job bridge.jobs;
    jobs jsonb := '[]';
    seen text := pg_current_snapshot()::text;
begin
    if bridge_claim.lease_seconds = 0 then
        delete from bridge.workers w where w.name = bridge_claim.worker;
        return bridge.outlook(bridge_claim.worker) || jsonb_build_object('jobs', jobs, 'snapshot', seen);
    end if;
    lease_end := now() + bridge.seen(bridge_claim.worker, bridge_claim.lease_seconds);
    -- what an earlier claim took and its worker never heard of: the same attempt once more
    for job in
        select j.* from bridge.jobs j
         where j.worker = bridge_claim.worker and not (j.message_id = any (bridge_claim.holding))
         order by j.id for update
    loop
        update bridge.jobs j set lease_until = lease_end where j.id = job.id;
        jobs := jobs || bridge.claimed(job, bridge_claim.history);
    end loop;

    -- Only heads of sessions have a run_at, and a session has at most one (jobs_head_of_session):
    -- a row locked here is the one job of its session that may run. Everything about it is read in later
    -- statements, whose snapshots see what the job before it left. The session is locked along, so that nobody
    -- deletes it meanwhile. What another worker left comes before what is new.
    select coalesce(array_agg(r.id), '{}') into expired from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.worker is not null and j.worker <> bridge_claim.worker and j.lease_until < now()
         order by j.lease_until
         limit greatest(bridge_claim.slots, 0)
           for key share of s skip locked
           for update of j skip locked
    ) r;
    insert into bridge.runs (message_id, attempt, worker, outcome)
    select j.message_id, j.attempt, j.worker, 'lost' from bridge.jobs j where j.id = any (expired)
        on conflict do nothing;
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
         where j.worker is null and j.run_at <= now()
         order by j.run_at, j.id
         limit greatest(bridge_claim.slots - cardinality(expired), 0)
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
    return bridge.outlook(bridge_claim.worker) || jsonb_build_object('jobs', jobs, 'snapshot', seen);
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs under a lease, after those this worker holds but does not know (not in `holding`). Returns {jobs, next_in_ms, workers, snapshot}; what the snapshot does not see the claim has not seen. With lease_seconds 0 the worker leaves: it counts no more.';

create function bridge.passes(state text) returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
    return passes.state ~ '^(40|53|55|57|58)';
end
$$;
comment on function bridge.passes is
    'Whether an error of this SQLSTATE passes by itself: rollback, resources, locks, an operator, the system.';

create function bridge.claimed(job bridge.jobs, history int, opens boolean default false, taken_over boolean default false)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
    if opens and not (job).cancel then
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values ((job).session_id, (job).ordinal + 1, 'assistant', 'running', (job).message_id, (job).attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp();
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = (job).message_id and m.status <> 'running';
    end if;
    return bridge.payload(job, claimed.history, claimed.taken_over);
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
comment on function bridge.claimed is
    'Opens the reply row of a new attempt and returns the job''s payload; if that cannot be built, says so in it.';

create function public.bridge_beat(worker text, jobs jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
as $$
declare
    lease_end timestamptz := now() + bridge.seen(bridge_beat.worker);
    states jsonb;
    held jsonb;
    item jsonb;
begin
    perform from bridge.jobs j
      join jsonb_array_elements(bridge_beat.jobs) i on j.message_id = (i ->> 'message_id')::uuid
      order by j.id for update of j;
    with extended as (
        update bridge.jobs j set lease_until = lease_end
          from jsonb_array_elements(bridge_beat.jobs) i
         where j.message_id = (i ->> 'message_id')::uuid
           and j.worker = bridge_beat.worker and j.attempt = (i ->> 'attempt')::int
        returning j.message_id, j.cancel, i
    )
    select coalesce(jsonb_object_agg(e.message_id, case when e.cancel then 'cancel' else 'ok' end), '{}'),
           coalesce(jsonb_agg(e.i) filter (where e.i ? 'seq'), '[]')
      into states, held from extended e;
    begin
        perform bridge.checkpoint(held);
    exception when others then
        -- one that Postgres refuses must not cost the others theirs, nor anybody the lease
        for item in select jsonb_array_elements(held) loop
            begin
                perform bridge.checkpoint(jsonb_build_array(item));
            exception when others then
                raise warning 'bridge_beat: checkpoint of % refused: %', item ->> 'message_id', sqlerrm;
            end;
        end loop;
    end;
    return bridge.outlook(bridge_beat.worker) || jsonb_build_object('results', (
        select coalesce(jsonb_object_agg(i ->> 'message_id', coalesce(states ->> (i ->> 'message_id'), 'lost')), '{}')
          from jsonb_array_elements(bridge_beat.jobs) i));
end
$$;
comment on function public.bridge_beat is
    'Extends the leases of jobs [{message_id, attempt, seq?, content?, data?}] and writes their checkpoints. Returns {results: {message_id: ok|lost|cancel}, next_in_ms, workers}.';

create function bridge.checkpoint(items jsonb) returns void
language plpgsql
set search_path = ''
as $$
begin
    update public.messages m
       set content = coalesce(i ->> 'content', m.content),
           data = case when i ? 'data' then nullif(i -> 'data', 'null') else m.data end,
           seq = (i ->> 'seq')::int,
           updated_at = clock_timestamp()
      from jsonb_array_elements(checkpoint.items) i
     where m.reply_to = (i ->> 'message_id')::uuid and m.attempt = (i ->> 'attempt')::int
       and m.status = 'running' and m.seq < (i ->> 'seq')::int;
end
$$;
comment on function bridge.checkpoint is 'Writes partial replies. The caller holds the jobs, so none is stale.';

create function bridge.write_file(job bridge.jobs, reply_id uuid, item jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
    file public.code_files;
begin
    select f.* into file from public.code_files f
     where f.session_id = (job).session_id and f.path = item ->> 'path' for update;
    if not found then
        insert into public.code_files (session_id, path, content, language, message_id)
        values ((job).session_id, item ->> 'path', item ->> 'content', item ->> 'language', write_file.reply_id);
    elsif file.revision = (item ->> 'revision')::int or file.message_id = write_file.reply_id then
        update public.code_files f
           set content = item ->> 'content', language = coalesce(item ->> 'language', f.language),
               message_id = write_file.reply_id
         where f.id = file.id;
    elsif file.content <> item ->> 'content' then
        -- the user edited it (or added it) meanwhile: the user's text stays
        insert into public.code_file_versions
            (file_id, session_id, path, content, language, revision, conflict, message_id)
        values (file.id, file.session_id, file.path, item ->> 'content', item ->> 'language',
                coalesce((item ->> 'revision')::int, 0), true, write_file.reply_id);
        perform bridge.announce('session:' || file.session_id, 'file',
                                bridge.slim(to_jsonb(file)) || jsonb_build_object('conflict', true));
    end if;
end
$$;
comment on function bridge.write_file is
    'Writes a file of a reply {path, content, language, revision}; revision is the one the reply was made from.';

create function bridge.write_files(job bridge.jobs, reply_id uuid, files jsonb) returns text
language plpgsql
set search_path = ''
as $$
declare
    item jsonb;
    refused text[] := '{}';
begin
    -- in one order, as they are locked
    for item in select x from jsonb_array_elements(write_files.files) x order by x ->> 'path' loop
        begin
            perform bridge.write_file(job, write_files.reply_id, item);
        exception when others then
            if bridge.passes(sqlstate) then
                raise;
            end if;
            refused := refused || format('%s: %s', left(item ->> 'path', 80), sqlerrm);
        end;
    end loop;
    return nullif(array_to_string(refused, '; '), '');
end
$$;
comment on function bridge.write_files is
    'Writes the files of a reply; one that is refused costs the others nothing. Returns which were, and why.';

create function bridge.finish(job bridge.jobs, result jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
    outcome text := case when (job).cancel then 'cancelled' else result ->> 'outcome' end;
    run jsonb := coalesce(result -> 'run', '{}');
    again timestamptz := case outcome
        when 'released' then now()
        when 'failed' then case when result ? 'retry_in_ms'
            then now() + make_interval(secs => least((result ->> 'retry_in_ms')::float8, 86400000) / 1000) end
        end;
    reply_id uuid;
    refused text;
begin
    insert into bridge.runs (message_id, attempt, worker, outcome, function, model, input_tokens, output_tokens,
                             cached_tokens, queue_ms, first_delta_ms, duration_ms, error)
    values ((job).message_id, (job).attempt, (job).worker, outcome, run ->> 'function', run ->> 'model',
            (run ->> 'input_tokens')::int, (run ->> 'output_tokens')::int, (run ->> 'cached_tokens')::int,
            (run ->> 'queue_ms')::int, (run ->> 'first_delta_ms')::int, (run ->> 'duration_ms')::int,
            nullif(run -> 'error', 'null'))
        on conflict on constraint runs_pkey do nothing;
    if again is not null then
        -- the text so far stays to be seen until the next attempt opens the reply anew
        update public.messages m set status = 'queued', updated_at = clock_timestamp()
         where m.id = (job).message_id or m.reply_to = (job).message_id;
        update bridge.jobs j
           set worker = null, lease_until = null, run_at = again,
               failures = j.failures + (outcome = 'failed')::int
         where j.id = (job).id;
        if outcome = 'released' then
            perform bridge.announce_work(array[(job).message_id]);
        end if;
        return;
    end if;
    if outcome = 'done' then
        if result ? 'files' then
            select m.id into reply_id from public.messages m where m.reply_to = (job).message_id;
            refused := bridge.write_files(job, reply_id, result -> 'files');
            if refused is not null then
                update bridge.runs r
                   set error = jsonb_build_object('code', 'files_refused', 'detail', refused)
                 where r.message_id = (job).message_id and r.attempt = (job).attempt;
            end if;
        end if;
        if result ? 'title' then
            update public.sessions s set title = result ->> 'title'
             where s.id = (job).session_id and s.title is null;
        end if;
    end if;
    if outcome = 'failed' then
        job.failures := (job).failures + 1;
    end if;
    perform bridge.end_job(job, outcome, case when outcome = 'failed' then result -> 'error' end, result);
end
$$;
comment on function bridge.finish is
    'Writes how an attempt ended. The caller holds session and job. A cancel that came first turns any outcome into cancelled.';

create function public.bridge_finish(worker text, results jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
as $$
declare
    item jsonb;
    job bridge.jobs;
    states jsonb := '{}';
    state text;
    tokens jsonb := '{}';
begin
    perform from public.sessions s
      where s.id in (
          select j.session_id from bridge.jobs j
            join jsonb_array_elements(bridge_finish.results) i on j.message_id = (i ->> 'message_id')::uuid)
      order by s.id for no key update;
    perform from bridge.jobs j
      join jsonb_array_elements(bridge_finish.results) i on j.message_id = (i ->> 'message_id')::uuid
      order by j.id for update of j;
    for item in select jsonb_array_elements(bridge_finish.results) loop
        select j.* into job from bridge.jobs j
         where j.message_id = (item ->> 'message_id')::uuid
           and j.worker = bridge_finish.worker and j.attempt = (item ->> 'attempt')::int;
        if found then
            begin
                perform bridge.finish(job, item);
                state := 'ok';
                tokens := bridge.add_tokens(tokens, job.user_id, item -> 'run');
            exception when others then
                if bridge.passes(sqlstate) then
                    raise;  -- no fault of this result's: the batch is sent again
                end if;
                -- refused for what is in it: end it as failed, without what was refused
                raise warning 'bridge_finish: % refused: % %', job.message_id, sqlstate, sqlerrm;
                perform bridge.finish(job, jsonb_build_object(
                    'outcome', 'failed',
                    'error', jsonb_build_object('code', 'unstorable', 'message', 'The reply could not be stored.'),
                    'run', jsonb_build_object('error', jsonb_build_object(
                        'code', 'unstorable', 'detail', sqlstate || ' ' || sqlerrm))));
                state := 'refused';
            end;
        elsif exists (
            select from bridge.runs r
             where r.message_id = (item ->> 'message_id')::uuid and r.attempt = (item ->> 'attempt')::int
               and r.worker = bridge_finish.worker and r.outcome <> 'lost'
        ) then
            state := 'ok';  -- the same finish once more: its first answer was lost
        elsif exists (select from public.messages m where m.id = (item ->> 'message_id')::uuid) then
            state := 'lost';
        else
            -- whoever deletes a session pays for what was said in it all the same
            tokens := bridge.add_tokens(tokens, (item ->> 'user_id')::uuid, item -> 'run');
            state := 'gone';
        end if;
        states := states || jsonb_build_object(item ->> 'message_id', state);
    end loop;
    perform bridge.charge_tokens(tokens);
    return bridge.outlook(bridge_finish.worker) || jsonb_build_object('results', states);
end
$$;
comment on function public.bridge_finish is
    'Ends attempts: [{message_id, attempt, outcome, content?, data?, seq?, files?, title?, error?, retry_in_ms?, run?}]. Returns {results: {message_id: ok|lost|gone|refused}, next_in_ms, workers}.';

revoke all on all functions in schema bridge from public, anon, service_role;
revoke all on function public.bridge_claim, public.bridge_beat, public.bridge_finish
    from public, anon, authenticated;
grant execute on function public.bridge_claim, public.bridge_beat, public.bridge_finish
    to service_role;
