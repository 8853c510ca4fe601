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
    -- a trigger that is deferred speaks here, not at the commit, where it would refuse the others' results as well
    set constraints all immediate;
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
