-- What becomes ready is handed to one worker, which is told everything about it: no claim, and no other worker is
-- bothered. Workers of an older version claim as before.

-- In the order in which everybody locks them: workers begin with their own row. A block, because the CLI begins no
-- explicit transaction.
do $$
begin
    lock table bridge.workers in access exclusive mode;
    lock table public.sessions in share row exclusive mode;
    lock table bridge.jobs in access exclusive mode;
end
$$;

-- tables -----------------------------------------------------------------------------------------

alter table bridge.jobs
    add column slot int,
    add column is_confirmed boolean not null default true;
comment on column bridge.jobs.slot is
    'Which of its worker''s slots it takes, from 1 to the worker''s capacity; null: its worker has an older version.';
comment on column bridge.jobs.is_confirmed is
    'Whether its worker has shown that it knows of it. A dispatched job is confirmed by the first beat or claim.';
create index jobs_of_worker on bridge.jobs (worker, run_at, id) where worker is not null;
create index jobs_running_of_user on bridge.jobs (user_id, run_at) where worker is not null;

alter table bridge.workers
    add column unproven text[] not null default '{}',
    add column capacity int,
    add column history int not null default 0,
    add column hears interval not null default '15 seconds',
    add column hears_until timestamptz not null default '-infinity';
comment on column bridge.workers.unproven is
    'Those of its functions whose model has not answered since the worker started: it gets three questions until one has.';
comment on column bridge.workers.capacity is
    'How many jobs can be dispatched to it; 0: none, as it does not hear its topic, or drains; null: a worker of an older version, which has no topic.';
comment on column bridge.workers.history is 'How many messages of history its payloads contain at most.';
comment on column bridge.workers.hears is 'How long it counts as hearing its topic after a call.';
comment on column bridge.workers.hears_until is
    'Until when jobs are dispatched to it. Its calls extend it; a job that it has not confirmed in time ends it.';

create or replace view bridge.live_workers with (security_invoker = true) as
select w.name, w.started_at, w.seen_at, w.hears_until from bridge.workers w
 where w.seen_at > now() - least(greatest(w.lease, interval '30 seconds'), interval '5 minutes');


-- functions --------------------------------------------------------------------------------------

drop function bridge.end_job(bridge.jobs, text, jsonb, jsonb);
drop function bridge.finish(bridge.jobs, jsonb);
drop function bridge.finish_held(bridge.jobs, jsonb);
drop function bridge.heartbeat(text, int, text[], text[]);
drop function bridge.open_attempt(bridge.jobs, int, boolean, boolean);
drop function public.bridge_claim(text, int, uuid[], int, int, text[], int, text[], text[], text[]);
drop function bridge.enqueue(public.messages, int, boolean);
drop function bridge.history_of(public.messages, int);
drop function bridge.files_of(uuid);
drop function bridge.payload(bridge.jobs, int, boolean);

create or replace function bridge.event_payload(record jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
    omitted text[];
begin
    if octet_length(event_payload.record::text) <= 32768 then  -- the usual case
        return event_payload.record;
    end if;
    select array_agg(f.key order by f.key) into omitted
      from jsonb_each(event_payload.record) f
     where octet_length(f.value::text) > 32768;
    if omitted is null then
        return event_payload.record;
    end if;
    return event_payload.record - omitted || jsonb_build_object('omitted', to_jsonb(omitted));
end
$$;
comment on function bridge.event_payload is
    'The payload of an event about a row: fields above 32 KiB are left out and listed in `omitted`.';

create or replace function bridge.forget_broadcasts(session_ids uuid[], most_bytes bigint default null) returns int
language plpgsql security definer set search_path = '' set lock_timeout = '100ms'
as $$
declare
    ids text[] := array(select x.id::text from unnest(forget_broadcasts.session_ids) x (id));
    topics text[] := array(select 'session:' || x.id from unnest(ids) x (id));
    bytes bigint;
    forgotten int;
    more int;
begin
    if ids = '{}' or not has_table_privilege('realtime.messages', 'delete') then
        return 0;
    end if;
    select coalesce(sum(pg_table_size(i.inhrelid)), 0) into bytes
      from pg_catalog.pg_inherits i where i.inhparent = 'realtime.messages'::regclass;
    if bytes > forget_broadcasts.most_bytes then
        return 0;
    end if;
    delete from realtime.messages m where m.topic = any (topics);
    get diagnostics forgotten = row_count;
    delete from realtime.messages m where m.event = 'session' and m.topic ^@ 'user:' and m.payload ->> 'id' = any (ids);
    get diagnostics more = row_count;
    forgotten := forgotten + more;
    delete from realtime.messages m
     where m.event = 'job' and m.topic ^@ 'worker:' and m.payload #>> '{session,id}' = any (ids);
    get diagnostics more = row_count;
    return forgotten + more;
exception when others then
    raise warning 'bridge.forget_broadcasts: %', sqlerrm;
    return 0;
end
$$;
comment on function bridge.forget_broadcasts is
    'Deletes what Realtime has stored of broadcasts about sessions (for three days), and returns how many. There is no index to find them by: if the table is larger than `most_bytes`, it does nothing.';

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
        if end_job.reply is null or end_job.status = 'done' or end_job.reply ?| array['content', 'data', 'seq']
           or bridge.is_transient(sqlstate) then
            raise;
        end if;
        perform bridge.force_status(job.question_id, end_job.status, end_job.error, job.attempt);
    end;
    if end_job.status = 'failed' then
        insert into bridge.dead_letters as d (question_id, session_id, attempt, failures, error)
        -- without what the model or the user said: operators read it
        values (job.question_id, job.session_id, job.attempt, job.failures, case
                    when end_job.error ->> 'code' in ('model_filtered', 'bad_arguments')
                    then end_job.error || jsonb_build_object('message', '') else end_job.error end)
        on conflict on constraint dead_letters_question_id_key do update
           set attempt = excluded.attempt, failures = excluded.failures, error = excluded.error, created_at = now();
    end if;
    if end_job.deletes then
        delete from bridge.jobs j where j.id = job.id;
    end if;
end
$$;
comment on function bridge.end_job is
    'The only way a job ends: reply and question get the status, the job is deleted (without `deletes`, by the caller). A failed job is deleted even if a trigger refuses its rows. The caller holds session and job.';

create or replace function bridge.promote() returns trigger
language plpgsql security definer set search_path = ''
-- A plan made while the queue was short reads the whole table, and its connection keeps it: with the dead rows that an
-- open snapshot leaves, that took 250 ms a call. So this walks an index, whatever the statistics say.
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    heads uuid[];
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
        update bridge.jobs j set run_at = now() from head where j.id = head.id returning j.question_id
    )
    select array_agg(p.question_id) into heads from promoted p;
    perform bridge.dispatch(heads);
    return null;
