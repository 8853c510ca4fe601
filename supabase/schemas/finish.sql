-- Finish: a worker reports how attempts ended.

create function bridge.record_run(job bridge.jobs, outcome text, run jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, model, input_tokens, output_tokens,
                             cached_tokens, queue_ms, first_delta_ms, duration_ms, error)
    select job.question_id, job.attempt, job.worker, record_run.outcome, r.function, coalesce(r.model, s.model),
           coalesce(r.input_tokens + s.input_tokens, r.input_tokens, s.input_tokens),
           coalesce(r.output_tokens + s.output_tokens, r.output_tokens, s.output_tokens),
           coalesce(r.cached_tokens + s.cached_tokens, r.cached_tokens, s.cached_tokens), r.queue_ms, r.first_delta_ms, r.duration_ms, r.error
      from jsonb_to_record(record_run.run) r (
               function text, model text, input_tokens int, output_tokens int, cached_tokens int, queue_ms int,
               first_delta_ms int, duration_ms int, error jsonb)
      -- with what the model calls of its steps have cost, which has been charged
      left join lateral (
        select max(x.run ->> 'model') as model, sum((x.run ->> 'input_tokens')::int)::int as input_tokens,
               sum((x.run ->> 'output_tokens')::int)::int as output_tokens,
               sum((x.run ->> 'cached_tokens')::int)::int as cached_tokens
          from bridge.steps x
         where x.question_id = job.question_id and x.attempt = job.attempt) s on job.steps > 0
        on conflict on constraint runs_pkey do nothing;
end
$$;
comment on function bridge.record_run is 'Records an attempt; one that is already recorded stays as it is.';

create function bridge.finish(job bridge.jobs, result jsonb) returns boolean
language plpgsql set search_path = ''
as $$
declare
    outcome text := case when job.cancel then 'cancelled' else result ->> 'outcome' end;
    -- The fault may be the worker's own, such as a model that it cannot reach. Then another one answers, if there is
    -- one, and the question's failures do not grow; twenty times at most.
    is_handed_over boolean := outcome = 'failed' and result ? 'hand_over_in_ms' and job.attempt - job.failures <= 20
        and job.function = any (bridge.answered_elsewhere(job.worker));
    retry_at timestamptz := case
        when outcome = 'released' then now()
        when is_handed_over
            then now() + make_interval(secs => least((result ->> 'hand_over_in_ms')::float8, 86400000) / 1000)
        when outcome = 'failed' and result ? 'retry_in_ms'
            then now() + make_interval(secs => least((result ->> 'retry_in_ms')::float8, 86400000) / 1000)
        end;
    refused text;
begin
    -- so that a deferred trigger fails here and not at the commit, where it would fail the other results too
    set constraints all immediate;
    perform bridge.record_run(job, outcome, coalesce(nullif(result -> 'run', 'null'), '{}'));
    if outcome = 'failed' and result ? 'hand_over_in_ms' then
        -- at once: its slot becomes free, and would be given the next question before it says how it is
        update bridge.workers w set failing = w.failing || job.function
         where w.name = job.worker and job.function <> all (w.failing);
    end if;
    if outcome = 'waiting' then
        perform bridge.set_status(job.question_id, 'waiting', reply => result);
        perform bridge.wait(job, coalesce(nullif(result -> 'waits', 'null'), '[]'));
        return false;
    end if;
    if retry_at is not null then
        -- the text so far stays visible until the next attempt opens the reply again
        perform bridge.set_status(job.question_id, 'queued');
        update bridge.jobs j
           set worker = null, slot = null, lease_until = null, is_confirmed = true, run_at = retry_at,
               failures = j.failures + (outcome = 'failed' and not is_handed_over)::int,
               failed_by = case when outcome = 'failed' then j.worker end
         where j.id = job.id
        returning j.* into job;
        if job.function = any (bridge.answered_elsewhere(job.failed_by)) then
            -- another worker makes the next attempt, and has to learn when it is due
            if not bridge.announce_due(job, job.run_at, job.failed_by) then
                perform bridge.announce_work(array[job.question_id]);
            end if;
        end if;
        return false;
    end if;
    if outcome = 'done' and result ? 'files' then
        refused := bridge.write_files(job, result -> 'files');
        if refused is not null then
            update bridge.runs r
               set error = jsonb_build_object('code', 'files_refused', 'detail', refused)
             where r.question_id = job.question_id and r.attempt = job.attempt;
        end if;
    end if;
    if outcome = 'failed' then
        job.failures := job.failures + 1;
    end if;
    if outcome = 'cancelled' and job.steps > 0 then
        perform bridge.cancel_children(job.question_id);
    end if;
    perform bridge.end_job(
        job, outcome, case when outcome = 'failed' then result -> 'error' end, result, deletes => false);
    return true;
