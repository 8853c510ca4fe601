-- Beat: a worker extends its leases and writes checkpoints.

create function bridge.write_checkpoints(items jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
    update public.messages m
       set content = coalesce(i.content, m.content),
           data = case when e.value ? 'data' then i.data else m.data end,
           parts = case when e.value ? 'parts' then bridge.keep_answers(i.question_id, i.parts) else m.parts end,
           seq = i.seq,
           updated_at = clock_timestamp()
      from jsonb_array_elements(write_checkpoints.items) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, seq int, content text, data jsonb, parts jsonb)
     where m.reply_to = i.question_id and m.attempt = i.attempt and m.status = 'running' and m.seq < i.seq;
end
$$;
comment on function bridge.write_checkpoints is
    'Writes partial replies [{question_id, attempt, seq, content?, data?, parts?}]. The caller holds their jobs, so none is stale.';

create function public.bridge_beat(worker text, jobs jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    alive record := bridge.heartbeat(bridge_beat.worker);
    lease interval := alive.lease;
    ids bigint[] := bridge.jobs_of(bridge_beat.jobs);
    -- Nobody waits for a job that its user keeps locked, as by deleting its session in a request that takes long: the
    -- beats of all others would be late. Its lease and its text wait for the next beat.
    free bigint[] := array(
        select j.id from bridge.jobs j where j.id = any (ids) order by j.id for update skip locked);
    states jsonb;
    checkpoints jsonb;
    item jsonb;
    hints jsonb;
begin
    -- A beat comes every second, a lease lasts thirty: extending it once a quarter has passed costs a tenth of the
    -- writes, and at least half of it is always left.
    update bridge.jobs j set lease_until = now() + lease, is_confirmed = true
      from jsonb_to_recordset(bridge_beat.jobs) i (question_id uuid, attempt int)
     where j.question_id = i.question_id and j.worker is not distinct from bridge_beat.worker
       and j.attempt = i.attempt and j.id = any (free) and (j.lease_until < now() + lease * 0.75 or not j.is_confirmed);
    select coalesce(jsonb_object_agg(i.question_id, case
               when j.id is null then 'lost' when j.cancel then 'cancel' when j.id = any (free) then 'ok' else 'busy'
               end), '{}'),
           coalesce(jsonb_agg(e.value) filter (where j.id = any (free) and e.value ? 'seq'), '[]')
      into states, checkpoints
      from jsonb_array_elements(bridge_beat.jobs) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int)
      left join bridge.jobs j
        on j.question_id = i.question_id and j.worker is not distinct from bridge_beat.worker
       and j.attempt = i.attempt;
    set constraints all immediate;  -- so that a deferred trigger fails here and not at the commit of the whole beat
    begin
        perform bridge.write_checkpoints(checkpoints);
    exception when others then
        -- one that Postgres refuses must affect neither the others nor any lease
        for item in select jsonb_array_elements(checkpoints) loop
            begin
                perform bridge.write_checkpoints(jsonb_build_array(item));
            exception when others then
                raise warning 'bridge_beat: checkpoint of % refused: %', item ->> 'question_id', sqlerrm;
            end;
        end loop;
    end;
    hints := bridge.queue_hints(bridge_beat.worker);
    if exists (select from bridge.workers w where w.name = bridge_beat.worker and w.seen_at = now()) then
        hints := hints || bridge.lease_hint(bridge_beat.worker, (hints ->> 'ready')::boolean);  -- not with every beat
    end if;
    return hints || jsonb_build_object('results', states, 'missed', alive.missed);
end
$$;
comment on function public.bridge_beat is
    'Extends the leases of jobs [{question_id, attempt, seq?, content?, data?, parts?}] and writes those with a seq as checkpoints. Returns {results: {question_id: ok|lost|cancel|busy}, next_in_ms, lease_in_ms?, workers, ready, watches, missed, at_ms}; busy: a user keeps it locked, try again.';