end
$$;
comment on function bridge.promote is 'After any delete of a job, the next job of its session becomes the head.';

create or replace function bridge.follow_function() returns trigger
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

create or replace function bridge.request_cancel(job bridge.jobs) returns text
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
            case when not waits then now() end, case when not waits then session.function end,
            enqueue.attempt + (enqueue.worker is not null)::int, enqueue.worker, enqueue.slot,
            clock_timestamp() + enqueue.lease, enqueue.worker is null);
    return not waits;
end
$$;
comment on function bridge.enqueue is
    'Adds a job for a question, held by `worker` if it is the head of its session, and charges its user; true if it may run at once. The caller holds the session.';

create or replace function bridge.refuse_if_busy(session public.sessions) returns void
language plpgsql set search_path = ''
as $$
begin
    if exists (select from bridge.jobs j where j.session_id = session.id) then
        raise exception 'A reply is still running in this session'
            using errcode = 'PT409', hint = 'Wait for it to finish, or cancel it with cancel_message.';
    end if;
end
$$;
comment on function bridge.refuse_if_busy is
    'Refuses a question while another of its session is unfinished. The caller holds the session.';

create or replace function bridge.accept_question() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    session public.sessions;
    chosen record;
begin
    session := bridge.lock_session(new.session_id, auth.uid());
    if session.id is null then
        raise exception 'Session % does not exist or is not yours', new.session_id using errcode = '42501';
    end if;
    -- before any limit: a client that repeats an insert, because the answer was lost, must learn that it succeeded
    if exists (select from public.messages m where m.id = new.id) then
        raise exception 'duplicate key value violates unique constraint "messages_pkey"'
            using errcode = '23505', detail = format('Key (id)=(%s) already exists.', new.id);
    end if;
    perform bridge.check_question(new, session.user_id);
    if session.on_new_message = 'reject' then
        perform bridge.refuse_if_busy(session);
    end if;
    new.ordinal := session.last_ordinal + 2;
    update public.sessions s set last_ordinal = new.ordinal, updated_at = clock_timestamp() where s.id = session.id;
    new.status := 'queued';
    new.reply_to := null;
    new.attempt := 0;
    new.seq := 0;
    new.error := null;
    new.created_at := now();
    -- Its worker is chosen before the row is written, so that it need not be written again. Only the first of a
    -- statement: the choice for the others has to see what became of this one.
    if coalesce(current_setting('bridge.chosen', true), '') = ''
       and not exists (select from bridge.jobs j where j.session_id = session.id and j.run_at is not null)
    then
        -- of the slots that are for users who ask little none: what else the statement asks is not seen yet
        chosen := bridge.choose_worker(session.id, session.user_id, session.function, null, null, '{}', false);
        if chosen.worker is not null then
            new.status := 'running';
        end if;
        perform set_config(
            'bridge.chosen', (to_jsonb(chosen) || jsonb_build_object('question_id', new.id))::text, true);
    end if;
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.accept_question is
    'Checks a question, gives it its place in the session, and chooses the worker that it will be dispatched to.';

create or replace function bridge.enqueue_questions() returns trigger
language plpgsql security definer set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    question public.messages;
    session public.sessions;
    job bridge.jobs;
    chosen record;
    ready uuid[] := '{}';
begin
    if not exists (select from added n where n.role = 'user') then
        return null;
    end if;
    select c.* into chosen
      from jsonb_to_record(nullif(current_setting('bridge.chosen', true), '')::jsonb)
           c (question_id uuid, worker text, slot int, lease interval);
    perform set_config('bridge.chosen', '', true);
    for question in select n.* from added n where n.role = 'user' order by n.session_id, n.ordinal loop
        select s.* into session from public.sessions s where s.id = question.session_id;
        if session.on_new_message = 'reject' then
            perform bridge.refuse_if_busy(session);  -- with an earlier row of the same statement
        elsif session.on_new_message = 'interrupt' then
            select j.* into job from bridge.jobs j
             where j.session_id = session.id and j.run_at is not null and j.attempt > 0
               for update;
            if found then
                perform bridge.request_cancel(job);
            end if;
        end if;
        if question.id = chosen.question_id and chosen.worker is not null then
            perform bridge.enqueue(
                question, 0, worker => chosen.worker, slot => chosen.slot, lease => chosen.lease);
            continue;
        end if;
        if question.status = 'running' then  -- its worker went to what a trigger has asked in between
            update public.messages m set status = 'queued' where m.id = question.id;
        end if;
        if bridge.enqueue(question, 0) then
            ready := ready || question.id;
        end if;
    end loop;
    perform bridge.dispatch(ready, is_new => true);
    return null;