end
$$;
comment on function bridge.finish is
    'Writes how an attempt ended. The caller holds session and job, and deletes the job if this returns true. If the user cancelled first, every outcome becomes cancelled.';

create function bridge.finish_held(job bridge.jobs, result jsonb, out state text, out has_ended boolean)
language plpgsql set search_path = ''
as $$
begin
    has_ended := bridge.finish(job, result);
    state := 'ok';
exception
    when lock_not_available then
        state := 'busy';  -- a user keeps one of the reply's files locked
        has_ended := false;
    when others then
        if bridge.is_transient(sqlstate) then
            raise;  -- not this result's fault: the worker repeats the batch
        end if;
        -- refused because of its content: end it as failed, without that content
        raise warning 'bridge_finish: % refused: % %', job.question_id, sqlstate, sqlerrm;
        has_ended := bridge.finish(job, jsonb_build_object(
            'outcome', 'failed',
            'error', jsonb_build_object('code', 'unstorable', 'message', 'The reply could not be stored.'),
            'run', coalesce(nullif(result -> 'run', 'null'), '{}') || jsonb_build_object('error', jsonb_build_object(
                'code', 'unstorable', 'detail', sqlstate || ' ' || sqlerrm))));
        state := 'refused';
end
$$;
comment on function bridge.finish_held is
    'Finishes a job that its worker holds: ok, busy (nothing was written, as something is locked), or refused (it was ended as failed). A refused result does not affect the others. has_ended: the caller deletes the job.';

create function bridge.state_of_unheld(worker text, question_id uuid, attempt int) returns text
language plpgsql stable set search_path = ''
as $$
begin
    return case
        -- the same finish again: its first answer was lost
        when exists (
            select from bridge.runs r
             where r.question_id = state_of_unheld.question_id and r.attempt = state_of_unheld.attempt
               and r.worker = state_of_unheld.worker and r.outcome <> 'lost') then 'ok'
        when exists (select from public.messages m where m.id = state_of_unheld.question_id) then 'lost'
        else 'gone' end;
end
$$;
comment on function bridge.state_of_unheld is
    'For a job that its worker does not hold: ok (this attempt is already finished), lost, or gone (the question is deleted).';

