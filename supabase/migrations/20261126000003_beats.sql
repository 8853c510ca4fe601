-- A beat comes every second, and a lease lasts thirty: extended when a quarter of it has passed, it costs a tenth of the
-- writes, and at least half of it is left at any time.

create or replace function public.bridge_beat(worker text, jobs jsonb) returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    lease interval := bridge.seen(bridge_beat.worker);
    states jsonb;
    held jsonb;
    item jsonb;
begin
    perform from bridge.jobs j
      join jsonb_array_elements(bridge_beat.jobs) i on j.message_id = (i ->> 'message_id')::uuid
      order by j.id for update of j;
    update bridge.jobs j set lease_until = now() + lease
      from jsonb_array_elements(bridge_beat.jobs) i
     where j.message_id = (i ->> 'message_id')::uuid
       and j.worker = bridge_beat.worker and j.attempt = (i ->> 'attempt')::int
       and j.lease_until < now() + lease * 0.75;
    select coalesce(jsonb_object_agg(j.message_id, case when j.cancel then 'cancel' else 'ok' end), '{}'),
           coalesce(jsonb_agg(i) filter (where i ? 'seq'), '[]')
      into states, held
      from bridge.jobs j
      join jsonb_array_elements(bridge_beat.jobs) i on j.message_id = (i ->> 'message_id')::uuid
     where j.worker = bridge_beat.worker and j.attempt = (i ->> 'attempt')::int;
    set constraints all immediate;  -- a trigger that is deferred speaks here, not at the commit of the whole beat
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
    'Extends the leases of jobs [{message_id, attempt, seq?, content?, data?}] once a quarter of them has passed, and writes their checkpoints. Returns {results: {message_id: ok|lost|cancel}, next_in_ms, workers, ready}.';