end
$$;
comment on function bridge.enqueue_questions is 'Makes a job of every new question and dispatches it.';

create or replace function bridge.retry_message(message_id uuid) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(retry_message.message_id);
begin
    if exists (select from bridge.jobs j where j.question_id = question.id) then
        return question.status;
    end if;
    if bridge.requeue(question, true) then
        perform bridge.dispatch(array[question.id]);
    end if;
    return 'queued';
end
$$;
comment on function bridge.retry_message is 'See public.retry_message.';

create function bridge.heartbeat(
    worker text, lease_seconds int default null, functions text[] default null, failing text[] default '{}',
    unproven text[] default '{}', capacity int default null, history int default 0, hears interval default '15 seconds',
    out lease interval, out missed boolean
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    before bridge.workers;
    me bridge.workers;
begin
    select w.* into before from bridge.workers w where w.name = heartbeat.worker;
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    if before.seen_at > now() - interval '5 seconds'
       and (before.hears_until > now() or coalesce(before.capacity, 0) = 0)
       and (heartbeat.lease_seconds is null
            or (before.lease = make_interval(secs => heartbeat.lease_seconds)
                and before.functions is not distinct from heartbeat.functions
                and before.failing = heartbeat.failing and before.unproven = heartbeat.unproven
                and before.capacity is not distinct from heartbeat.capacity
                and before.history = heartbeat.history and before.hears = heartbeat.hears))
    then
        lease := before.lease;
        missed := false;
        return;
    end if;
    -- not if it has only been silent for long
    missed := coalesce(before.capacity > 0 and before.hears_until <= now()
                       and before.hears_until < before.seen_at + before.hears
                       and (heartbeat.lease_seconds is null or heartbeat.capacity > 0), false);
    -- A row says which functions the worker of a job has, so it stays as long as its jobs. Nobody waits for a row.
    delete from bridge.workers w where w.name = any (array(
        select o.name from bridge.workers o
         where o.seen_at < now() - interval '10 minutes'
           and not exists (
            select from bridge.jobs j
             where (j.worker, j.run_at) >= (o.name, '-infinity') and (j.worker, j.run_at) <= (o.name, 'infinity'))
           for update skip locked));
    insert into bridge.workers as w (
        name, lease, functions, failing, unproven, capacity, history, hears, hears_until)
    values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)), heartbeat.functions,
            heartbeat.failing, heartbeat.unproven, heartbeat.capacity, heartbeat.history, heartbeat.hears,
            case when heartbeat.capacity > 0 then now() + heartbeat.hears else '-infinity' end)
    on conflict (name) do update
       set seen_at = now(),
           lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end,
           functions = case when heartbeat.lease_seconds is null then w.functions else excluded.functions end,
           failing = case when heartbeat.lease_seconds is null then w.failing else excluded.failing end,
           unproven = case when heartbeat.lease_seconds is null then w.unproven else excluded.unproven end,
           -- one that has missed something subscribes again: until it says that it has, it does not hear
           capacity = case when missed then 0
                           when heartbeat.lease_seconds is null then w.capacity else excluded.capacity end,
           history = case when heartbeat.lease_seconds is null then w.history else excluded.history end,
           hears = case when heartbeat.lease_seconds is null then w.hears else excluded.hears end,
           hears_until = case
               when missed then '-infinity'
               when heartbeat.lease_seconds is not null then excluded.hears_until
               when w.capacity > 0 then now() + w.hears else '-infinity' end
    returning w.* into me;
    -- as long as bridge.live_workers counts it
    perform bridge.note_functions(
        me.functions, now() + least(greatest(me.lease, interval '30 seconds'), interval '5 minutes'));
    lease := me.lease;
end
$$;
comment on function bridge.heartbeat is
    'Records that a worker is alive and, from a claim (with lease_seconds), what it answers and hears. Returns the length of its leases; missed: it counts as not hearing any more, as it did not confirm a job in time.';

create or replace function bridge.unknown_jobs(known text[], due timestamptz, most int) returns setof bridge.jobs
language plpgsql stable set search_path = ''
set enable_sort = off set enable_incremental_sort = off  -- so that only jobs_ready_by_function fits
as $$
begin
    return query
        select j.* from generate_subscripts(unknown_jobs.known, 1) n (at)
         cross join lateral (
            select g.* from bridge.jobs g
             where g.worker is null and g.run_at <= unknown_jobs.due
               and g.function > coalesce(unknown_jobs.known[n.at - 1], '')  -- a function has at least one byte
               and g.function < unknown_jobs.known[n.at]
             order by g.function, g.run_at, g.id limit unknown_jobs.most) j
         union all
        (select j.* from bridge.jobs j
          where j.worker is null and j.run_at <= unknown_jobs.due
            and j.function > coalesce(unknown_jobs.known[cardinality(unknown_jobs.known)], '')
          order by j.function, j.run_at, j.id limit unknown_jobs.most);
end
$$;
comment on function bridge.unknown_jobs is
    'Jobs without a worker, due at a time, whose function is not `known` (sorted): up to `most` from each gap between two known names in the index, so that no other job is read.';

create function bridge.due_for(worker text, fleet bigint, job_id bigint, due_at timestamptz) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
declare
    rank float8 := (hashtextextended(due_for.worker, due_for.job_id)::float8 / 18446744073709551616 + 0.5) * due_for.fleet;
begin
    return case when rank < 3 then due_for.due_at when rank < 8 then due_for.due_at + interval '1 second' end;
end
$$;
comment on function bridge.due_for is
    'When one worker of a fleet looks at a job that falls due at `due_at`; null: it leaves that to others.';

