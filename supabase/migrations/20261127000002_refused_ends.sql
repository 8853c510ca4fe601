-- A project's own trigger on messages may refuse every way in which a reply could end. The whole finish was refused then,
-- with whatever else was in it, and was sent again for ever. Now the attempt has failed: its job goes, a dead letter is left.

create or replace function bridge.end_job(job bridge.jobs, status text, error jsonb default null, reply jsonb default null)
returns void
language plpgsql
set search_path = ''
as $$
declare
    row_id uuid;
begin
    begin
        update public.messages m
           set status = end_job.status,
               error = end_job.error,
               attempt = greatest(m.attempt, (end_job.job).attempt),
               content = coalesce(end_job.reply ->> 'content', m.content),
               data = case when end_job.reply ? 'data' then nullif(end_job.reply -> 'data', 'null') else m.data end,
               seq = coalesce((end_job.reply ->> 'seq')::int, m.seq),
               updated_at = clock_timestamp()
         where m.reply_to = (end_job.job).message_id;
        update public.messages m
           set status = end_job.status, error = end_job.error, updated_at = clock_timestamp()
         where m.id = (end_job.job).message_id;
    exception when others then
        -- whoever asked for it is told; and of a result there may be less to refuse
        if end_job.reply is null or end_job.status = 'done' or end_job.reply ?| array['content', 'data', 'seq']
           or bridge.passes(sqlstate) then
            raise;
        end if;
        for row_id in
            select m.id from public.messages m
             where m.reply_to = (end_job.job).message_id or m.id = (end_job.job).message_id order by m.ordinal desc
        loop
            begin
                update public.messages m
                   set status = end_job.status, error = end_job.error, attempt = case
                           when m.role = 'assistant' then greatest(m.attempt, (end_job.job).attempt) else m.attempt end,
                       updated_at = clock_timestamp()
                 where m.id = row_id;
            exception when others then
                if bridge.passes(sqlstate) then
                    raise;
                end if;
                -- it stays as it is, until somebody mends the trigger and retries it
                raise warning 'bridge: the end of message % is refused: % %', row_id, sqlstate, sqlerrm;
            end;
        end loop;
    end;
    if end_job.status = 'failed' then
        insert into bridge.dead_letters as d (message_id, session_id, attempt, failures, error)
        values ((job).message_id, (job).session_id, (job).attempt, (job).failures, end_job.error)
        on conflict on constraint dead_letters_message_id_key do update
           set attempt = excluded.attempt, failures = excluded.failures, error = excluded.error, created_at = now();
    end if;
    delete from bridge.jobs j where j.id = (end_job.job).id;
end
$$;
comment on function bridge.end_job is
    'The one way a job ends: reply and question take the status, the job goes. One that failed goes even if they refuse it. The caller holds session and job.';

create or replace function bridge.finish(job bridge.jobs, result jsonb) returns void
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
    -- a trigger that is deferred speaks here, not at the commit, where it would refuse the others' results as well
    set constraints all immediate;
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