create function bridge.price_lost(worker text, question_id uuid, attempt int, run jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    known bridge.runs;
    input int := coalesce((run ->> 'input_tokens')::int, 0);
    output int := coalesce((run ->> 'output_tokens')::int, 0);
begin
    -- what was charged when the job was taken over is an estimate; the rest is charged once
    select r.* into known from bridge.runs r
     where r.question_id = price_lost.question_id and r.attempt = price_lost.attempt
       and r.worker = price_lost.worker and r.outcome = 'lost'
       for update skip locked;
    if not found then
        return '{}';
    end if;
    update bridge.runs r
       set input_tokens = greatest(r.input_tokens, input), output_tokens = greatest(r.output_tokens, output)
     where r.question_id = known.question_id and r.attempt = known.attempt;
    return jsonb_build_object('input_tokens', greatest(
        0, input + output - coalesce(known.input_tokens, 0) - coalesce(known.output_tokens, 0)));
end
$$;
comment on function bridge.price_lost is
    'Notes what an attempt cost whose worker had lost its lease; returns what is still to be charged.';

create function bridge.begin_title(session_id uuid) returns boolean
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.titles as t (session_id)
    select s.id from public.sessions s where s.id = begin_title.session_id and s.title is null
        on conflict on constraint titles_pkey do update set tries = t.tries + 1 where not t.is_named and t.tries < 3;
    return found;
end
$$;
comment on function bridge.begin_title is
    'Whether a model may be asked for a session''s title: until it has given one, three times at most. The caller holds the session.';

create function public.bridge_title(session_id uuid, user_id uuid, title text, run jsonb) returns text
language plpgsql security definer set search_path = '' set statement_timeout = '6s' set lock_timeout = '50ms'
as $$
declare
    state text := 'ok';
    is_free boolean;
begin
    perform from public.sessions s where s.id = bridge_title.session_id for no key update skip locked;
    is_free := found;
    if bridge_title.title is not null and is_free then
        update public.sessions s set title = bridge_title.title
         where s.id = bridge_title.session_id and s.title is null;
    elsif bridge_title.title is not null
        and exists (select from public.sessions s where s.id = bridge_title.session_id)
    then
        state := 'busy';
    end if;
    -- repeated, after an answer that was lost or was `busy`, it charges nothing
    perform from bridge.titles t where t.session_id = bridge_title.session_id and t.charged < t.tries;
    if found or not exists (select from public.sessions s where s.id = bridge_title.session_id) then
        perform bridge.charge_tokens(jsonb_build_array(
            coalesce(bridge_title.run, '{}') || jsonb_build_object('user_id', bridge_title.user_id)));
    end if;
    update bridge.titles t
       set charged = t.tries, is_named = t.is_named or (bridge_title.title is not null and is_free)
     where t.session_id = bridge_title.session_id;
    return state;
end
$$;
comment on function public.bridge_title is
    'Sets the title that a model gave a session which has none (null: it gave none), and charges what it cost. Returns ok, or busy: the session is locked, try again.';

create function bridge.next_of_users(worker text, users uuid[]) returns uuid[]
language plpgsql stable set search_path = ''
as $$
declare
    horizon timestamptz := (select w.horizon from bridge.workers w where w.name = next_of_users.worker);
begin
    if (select count(*) from bridge.live_workers) < 2 then
        return '{}';  -- a worker alone knows that one of its replies has ended
    end if;
    return array(
        select n.question_id
          from (select distinct x.id from unnest(next_of_users.users) x (id)) u
         cross join lateral (select bridge.limit_of('running_replies', u.id) as most) l
         cross join lateral (
            select j.question_id from bridge.jobs j
             where j.user_id = u.id and j.worker is null and j.run_at <= now() limit 1) n
         where l.most <= 1 + bridge.running_replies(u.id, horizon));
end
$$;
comment on function bridge.next_of_users is
    'Of users who had as many replies running as they may, and of whom one has ended: a question that can run now.';

create function public.bridge_finish(worker text, results jsonb, knows_busy boolean default false) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    result record;
    job bridge.jobs;
    state text;
    ids bigint[] := bridge.jobs_of(bridge_finish.results);
    sessions uuid[];
    free bigint[];
    states jsonb := '{}';
    charges jsonb[] := '{}';
    untitled uuid[] := '{}';
    ended uuid[] := '{}';
    finished record;
    deleted bigint[] := '{}';
    released uuid[] := '{}';
    woken uuid[] := '{}';
    is_repeated boolean := false;  -- the answer was lost, and with it what was dispatched
    jobs jsonb[] := '{}';
begin
    -- so that the session's next question comes in the answer
    perform set_config('bridge.finisher', bridge_finish.worker, true);
    if not bridge_finish.knows_busy then  -- an older worker waits, as it always did
        perform from public.sessions s
          where s.id in (select j.session_id from bridge.jobs j where j.id = any (ids))
          order by s.id for no key update;
        perform from bridge.jobs j where j.id = any (ids) order by j.id for update;
    end if;
    -- Nobody waits for a session or a job that its user keeps locked, with a request that takes long: the replies of all
    -- others in the batch would be late.
    sessions := array(
        select s.id from public.sessions s
         where s.id in (select j.session_id from bridge.jobs j where j.id = any (ids))
         order by s.id for no key update skip locked);
    free := array(
        select j.id from bridge.jobs j
         where j.id = any (ids) and j.session_id = any (sessions)
         order by j.id for update skip locked);
    for result in
        select i.*, e.value as item
          from jsonb_array_elements(bridge_finish.results) e
         cross join jsonb_to_record(e.value) i (
                   question_id uuid, attempt int, user_id text, outcome text, run jsonb, name boolean,
                   unconfirmed boolean)
    loop
        select j.* into job from bridge.jobs j
         where j.question_id = result.question_id and j.worker is not distinct from bridge_finish.worker
           and j.attempt = result.attempt and j.id <> all (deleted);
        if job.id is null then
            state := bridge.state_of_unheld(bridge_finish.worker, result.question_id, result.attempt);
            is_repeated := is_repeated or state = 'ok';
            if result.unconfirmed and state in ('lost', 'gone') then
                -- Realtime may bring a dispatch, and a model answer it, before this sees the commit
                state := 'busy';
            elsif state = 'lost' then
                result.run := bridge.price_lost(
                    bridge_finish.worker, result.question_id, result.attempt, coalesce(result.run, '{}'));
            end if;
        elsif job.id = any (free) then
            select f.* into finished from bridge.finish_held(job, result.item) f;
            state := finished.state;
            if finished.has_ended then
                deleted := deleted || job.id;
            end if;
        else
            state := 'busy';
        end if;
        if state = 'busy' and not bridge_finish.knows_busy then
            raise lock_not_available using message = format('A file of session %s is locked', job.session_id),
                hint = 'Send the results again, in smaller batches.';
        end if;
        -- deleting the session does not avoid the charge: the tokens were used
        if state in ('gone', 'lost') or (job.id is not null and state in ('ok', 'refused')) then
            charges := charges || (coalesce(result.run, '{}') || jsonb_build_object(
                'user_id', coalesce(job.user_id::text, result.user_id)));
        end if;
        if job.id is not null and state in ('ok', 'refused') then
            ended := ended || job.user_id;
        end if;
        if result.outcome = 'released' and state = 'ok' and job.id is not null then
            released := released || result.question_id;
        elsif result.outcome = 'waiting' and state = 'ok' and job.id is not null and exists (
            select from bridge.jobs j where j.id = job.id and j.worker is null and j.run_at <= now())
        then
            woken := woken || result.question_id;
        end if;
        if result.name and state = 'ok' and job.id is not null and bridge.begin_title(job.session_id) then
            untitled := untitled || result.question_id;
        end if;
        states := states || jsonb_build_object(result.question_id, state);
    end loop;
    perform bridge.charge_tokens(to_jsonb(charges));  -- the next questions see whether any are left
    -- Not in the subtransaction of each: a row that one transaction locks and its subtransaction deletes stays in all
    -- indexes until the next vacuum.
    delete from bridge.jobs j where j.id = any (deleted);
    perform set_config('bridge.finisher', '', true);
    for job in
        select j.* from bridge.jobs j
         where j.worker is not null and (j.worker, j.run_at) = (bridge_finish.worker, now()) and not j.is_confirmed
    loop
        jobs := array_remove(jobs || bridge.tell(job), null);
    end loop;
    if is_repeated then
        -- Only hints: others may write these jobs right now, and the worker may have been told of them.
        ids := bridge.held_by(bridge_finish.worker, '-infinity');
        jobs := jobs || array(
            select jsonb_build_object('question_id', j.question_id, 'attempt', j.attempt,
                                      'at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint)
              from bridge.jobs j
             where j.id = any (ids) and j.worker is not distinct from bridge_finish.worker
               and not j.is_confirmed and j.run_at <> now());
    end if;
    perform bridge.dispatch(released, released_by => bridge_finish.worker);
    perform bridge.dispatch(woken);
    perform bridge.announce_work(bridge.next_of_users(bridge_finish.worker, ended));
    update bridge.workers w set seen_at = now(), hears_until = now() + w.hears
     where w.name = any (array(
        select x.name from bridge.workers x
         where x.name = bridge_finish.worker and x.capacity > 0
           and x.hears_until > now() and x.hears_until < now() + x.hears / 2
           for update skip locked));
    return bridge.queue_hints(bridge_finish.worker)
        || jsonb_build_object('results', states, 'untitled', to_jsonb(untitled), 'jobs', to_jsonb(jobs));
end
$$;
comment on function public.bridge_finish is
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, parts?, seq?, files?, waits?, error?, retry_in_ms?, hand_over_in_ms?, name?, unconfirmed?, run?}]. Returns {results: {question_id: ok|lost|gone|refused|busy}, untitled: [question_id], jobs: [{question_id, …}], next_in_ms, workers, ready, watches, at_ms}. busy: a user keeps it locked, send it again; a call without `knows_busy` waits instead, but not for files. waits: of the outcome waiting, see bridge.wait. hand_over_in_ms: as retry_in_ms, if another worker can answer. untitled: of those with `name`, the ones whose session needs a title. unconfirmed: it was dispatched a moment ago, so busy if it is not seen yet. jobs: the next questions of these sessions, dispatched to the caller; only {question_id, attempt} of a large one and, if a finish is repeated, of whatever the caller has not confirmed.';