create function bridge.next_lease_end(worker text, ready boolean) returns timestamptz
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    me bridge.workers;
    known text[];
begin
    select w.* into me from bridge.workers w where w.name = next_lease_end.worker;
    known := bridge.known_functions(coalesce(me.functions, '{}'), now());
    return least((
        select min(h.at) from (
            select case when me.functions is null or j.cancel or j.function = any (me.functions) then j.lease_until
                        else greatest(j.lease_until, bridge.unknown_wait() + greatest(
                            j.run_at, (select f.known_until from bridge.functions f where f.name = j.function))) end
              from bridge.jobs j
             where j.worker is not null and j.run_at >= coalesce(me.horizon, '-infinity')
               and j.worker <> next_lease_end.worker
               and (me.functions is null or j.cancel or j.function = any (me.functions) or j.function <> all (known))
               -- A dispatched job is confirmed within a second or so, and then it is held for longer: nobody needs to
               -- look, unless its worker does not hear. A worker that has just started was not told of its insert.
               and (j.is_confirmed or j.lease_until < now() + bridge.dispatch_lease() / 2
                    or me.started_at > now() - interval '30 seconds'
                    or not exists (select from bridge.workers w where w.name = j.worker and w.hears_until > now()))
             order by j.run_at, j.id) h (at)),
        -- a job that another worker is claiming right now has a lease that is not visible yet
        case when next_lease_end.ready then now() + me.lease end);
end
$$;
comment on function bridge.next_lease_end is
    'When the next lease of another worker ends, on a job that this worker could take over; null: none. `ready`: whether there is a job to claim.';

create or replace function bridge.queue_hints(worker text) returns jsonb
language plpgsql stable set search_path = ''
-- The plans do not depend on the names of functions; making them anew takes longer than all else here.
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    horizon timestamptz := '-infinity';
    own text[];
    capacity int;
    known text[];
    fleet bigint;
    watchers bigint;
    ready boolean;
    next_at timestamptz;  -- when the next job falls due, as far as this worker may claim it
    unknown_at timestamptz;
    held bigint[];
begin
    select w.horizon, w.functions, w.capacity into horizon, own, capacity
      from bridge.workers w where w.name = queue_hints.worker;
    horizon := coalesce(horizon, '-infinity');
    -- the two first of those that hear; whoever does not hear watches too
    select count(*),
           count(*) filter (where l.hears_until > now()
                              and hashtextextended(l.name, 0) < hashtextextended(queue_hints.worker, 0))
      into fleet, watchers from bridge.live_workers l;
    -- Each query is written in the order of the index that it must walk: other indexes that hold the same jobs have no
    -- horizon, and the statistics that plans are made from are always stale.
    if own is null then
        ready := (
            select j.run_at from bridge.jobs j where j.worker is null and j.run_at >= horizon and j.run_at <= now()
             order by j.run_at, j.id limit 1) is not null;
        next_at := (
            select j.run_at from bridge.jobs j where j.worker is null and j.run_at > now()
             order by j.run_at, j.id limit 1);
    else
        known := bridge.known_functions(own, now());
        -- Pairs and no `function =`: only jobs_ready_by_function fits them, and they lead to the place in it.
        select coalesce(bool_or(f.is_ready), false), min(f.next_at) into ready, next_at
          from (
            select (select j.run_at from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and (j.function, j.run_at) >= (n.name, horizon) and (j.function, j.run_at) <= (n.name, now())
                     order by j.function, j.run_at, j.id limit 1) is not null,
                   (select min(case when capacity is null then d.run_at
                                    else bridge.due_for(queue_hints.worker, fleet, d.id, d.run_at) end)
                      from (
                        select j.id, j.run_at from bridge.jobs j
                         where j.worker is null and j.function is not null
                           and (j.function, j.run_at) > (n.name, now())
                           and (j.function, j.run_at) <= (n.name, 'infinity')
                         order by j.function, j.run_at, j.id limit 10) d)
              from unnest(own) n (name)) f (is_ready, next_at);
        -- A few of each gap: if there are more, the claim at the time of these finds them. If a function was known until
        -- a moment ago, its time counts from then.
        unknown_at := (
            select min(greatest(j.run_at, f.known_until))
              from bridge.unknown_jobs(known, 'infinity', 10) j left join bridge.functions f on f.name = j.function
          ) + bridge.unknown_wait();
        ready := ready or coalesce(unknown_at <= now(), false);
        if unknown_at > now() then
            next_at := least(next_at, unknown_at);
        end if;
    end if;
    -- what was dispatched to it and has not arrived: its claim brings it
    if not ready then
        held := bridge.held_by(queue_hints.worker, horizon);
        ready := exists (
            select from bridge.jobs j
             where j.id = any (held) and j.worker is not distinct from queue_hints.worker
               and not j.is_confirmed and j.lease_until < now());
    end if;
    if capacity is null then  -- it does not know lease_in_ms
        next_at := least(next_at, bridge.next_lease_end(queue_hints.worker, ready));
    end if;
    return jsonb_build_object(
        'next_in_ms', bridge.milliseconds_until(next_at),
        'workers', fleet,
        'ready', ready,
        'watches', watchers < 2 or capacity = 0,
        'at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint
    );
end
$$;
comment on function bridge.queue_hints is
    'Of the jobs that the worker may claim: next_in_ms: when a retry is due or half a minute has passed for a function that nobody knows (null: nothing is scheduled); ready: whether there is a job to claim. workers: how many are live; watches: whether this is one of those that hear of inserts by postgres_changes (two that hear their topics, and all that do not); at_ms: the time in the database. An older worker is told in next_in_ms of leases too.';

