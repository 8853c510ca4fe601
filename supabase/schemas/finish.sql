-- Finish: a worker reports how attempts ended.

create function bridge.record_run(job bridge.jobs, outcome text, run jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, model, input_tokens, output_tokens,
                             cached_tokens, queue_ms, first_delta_ms, duration_ms, error)
    select job.question_id, job.attempt, job.worker, record_run.outcome, r.function, r.model, r.input_tokens,
           r.output_tokens, r.cached_tokens, r.queue_ms, r.first_delta_ms, r.duration_ms, r.error
      from jsonb_to_record(record_run.run) r (
               function text, model text, input_tokens int, output_tokens int, cached_tokens int, queue_ms int,
               first_delta_ms int, duration_ms int, error jsonb)
        on conflict on constraint runs_pkey do nothing;
end
$$;
comment on function bridge.record_run is 'Records an attempt; one that is already recorded stays as it is.';

create function bridge.finish(job bridge.jobs, result jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    outcome text := case when job.cancel then 'cancelled' else result ->> 'outcome' end;
    retry_at timestamptz := case
        when outcome = 'released' then now()
        when outcome = 'failed' and result ? 'retry_in_ms'
            then now() + make_interval(secs => least((result ->> 'retry_in_ms')::float8, 86400000) / 1000)
        end;
    refused text;
begin
    -- so that a deferred trigger fails here and not at the commit, where it would fail the other results too
    set constraints all immediate;
    perform bridge.record_run(job, outcome, coalesce(nullif(result -> 'run', 'null'), '{}'));
    if retry_at is not null then
        -- the text so far stays visible until the next attempt opens the reply again
        perform bridge.set_status(job.question_id, 'queued');
        update bridge.jobs j
           set worker = null, lease_until = null, run_at = retry_at,
               failures = j.failures + (outcome = 'failed')::int
         where j.id = job.id;
        if outcome = 'released' then
            perform bridge.announce_work(array[job.question_id]);
        end if;
        return;
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
    perform bridge.end_job(job, outcome, case when outcome = 'failed' then result -> 'error' end, result);
end
$$;
comment on function bridge.finish is
    'Writes how an attempt ended. The caller holds session and job. If the user cancelled first, every outcome becomes cancelled.';

create function bridge.finish_held(job bridge.jobs, result jsonb) returns text
language plpgsql set search_path = ''
as $$
begin
    perform bridge.finish(job, result);
    return 'ok';
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this result's fault: the worker repeats the batch
    end if;
    -- refused because of its content: end it as failed, without that content
    raise warning 'bridge_finish: % refused: % %', job.question_id, sqlstate, sqlerrm;
    perform bridge.finish(job, jsonb_build_object(
        'outcome', 'failed',
        'error', jsonb_build_object('code', 'unstorable', 'message', 'The reply could not be stored.'),
        'run', jsonb_build_object('error', jsonb_build_object(
            'code', 'unstorable', 'detail', sqlstate || ' ' || sqlerrm))));
    return 'refused';
end
$$;
comment on function bridge.finish_held is
    'Finishes a job that its worker holds: ok, or refused (it was ended as failed). A refused result does not affect the others.';

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

create function public.bridge_finish(worker text, results jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    result record;
    job bridge.jobs;
    state text;
    states jsonb := '{}';
    charges jsonb[] := '{}';
begin
    perform from public.sessions s
      where s.id in (
          select j.session_id from bridge.jobs j
            join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id)
      order by s.id for no key update;
    perform from bridge.jobs j
      join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id
      order by j.id for update of j;
    for result in
        select i.*, e.value as item
          from jsonb_array_elements(bridge_finish.results) e
         cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, user_id text, run jsonb)
    loop
        select j.* into job from bridge.jobs j
         where j.question_id = result.question_id
           and j.worker = bridge_finish.worker and j.attempt = result.attempt;
        if found then
            state := bridge.finish_held(job, result.item);
        else
            state := bridge.state_of_unheld(bridge_finish.worker, result.question_id, result.attempt);
        end if;
        -- deleting the session does not avoid the charge: the tokens were used
        if state = 'gone' or (job.id is not null and state = 'ok') then
            charges := charges || (coalesce(result.run, '{}') || jsonb_build_object(
                'user_id', coalesce(job.user_id::text, result.user_id)));
        end if;
        states := states || jsonb_build_object(result.question_id, state);
    end loop;
    perform bridge.charge_tokens(to_jsonb(charges));
    return bridge.queue_hints(bridge_finish.worker) || jsonb_build_object('results', states);
end
$$;
comment on function public.bridge_finish is
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, seq?, files?, error?, retry_in_ms?, run?}]. Returns {results: {question_id: ok|lost|gone|refused}, next_in_ms, workers, ready}.';
