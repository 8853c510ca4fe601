-- A job from its start to its end.
--
-- Locks are taken in one order everywhere: sessions (for no key update: `for update` would deadlock with the key share
-- locks of foreign keys), then bridge.jobs by id, then messages.
-- Whatever adds, ends or reorders the jobs of a session holds the session's lock.

create function bridge.is_transient(state text) returns boolean
language plpgsql immutable set search_path = ''
as $$
begin
    -- Rollback (40), resources (53), locks (55), an operator (57), the system (58). One such error of one job fails
    -- the whole batch, which the worker then repeats: a lasting error in this list would let one job block all others.
    -- So 08 and 0A (from a trigger's foreign server or statement) and XX (from a damaged row) are not in it. The
    -- worker's own list adds them and 25: it judges whole calls, which also fail because of a failover, a read-only
    -- project or a schema change.
    return is_transient.state ~ '^(40|53|55|57|58)';
end
$$;
comment on function bridge.is_transient is 'Whether an error of this SQLSTATE goes away by itself.';

create function bridge.jobs_of(items jsonb) returns bigint[]
language plpgsql set search_path = '' set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    -- The limit makes it look for one question at a time, by the index of questions. Under an open snapshot all other
    -- indexes keep the entries of ended jobs, and a plan from the time of a short queue reads them all.
    return array(
        select j.id from jsonb_to_recordset(jobs_of.items) i (question_id uuid)
         cross join lateral (select h.id from bridge.jobs h where h.question_id = i.question_id limit 1) j);
end
$$;
comment on function bridge.jobs_of is 'The ids of the jobs of questions [{question_id, …}].';

create function bridge.held_by(worker text, horizon timestamptz) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return array(
        select j.id from bridge.jobs j
         where j.worker is not null
           and (j.worker, j.run_at) >= (held_by.worker, held_by.horizon)
           and (j.worker, j.run_at) <= (held_by.worker, 'infinity')
         order by j.worker, j.run_at);  -- in the order of jobs_of_worker, the only one that fits
end
$$;
comment on function bridge.held_by is 'The ids of the jobs that a worker holds, of those that began after `horizon`.';

create function bridge.lock_session(session_id uuid, owner uuid default null) returns public.sessions
language plpgsql set search_path = ''
as $$
declare
    session public.sessions;
begin
    -- Rows of one statement lock their sessions in the order of the rows, bridge_finish in the order of their ids:
    -- a lock against that order is never waited for, or the two could deadlock.
    if lock_session.session_id < nullif(current_setting('bridge.last_session', true), '')::uuid then
        select s.* into session from public.sessions s
         where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
           for no key update skip locked;
        if not found and exists (
            select from public.sessions s
             where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
        ) then
            raise exception 'Session % is busy', lock_session.session_id
                using errcode = 'PT409', hint = 'Try again, with the rows sorted by session_id.';
        end if;
    else
        select s.* into session from public.sessions s
         where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
           for no key update;
        perform set_config('bridge.last_session', lock_session.session_id::text, true);
    end if;
    return session;
end
$$;
comment on function bridge.lock_session is
    'Locks a session (only one of this owner, if given) for adding to it; returns null if there is no such session.';

create function bridge.set_status(
    question_id uuid, status text, error jsonb default null, attempt int default 0, reply jsonb default '{}'
) returns void
language plpgsql set search_path = ''
as $$
begin
    update public.messages m
       set status = set_status.status,
           error = set_status.error,
           attempt = greatest(m.attempt, set_status.attempt),
           content = coalesce(set_status.reply ->> 'content', m.content),
           data = case when set_status.reply ? 'data' then nullif(set_status.reply -> 'data', 'null') else m.data end,
           parts = case when coalesce(set_status.reply -> 'parts', m.parts) is null then null
                        when set_status.status in ('done', 'failed', 'cancelled')
                        then bridge.end_parts(coalesce(set_status.reply -> 'parts', m.parts))
                        else bridge.keep_answers(
                            set_status.question_id, coalesce(set_status.reply -> 'parts', m.parts)) end,
           seq = coalesce((set_status.reply ->> 'seq')::int, m.seq),
           updated_at = clock_timestamp()
     where m.reply_to = set_status.question_id;
    update public.messages m
       set status = set_status.status, error = set_status.error, updated_at = clock_timestamp()
     where m.id = set_status.question_id;
end
$$;
comment on function bridge.set_status is
    'Gives a question and its reply their status, and the reply its text {content?, data?, parts?, seq?}. The caller holds session and job.';

create function bridge.force_status(question_id uuid, status text, error jsonb, attempt int) returns void
language plpgsql set search_path = ''
as $$
declare
    row_id uuid;
begin
    foreach row_id in array array[
        (select r.id from public.messages r where r.reply_to = force_status.question_id), force_status.question_id]
    loop
        begin
            update public.messages m
               set status = force_status.status, error = force_status.error, updated_at = clock_timestamp(),
                   attempt = case m.role
                       when 'assistant' then greatest(m.attempt, force_status.attempt) else m.attempt end
             where m.id = row_id;
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            -- the row stays as it is until the trigger is fixed and the question retried
            raise warning 'bridge: message % cannot be ended: % %', row_id, sqlstate, sqlerrm;
        end;
    end loop;
end
$$;
comment on function bridge.force_status is
    'Gives a reply and its question their status, each by itself, where a trigger of the project refuses one of them.';

create function bridge.end_job(
    job bridge.jobs, status text, error jsonb default null, reply jsonb default null, deletes boolean default true
) returns void
language plpgsql set search_path = ''
as $$
begin
    begin
        perform bridge.set_status(
            job.question_id, end_job.status, end_job.error, job.attempt, coalesce(end_job.reply, '{}'));
    exception when others then
        -- a caller without a result reports the error; a result is first tried again with less in it
        if end_job.reply is null or end_job.status = 'done' or end_job.reply ?| array['content', 'data', 'parts', 'seq']
           or bridge.is_transient(sqlstate) then
            raise;
        end if;
        perform bridge.force_status(job.question_id, end_job.status, end_job.error, job.attempt);
    end;
    if end_job.status = 'failed' then
        insert into bridge.dead_letters as d (question_id, session_id, attempt, failures, since, error)
        -- without what the model or the user said: operators read it
        values (job.question_id, job.session_id, job.attempt, job.failures, job.since, case
                    when end_job.error ->> 'code' in ('model_filtered', 'bad_arguments')
                    then end_job.error || jsonb_build_object('message', '') else end_job.error end)
        on conflict on constraint dead_letters_question_id_key do update
           set attempt = excluded.attempt, failures = excluded.failures, since = excluded.since, error = excluded.error,
               created_at = now();
    end if;
    perform bridge.note_child(job);
    if end_job.deletes then
        delete from bridge.jobs j where j.id = job.id;
    end if;
end
$$;
comment on function bridge.end_job is
    'The only way a job ends: reply and question get the status, the job is deleted (without `deletes`, by the caller). A failed job is deleted even if a trigger refuses its rows. The caller holds session and job.';

create function bridge.promote() returns trigger
language plpgsql security definer set search_path = ''
-- A plan made while the queue was short reads the whole table, and its connection keeps it: with the dead rows that an
-- open snapshot leaves, that took 250 ms a call. So this walks an index, whatever the statistics say.
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    heads uuid[];
    scheduled uuid[];
begin
    -- an administrator's delete comes without the session's lock; a deleted session has none left to take
    perform from public.sessions s
      where s.id in (select e.session_id from ended e) order by s.id for no key update;
    with head as (
        select distinct on (j.session_id) j.id
          from bridge.jobs j
          join public.sessions s on s.id = j.session_id
         where j.session_id in (select e.session_id from ended e)
           and not exists (select from bridge.jobs h where h.session_id = j.session_id and h.run_at is not null)
         order by j.session_id, j.ordinal
    ), promoted as (
        update bridge.jobs j
           set run_at = greatest(now(), (select m.run_at from public.messages m where m.id = j.question_id))
          from head where j.id = head.id
        returning j.question_id, j.run_at
    )
    select array_agg(p.question_id) filter (where p.run_at <= now()),
           array_agg(p.question_id) filter (where p.run_at > now())
      into heads, scheduled from promoted p;
    perform bridge.dispatch(heads);
    perform bridge.announce_due(j, j.run_at, '') from bridge.jobs j where j.question_id = any (scheduled);
    return null;
end
$$;
comment on function bridge.promote is 'After any delete of a job, the next job of its session becomes the head.';

create trigger promote after delete on bridge.jobs
    referencing old table as ended
    for each statement execute function bridge.promote();

create function bridge.set_function() returns trigger
language plpgsql set search_path = ''
as $$
begin
    -- whoever makes a job the head holds the session's lock, so this is the newest function
    select s.function into new.function from public.sessions s where s.id = new.session_id;
    return new;
end
$$;
comment on function bridge.set_function is 'Gives a job that becomes the head of its session the session''s function.';

create trigger set_function before insert or update of run_at on bridge.jobs
    for each row when (new.run_at is not null and new.function is null)
    execute function bridge.set_function();

create function bridge.follow_function() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    ready uuid[];
begin
    -- A claim holds the job's lock until it has read the session: this waits for it, so both always agree. A job that
    -- waits is due anew: other workers may search from a later time, and half a minute must pass before it can fail.
    with head as (
        update bridge.jobs j
           set function = new.function,
               run_at = case when j.worker is null then greatest(j.run_at, now()) else j.run_at end
         where j.session_id = new.id and j.run_at is not null
        returning j.question_id, j.worker, j.run_at
    )
    select array_agg(h.question_id) into ready from head h where h.worker is null and h.run_at <= now();
    perform bridge.dispatch(ready);
    return null;
end
$$;
comment on function bridge.follow_function is
    'A session''s function was changed: so is that of its head, which other workers may now claim.';

create trigger follow_function after update on public.sessions
    for each row when (old.function is distinct from new.function)
    execute function bridge.follow_function();

create function bridge.request_cancel(job bridge.jobs) returns text
language plpgsql set search_path = ''
as $$
begin
    if job.worker is not null and job.lease_until >= now() then
        if not job.cancel then
            update bridge.jobs j set cancel = true where j.id = job.id;
            perform bridge.announce(
                case when exists (
                         select from bridge.workers w where w.name = job.worker and w.capacity is not null)
                     then 'worker:' || job.worker else 'bridge:inbox' end,
                'cancel', jsonb_build_object('question_id', job.question_id));
        end if;
        return 'cancelling';
    end if;
    if job.worker is not null then
        -- its lease has ended: what the attempt cost is charged when its worker reports it
        insert into bridge.runs (question_id, attempt, worker, outcome, function)
        values (job.question_id, job.attempt, job.worker, 'lost', job.function) on conflict do nothing;
    end if;
    perform bridge.end_job(job, 'cancelled');
    if job.steps > 0 then
        perform bridge.cancel_children(job.question_id);
    end if;
    return 'cancelled';
end
$$;
comment on function bridge.request_cancel is
    'Asks the worker that holds a job to end it; ends a job that no worker holds. The caller holds session and job.';

create function bridge.enqueue(
    question public.messages, attempt int, charged boolean default true,
    worker text default null, slot int default null, lease interval default null
) returns boolean
language plpgsql set search_path = ''
as $$
declare
    waits boolean := exists (
        select from bridge.jobs j where j.session_id = question.session_id and j.run_at is not null);
    session public.sessions;
    job bridge.jobs;
begin
    select s.* into strict session from public.sessions s where s.id = question.session_id;
    if enqueue.charged then
        perform bridge.charge(session.user_id);
    end if;
    if waits then
        enqueue.worker := null;
        enqueue.slot := null;
        enqueue.lease := null;
    end if;
    insert into bridge.jobs (
        question_id, session_id, user_id, ordinal, run_at, function, attempt, worker, slot, lease_until, is_confirmed)
    values (question.id, session.id, session.user_id, question.ordinal,
            case when not waits then greatest(question.run_at, now()) end, case when not waits then session.function end,
            enqueue.attempt + (enqueue.worker is not null)::int, enqueue.worker, enqueue.slot,
            clock_timestamp() + enqueue.lease, enqueue.worker is null);
    if not waits and question.run_at > now() then
        select j.* into job from bridge.jobs j where j.question_id = question.id;
        perform bridge.announce_due(job, question.run_at, '');
        return false;
    end if;
    return not waits;
end
$$;
comment on function bridge.enqueue is
    'Adds a job for a question, held by `worker` if it is the head of its session, and charges its user; true if it may run at once. The caller holds the session.';

create function bridge.requeue(question public.messages, charged boolean) returns boolean
language plpgsql set search_path = ''
as $$
declare
    attempt int := coalesce(
        (select r.attempt from public.messages r where r.reply_to = question.id),
        -- an attempt whose reply could not be opened has left only a run
        (select max(r.attempt) from bridge.runs r where r.question_id = question.id),
        0);
    first int;
    is_ready boolean;
begin
    -- One that failed goes on with what its steps have done. One that ended is answered anew.
    delete from bridge.dead_letters d where d.question_id = question.id returning d.since into first;
    if not found or question.status <> 'failed' then
        first := attempt;
        delete from bridge.steps s where s.question_id = question.id;
    end if;
    question.run_at := null;
    perform bridge.set_status(question.id, 'queued');
    is_ready := bridge.enqueue(question, attempt, requeue.charged);
    update bridge.jobs j
       set since = first, steps = (select count(*) from bridge.steps s where s.question_id = question.id)
     where j.question_id = question.id;
    return is_ready;
end
$$;
comment on function bridge.requeue is
    'Starts a new attempt at an ended question, which goes on with its steps if it failed; true if it may run at once. The caller holds the session.';

create function bridge.end_jobs_of_session() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if old.parent is not null then  -- what a handler asked for ends, too
        insert into bridge.ended_children (question_id, parent)
        select j.question_id, old.parent from bridge.jobs j where j.session_id = old.id
            on conflict do nothing;
    end if;
    -- in the order of the locks: session, jobs, messages; the cascade would take the messages first
    delete from bridge.jobs j where j.session_id = old.id;
    return old;
end
$$;
comment on function bridge.end_jobs_of_session is 'Deletes the jobs of a session before the cascade deletes its messages.';

create trigger end_jobs before delete on public.sessions
    for each row execute function bridge.end_jobs_of_session();