create function bridge.milliseconds_until(at timestamptz) returns int
language plpgsql set search_path = ''
as $$
begin
    return case when milliseconds_until.at is not null  -- least and greatest would ignore a null
        then least(greatest(extract(epoch from milliseconds_until.at - clock_timestamp()) * 1000, 0), 86400000)::int end;
end
$$;
comment on function bridge.milliseconds_until is 'How long until a time: null for null, 0 if it has passed, at most a day.';

create function bridge.lease_hint(worker text, ready boolean) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'lease_in_ms', bridge.milliseconds_until(bridge.next_lease_end(lease_hint.worker, lease_hint.ready)));
end
$$;
comment on function bridge.lease_hint is
    'lease_in_ms: when the next lease of another worker ends (null: none does). It reads every job that is held, so not every call returns it.';

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
        select q.content as asked, r.content as replied, r.data, pg_column_size(r.data) as stored
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
            + coalesce(octet_length(pair.data::text), 0);
        exit when bytes > 262144;
        if bytes > history_of.most_bytes then
            return null;
        end if;
        if pair.data is not null and not bridge.is_readable(pair.data) then  -- a trigger or an administrator wrote it
            continue when pair.replied = '';
            pair.data := null;
        end if;
        messages := jsonb_build_object('role', 'assistant', 'content', pair.replied, 'data', pair.data) || messages;
        messages := jsonb_build_object('role', 'user', 'content', pair.asked) || messages;
    end loop;
    return to_jsonb(messages);
end
$$;
comment on function bridge.history_of is
    'What was said before a question, as [{role, content, data?}]: the questions that have a reply, each followed by it, up to `most` messages and 256 KiB; null if that is more than `most_bytes`. One that failed, or was cancelled before it had any text, is left out. is_older: without replies that have only data, of which an older worker would make empty messages, and some models refuse these.';

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
        'message', question.content,
        'data', question.data,
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
    opened jsonb;
begin
    if is_new and not job.cancel then
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp()
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

create or replace function bridge.record_lost(jobs bigint[]) returns void
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

create or replace function bridge.in_fair_order(
    ready bigint[], horizon timestamptz, worker text, elsewhere text[], others uuid[],
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
             where h.id = e.id and h.worker is null
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

create or replace function bridge.claimed_by_others(ready bigint[], horizon timestamptz) returns uuid[]
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

create function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int, functions text[] default null,
    reserve int default 0, probing text[] default '{}', paused text[] default '{}', failing text[] default '{}',
    capacity int default null, hears_seconds int default 15
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
        bridge_claim.capacity, bridge_claim.history, make_interval(secs => bridge_claim.hears_seconds));
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
    expired := bridge.take_expired(bridge_claim.worker, horizon, takes, known, due, slots);
    select r.* into ready from bridge.take_ready(
        bridge_claim.worker, horizon, takes, known, due, slots - cardinality(expired), bridge_claim.reserve,
        array(select f.name from unnest(probes) f (name) where f.name = any (elsewhere)), elsewhere) r;
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
        'missed', alive.missed);
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Of functions that other workers answer well, it takes as many jobs as `probing` names it times, or none if it is `paused`. Those that are `failing` are noted. The last `reserve` slots are for users who have asked little. `capacity`: how many jobs can be dispatched to it while it calls at least every `hears_seconds` (0: it does not hear its topic, or drains; null: it has none, as it has an older version). Returns {jobs: [{question_id, …}], held_back, elsewhere, next_in_ms, lease_in_ms, workers, ready, watches, missed, at_ms, snapshot}. held_back: claim again when a reply has ended. elsewhere: the functions that other workers answer well. The snapshot shows which transactions the claim has seen.';

create function bridge.dispatch_lease() returns interval
language plpgsql immutable set search_path = ''
as $$
begin
    return interval '3 seconds';
end
$$;
comment on function bridge.dispatch_lease is 'How long a dispatched job may stay unconfirmed.';

create function bridge.used_slots(worker text, horizon timestamptz) returns int[]
language plpgsql set search_path = ''  -- volatile: each call sees what has been committed before it
set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return array(  -- 0: without one
        select coalesce(h.slot, 0) from bridge.jobs h
         where h.worker is not null
           and (h.worker, h.run_at) >= (used_slots.worker, used_slots.horizon)
           and (h.worker, h.run_at) <= (used_slots.worker, 'infinity')
         order by h.worker, h.run_at);  -- as in bridge.held_by
end
$$;
comment on function bridge.used_slots is 'The slots of a worker that its jobs take; 0 for each job without one.';

create function bridge.lock_slots(worker text, horizon timestamptz, room int, most int) returns int[]
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    used int[] := bridge.used_slots(worker, horizon);
    passed int := 0;
    locked int[] := '{}';
    free int[] := '{}';
begin
    -- A slot's lock lasts until its job is visible to everybody. So no two transactions fill the same slot, and a user
    -- who keeps a transaction open keeps the slots of its questions from the others, and not the worker.
    -- A job without a slot takes up the last free one, for everybody alike.
    if cardinality(used) >= room then
        return locked;
    end if;
    for slot in 1 .. room loop
        continue when slot = any (used);
        passed := passed + 1;
        exit when passed > room - cardinality(used) or cardinality(locked) >= most;
        if pg_try_advisory_xact_lock(hashtextextended('bridge.slot ' || worker, slot)) then
            locked := locked || slot;
        end if;
    end loop;
    if locked = '{}' then
        return locked;
    end if;
    -- others may have filled some before they were locked
    used := bridge.used_slots(worker, horizon);
    passed := 0;
    for slot in 1 .. room loop
        continue when slot = any (used);
        passed := passed + 1;
        exit when passed > room - cardinality(used) or cardinality(free) = cardinality(locked);
        if slot = any (locked) then
            free := free || slot;
        end if;
    end loop;
    return free;
end
$$;
comment on function bridge.lock_slots is
    'Locks up to `most` of a worker''s first `room` slots, of those that are free, until the end of the transaction, without waiting. The worker then has `room` jobs at most.';

create function bridge.running_replies(user_id uuid, horizon timestamptz) returns bigint
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return (
        select count(*) from (
            select from bridge.jobs h
             where h.worker is not null
               and (h.user_id, h.run_at) >= (running_replies.user_id, running_replies.horizon)
               and (h.user_id, h.run_at) <= (running_replies.user_id, 'infinity')
             order by h.user_id, h.run_at offset 0) r);  -- in the order of jobs_running_of_user, the only one that fits
end
$$;
comment on function bridge.running_replies is 'How many replies of a user are running, of those that began after `horizon`.';

create function bridge.may_run(user_id uuid, horizon timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('running_replies', may_run.user_id);
begin
    return most is null or bridge.running_replies(user_id, horizon) < most;
end
$$;
comment on function bridge.may_run is 'Whether one more reply of a user may run.';

create function bridge.asks_little(user_id uuid, function text, horizon timestamptz) returns boolean
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_incremental_sort = off
as $$
begin
    return (
        select count(*) <= 2 from (
            select from bridge.jobs j  -- in the order of jobs_ready_by_user, the only one that fits
             where j.worker is null and j.function is not null
               and (j.function, j.user_id, j.run_at) >= (asks_little.function, asks_little.user_id, asks_little.horizon)
               and (j.function, j.user_id, j.run_at) <= (asks_little.function, asks_little.user_id, now())
             order by j.function, j.user_id, j.run_at limit 3) w);
end
$$;
comment on function bridge.asks_little is 'Whether at most two questions of a user wait.';

create function bridge.has_backlog(function text, horizon timestamptz, is_newcomer boolean, excluded uuid[])
returns boolean
language plpgsql stable set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    oldest bigint[];
    waiting record;
begin
    oldest := array(
        select j.id from bridge.jobs j
         where j.worker is null and j.function is not null
           and (j.function, j.run_at) >= (has_backlog.function, has_backlog.horizon)
           and (j.function, j.run_at) <= (has_backlog.function, now())
           and j.question_id <> all (has_backlog.excluded)
         order by j.function, j.run_at, j.id limit 4);
    if oldest = '{}' then
        return false;
    elsif cardinality(oldest) = 4 then  -- perhaps all of one user who has asked a lot: what of the others?
        oldest := oldest || bridge.waiting_users(array[has_backlog.function], 16, 1, has_backlog.horizon);
    end if;
    for waiting in
        select distinct j.user_id from unnest(oldest) e (id)
         cross join lateral (  -- each by its id
            select h.user_id, h.question_id from bridge.jobs h where h.id = e.id limit 1) j
         where j.question_id <> all (has_backlog.excluded)
    loop
        if bridge.may_run(waiting.user_id, has_backlog.horizon)
           and not (has_backlog.is_newcomer and bridge.running_replies(waiting.user_id, has_backlog.horizon) > 0)
        then
            return true;
        end if;
    end loop;
    return false;
end
$$;
comment on function bridge.has_backlog is
    'Whether questions of a function wait that are next: of users who may run one more or, before a newcomer''s, of users who have nothing running. Then a claim decides, and nothing is dispatched past them.';

create function bridge.choose_worker(
    session_id uuid, user_id uuid, function text, finisher text, failed_by text, excluded uuid[],
    may_take_last boolean,
    out worker text, out slot int, out lease interval
)
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    candidate record;
    running bigint;
    most bigint;
    is_shared boolean;
    room int;
begin
    -- Of now, and not of the transaction's begin: its user's request may have waited, and gone on for long.
    -- Each session has an order of the workers of its own: it stays with a worker, which has joined its topic, as long
    -- as that one has room, and a fleet that changes moves few sessions.
    for candidate in
        select w.name, w.capacity, w.horizon, w.lease,
               choose_worker.function = any (w.failing) as is_failing,
               choose_worker.function = any (w.unproven) as is_unproven
          from bridge.workers w
         where w.hears_until > clock_timestamp() and w.capacity > 0
           and choose_worker.function = any (w.functions)
           and (choose_worker.function <> all (w.failing) or choose_worker.function = any (w.unproven))
           and w.name is distinct from choose_worker.failed_by
         order by w.name is distinct from choose_worker.finisher,
                  hashtextextended(w.name, hashtextextended(choose_worker.session_id::text, 0))
         limit 3
    loop
        if running is null then
            -- as bridge.limit_of, for the user and for everybody
            select (array_agg(l.value order by l.user_id nulls last))[1],
                   bool_or(l.user_id is null and l.value is not null)
              into most, is_shared
              from bridge.limits l
             where l.name = 'running_replies' and (l.user_id = choose_worker.user_id or l.user_id is null);
            -- As in bridge.claimed_by_others. A question of a user whose replies are being counted right now is claimed.
            if most is not null
               and not pg_try_advisory_xact_lock(hashtextextended('bridge.running_replies ' || user_id, 0)) then
                return;
            end if;
            running := bridge.running_replies(user_id, candidate.horizon);
            if running >= most or bridge.has_backlog(function, candidate.horizon, running = 0, excluded) then
                return;
            end if;
        end if;
        if candidate.is_failing then
            -- one question at a time tells whether a model that was out of order answers again
            continue when not pg_try_advisory_xact_lock(hashtextextended(
                'bridge.probe ' || candidate.name, hashtextextended(choose_worker.function, 0)));
            continue when exists (
                select from bridge.jobs h
                 where h.worker is not null and h.function = choose_worker.function
                   and (h.worker, h.run_at) >= (candidate.name, candidate.horizon)
                   and (h.worker, h.run_at) <= (candidate.name, 'infinity'));
        end if;
        -- as in a claim: few questions for a model that has not answered yet, and a quarter of all slots only for users
        -- who have asked little
        room := case
            when candidate.is_unproven and not candidate.is_failing then least(candidate.capacity, 3)
            when is_shared then candidate.capacity - candidate.capacity / 4
            else candidate.capacity end;
        slot := (bridge.lock_slots(candidate.name, candidate.horizon, room, 1))[1];
        if slot is null and may_take_last and is_shared and running = 0 and not candidate.is_unproven
           and bridge.asks_little(user_id, function, candidate.horizon)
        then
            slot := (bridge.lock_slots(candidate.name, candidate.horizon, candidate.capacity, 1))[1];
        end if;
        if slot is not null then
            worker := candidate.name;
            lease := least(candidate.lease, bridge.dispatch_lease());
            return;
        end if;
    end loop;
end
$$;
comment on function bridge.choose_worker is
    'The worker to which a question of this session and user is handed, with the slot that it will take there, locked: the first in the session''s order of those that hear, answer the function well and have room. Null: none, or others wait who are next, or the user has as many replies running as allowed. may_take_last: of the last quarter of the slots, too, if the user has nothing running and asks little.';

create function bridge.tell(dispatched bridge.jobs) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    -- A deferred trigger of the project on messages fires now, where it fails only this job, as in a claim; not at the commit,
    -- where it would fail its user's request.
    deferred text := (
        select string_agg(format('public.%I', c.conname), ', ') from pg_catalog.pg_constraint c
         where c.conrelid = 'public.messages'::regclass and c.condeferred);
    present record;
    told jsonb;
begin
    select j as job, w.history, j.function = any (w.functions) and w.capacity > 0 as is_there into present
      from bridge.jobs j left join bridge.workers w on w.name = j.worker
     where j.id = dispatched.id and j.worker = dispatched.worker and j.attempt = dispatched.attempt
       and not j.is_confirmed;
    if not found then
        return null;
    elsif present.is_there is not true then
        raise exception 'it has left, or the session has another function now';
    end if;
    if deferred is not null then
        execute 'set constraints ' || deferred || ' immediate';
    end if;
    if dispatched.lease_until < clock_timestamp() + bridge.dispatch_lease() / 2 then  -- its user's request has taken long
        update bridge.jobs j set lease_until = clock_timestamp() + bridge.dispatch_lease() where j.id = dispatched.id;
    end if;
    told := bridge.open_attempt(present.job, present.history, is_new => true, most_bytes => 32768);
    if deferred is not null then
        execute 'set constraints ' || deferred || ' deferred';
    end if;
    if octet_length(told::text) > 32768 then  -- the worker claims what it holds
        told := jsonb_build_object('question_id', dispatched.question_id, 'attempt', dispatched.attempt);
    end if;
    return told || jsonb_build_object('at_ms', (extract(epoch from clock_timestamp()) * 1000)::bigint);
exception when others then
    -- a claim finds out whether the question is broken, or what its user may not do
    raise warning 'bridge.tell: % %', sqlstate, sqlerrm;
    update bridge.jobs j
       set worker = null, slot = null, lease_until = null, attempt = j.attempt - 1, is_confirmed = true
     where j.id = dispatched.id;
    begin
        update public.messages m set status = 'queued' where m.id = dispatched.question_id and m.status <> 'queued';
    exception when others then
        raise warning 'bridge.tell: % %', sqlstate, sqlerrm;  -- a claim sets it
    end;
    perform bridge.announce_work(array[dispatched.question_id]);
    return null;
end
$$;
comment on function bridge.tell is
    'Opens the attempt of a dispatched job. Returns its payload or, above 32 KiB, the hint {question_id, attempt}: Realtime stores each broadcast for three days. Null: the job is no longer dispatched, or opening it failed and it has been announced as ready again.';

create function bridge.push() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    told jsonb;
begin
    -- bridge_finish tells its own caller, in its answer
    if new.worker is distinct from nullif(current_setting('bridge.finisher', true), '') then
        told := bridge.tell(new);
        if told is not null then
            perform bridge.announce('worker:' || new.worker, 'job', told);
        end if;
    end if;
    return null;
end
$$;
comment on function bridge.push is 'Tells a worker of a job that was dispatched to it.';

create function bridge.dispatch(question_ids uuid[], released_by text default null, is_new boolean default false)
returns void
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    finisher text := nullif(current_setting('bridge.finisher', true), '');
    job bridge.jobs;
    chosen record;
    rest uuid[] := '{}';
begin
    if coalesce(cardinality(dispatch.question_ids), 0) = 0 then
        return;
    elsif cardinality(dispatch.question_ids) > 32 then  -- a backlog
        perform bridge.announce_work(dispatch.question_ids);
        return;
    end if;
    for job in
        select j.* from unnest(dispatch.question_ids) q (id)
         cross join lateral (
            select h.* from bridge.jobs h  -- by its question: the indexes of ready jobs are full of ended ones
             where h.question_id = q.id and case when h.worker is null then h.run_at <= now() end
               for update skip locked) j
    loop
        chosen := bridge.choose_worker(
            job.session_id, job.user_id, job.function, finisher, coalesce(dispatch.released_by, job.failed_by),
            dispatch.question_ids, true);
        if chosen.worker is null then
            rest := rest || job.question_id;
            continue;
        end if;
        update bridge.jobs j
           set worker = chosen.worker, slot = chosen.slot, lease_until = clock_timestamp() + chosen.lease,
               attempt = j.attempt + 1, is_confirmed = false
         where j.id = job.id
        returning j.* into job;
        -- should that worker be gone: of an insert, two workers hear by postgres_changes
        if not is_new and chosen.worker is distinct from finisher then
            perform bridge.announce_due(job, job.lease_until + interval '0.2 seconds', job.worker);
        end if;
    end loop;
    perform bridge.announce_work(rest);
end
$$;
comment on function bridge.dispatch is
    'Hands each of these questions, if it is ready, to one worker; announces the rest to all. Called by whatever makes a job ready. released_by: the worker that has just given them back, which gets none of them. is_new: they have just been inserted.';

create function bridge.announce_due(job bridge.jobs, at timestamptz, besides text) returns boolean
language plpgsql set search_path = ''
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    looking text[] := array(
        select w.name from bridge.workers w
         where w.hears_until > clock_timestamp() and w.capacity > 0 and w.name <> announce_due.besides
           and job.function = any (w.functions) and job.function <> all (w.failing)
         order by hashtextextended(w.name, hashtextextended(job.session_id::text, 0)) limit 2);
begin
    perform bridge.announce('worker:' || l.name, 'due', jsonb_build_object(
                'in_ms', bridge.milliseconds_until(announce_due.at)))
       from unnest(looking) l (name);
    return looking <> '{}';
end
$$;
comment on function bridge.announce_due is
    'Tells two workers that hear, and not the one `besides` them, to look for a job at a time; false: there is none.';

create or replace function public.bridge_beat(worker text, jobs jsonb) returns jsonb
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
    'Extends the leases of jobs [{question_id, attempt, seq?, content?, data?}] and writes those with a seq as checkpoints. Returns {results: {question_id: ok|lost|cancel|busy}, next_in_ms, lease_in_ms?, workers, ready, watches, missed, at_ms}; busy: a user keeps it locked, try again.';

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

create or replace function bridge.next_of_users(worker text, users uuid[]) returns uuid[]
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

create or replace function public.bridge_finish(worker text, results jsonb, knows_busy boolean default false) returns jsonb
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
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, seq?, files?, error?, retry_in_ms?, hand_over_in_ms?, name?, unconfirmed?, run?}]. Returns {results: {question_id: ok|lost|gone|refused|busy}, untitled: [question_id], jobs: [{question_id, …}], next_in_ms, workers, ready, watches, at_ms}. busy: a user keeps it locked, send it again; a call without `knows_busy` waits instead, but not for files. hand_over_in_ms: as retry_in_ms, if another worker can answer. untitled: of those with `name`, the ones whose session needs a title. unconfirmed: it was dispatched a moment ago, so busy if it is not seen yet. jobs: the next questions of these sessions, dispatched to the caller; only {question_id, attempt} of a large one and, if a finish is repeated, of whatever the caller has not confirmed.';

create or replace function public.bridge_dead_retry(question_ids uuid[] default null) returns int
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    question public.messages;
    letters uuid[];
    free uuid[];
    ready uuid[] := '{}';
    retried int := 0;
begin
    select array_agg(d.question_id) into letters from (
        select x.question_id from bridge.dead_letters x
         where bridge_dead_retry.question_ids is null or x.question_id = any (bridge_dead_retry.question_ids)
         order by x.id limit 500
    ) d;
    -- a session that its user keeps locked is left for another time
    free := array(
        select s.id from public.sessions s
         where s.id in (select d.session_id from bridge.dead_letters d where d.question_id = any (letters))
         order by s.id for no key update skip locked);
    for question in
        select m.* from public.messages m
          join bridge.dead_letters d on d.question_id = m.id
         where d.question_id = any (letters) and m.session_id = any (free)
           and not exists (select from bridge.jobs j where j.question_id = m.id)
         order by m.session_id, m.ordinal
    loop
        -- not charged: the failure was not the user's fault
        if bridge.requeue(question, false) then
            ready := ready || question.id;
        end if;
        retried := retried + 1;
    end loop;
    perform bridge.dispatch(ready);
    return retried;
end
$$;
comment on function public.bridge_dead_retry is
    'Requeues dead letters with a fresh count of failures (null: the 500 oldest), except in sessions that are locked. Returns how many.';


-- triggers ---------------------------------------------------------------------------------------

-- At the commit, so that a request that goes on, and writes files for its question, is told whole.
create constraint trigger push after insert or update of worker on bridge.jobs
    deferrable initially deferred
    for each row when (new.worker is not null and not new.is_confirmed)
    execute function bridge.push();

create or replace trigger accept_question before insert on public.messages
    for each row when (new.role = 'user') execute function bridge.accept_question();


-- grants -----------------------------------------------------------------------------------------

revoke all on function
    bridge.jobs_of, bridge.held_by, bridge.end_job, bridge.enqueue, bridge.heartbeat, bridge.due_for,
    bridge.next_lease_end, bridge.milliseconds_until, bridge.lease_hint, bridge.history_of, bridge.files_of,
    bridge.payload, bridge.open_attempt, bridge.open_claimed, bridge.dispatch_lease, bridge.used_slots,
    bridge.lock_slots, bridge.running_replies, bridge.may_run, bridge.asks_little, bridge.has_backlog,
    bridge.choose_worker, bridge.tell, bridge.push, bridge.dispatch, bridge.announce_due, bridge.finish,
    bridge.finish_held
    from public, anon, authenticated, service_role;
revoke all on function public.bridge_claim from public, anon, authenticated;
grant execute on function public.bridge_claim to service_role;
