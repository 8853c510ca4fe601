-- From an insert to a job, and the two things a user may ask of it afterwards: cancel and retry.
--
-- Locks are taken in one order everywhere: sessions (for no key update: `for update` would deadlock with
-- the foreign keys' key share), then bridge.jobs by id, then messages.
-- Whatever adds, ends or reorders the jobs of a session holds the session's lock.

create function bridge.end_job(job bridge.jobs, status text, error jsonb default null, reply jsonb default null)
returns void
language plpgsql
set search_path = ''
as $$
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
    'The one way a job ends: reply and question take the status, the job goes. The caller holds session and job.';

create function bridge.promote() returns trigger
language plpgsql
security definer
set search_path = ''
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
        update bridge.jobs j set run_at = now() from head where j.id = head.id returning j.message_id
    )
    select array_agg(p.message_id) into heads from promoted p;
    perform bridge.announce_work(heads);
    return null;
end
$$;
comment on function bridge.promote is 'When a job is gone, whoever removed it, the next of its session becomes the head.';

create function bridge.announce_work(message_ids uuid[]) returns void
language plpgsql
set search_path = ''
as $$
begin
    if cardinality(announce_work.message_ids) > 0 then
        -- It is a hint: the first hundred say all there is to say. Realtime may tell of a commit a moment before other
        -- transactions see it; by `xid` a worker knows whether its claim has seen this one.
        perform bridge.announce('bridge:inbox', 'work', jsonb_build_object(
            'message_ids', to_jsonb(announce_work.message_ids[1:100]),
            'xid', pg_current_xact_id()::text::bigint));
    end if;
end
$$;
comment on function bridge.announce_work is 'Wakes the workers.';

create trigger promote after delete on bridge.jobs
    referencing old table as ended
    for each statement execute function bridge.promote();

create function bridge.stop_job(job bridge.jobs) returns text
language plpgsql
set search_path = ''
as $$
begin
    if (job).worker is not null and (job).lease_until >= now() then
        if not (job).cancel then
            update bridge.jobs j set cancel = true where j.id = (stop_job.job).id;
            perform bridge.announce(
                'bridge:inbox', 'cancel', jsonb_build_object('message_id', (job).message_id));
        end if;
        return 'cancelling';
    end if;
    perform bridge.end_job(job, 'cancelled');
    return 'cancelled';
end
$$;
comment on function bridge.stop_job is
    'Ends a job that nobody works on; asks the worker that does to end it. The caller holds session and job.';

create function bridge.enqueue(question public.messages, attempt int, charged boolean default true) returns boolean
language plpgsql
set search_path = ''
as $$
declare
    waits boolean := exists (
        select from bridge.jobs j where j.session_id = (question).session_id and j.run_at is not null);
    owner uuid := (select s.user_id from public.sessions s where s.id = (question).session_id);
begin
    if enqueue.charged then
        perform bridge.charge(owner);
    end if;
    insert into bridge.jobs (message_id, session_id, user_id, ordinal, attempt, run_at)
    values ((question).id, (question).session_id, owner, (question).ordinal, enqueue.attempt,
            case when not waits then now() end);
    return not waits;
end
$$;
comment on function bridge.enqueue is
    'Adds a job for a question, and charges its user for it; true if it may run at once. The caller holds the session.';

create function bridge.requeue(question public.messages, charged boolean) returns boolean
language plpgsql
set search_path = ''
as $$
declare
    last_attempt int;
begin
    update public.messages m set status = 'queued', error = null, updated_at = clock_timestamp()
     where m.reply_to = (question).id returning m.attempt into last_attempt;
    update public.messages m set status = 'queued', error = null, updated_at = clock_timestamp() where m.id = (question).id;
    delete from bridge.dead_letters d where d.message_id = (question).id;
    -- an attempt whose reply could not be opened has left a run alone
    return bridge.enqueue(question, coalesce(last_attempt, (
        select max(r.attempt) from bridge.runs r where r.message_id = (question).id), 0), requeue.charged);
end
$$;
comment on function bridge.requeue is
    'A new attempt at a question that has ended; true if it may run at once. The caller holds the session.';


create function bridge.end_jobs_of_session() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- session, jobs, messages: in this order here as well; the cascade would take the messages first
    delete from bridge.jobs j where j.session_id = old.id;
    return old;
end
$$;
comment on function bridge.end_jobs_of_session is 'Takes the jobs of a session along, before the cascade takes its messages.';

create trigger end_jobs before delete on public.sessions
    for each row execute function bridge.end_jobs_of_session();


-- insert -----------------------------------------------------------------------------------------

create function bridge.lock_session(session_id uuid, owner uuid default null) returns public.sessions
language plpgsql
set search_path = ''
as $$
declare
    session public.sessions;
begin
    -- Several rows in one statement lock their sessions in the order of the rows, bridge_finish in the order of their
    -- ids: against the order nothing is waited for, or the two could wait for each other.
    if lock_session.session_id < nullif(current_setting('bridge.last_session', true), '')::uuid then
        select s.* into session from public.sessions s
         where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
           for no key update skip locked;
        if not found and exists (
            select from public.sessions s
             where s.id = lock_session.session_id and (lock_session.owner is null or s.user_id = lock_session.owner)
        ) then
            raise exception 'Session % is busy.', lock_session.session_id
                using errcode = 'PT409', hint = 'Insert again, the rows in the order of their session ids.';
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
comment on function bridge.lock_session is 'Locks a session (of this owner, if one is given) for adding to it; nothing where there is none.';

create function bridge.accept_question() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    caller uuid := auth.uid();
    session public.sessions;
begin
    if new.role <> 'user' then
        return new;
    end if;
    session := bridge.lock_session(new.session_id, caller);
    if session.id is null then
        raise exception 'There is no session % of yours.', new.session_id using errcode = '42501';
    end if;
    -- before any limit speaks: a client that repeats an insert whose answer was lost must learn that it arrived
    if exists (select from public.messages m where m.id = new.id) then
        raise exception 'duplicate key value violates unique constraint "messages_pkey"'
            using errcode = '23505', detail = format('Key (id)=(%s) already exists.', new.id);
    end if;
    if new.content !~ '\S' then
        raise exception 'The message is empty.' using errcode = 'PT400', hint = 'Write something in "content".';
    end if;
    if octet_length(new.content) > bridge.limit_of('message_bytes', session.user_id) then
        raise exception 'The message is too long: % bytes; at most % are taken.',
            octet_length(new.content), bridge.limit_of('message_bytes', session.user_id)
            using errcode = 'PT413', hint = 'Shorten it, or put long text into a code file.';
    end if;
    if new.data is not null and (jsonb_typeof(new.data) <> 'object' or octet_length(new.data::text) > 32768) then
        raise exception 'The message''s data must be a JSON object of at most 32768 bytes (32 KiB).'
            using errcode = 'PT400';
    end if;
    if session.on_new_message = 'reject'
       and exists (select from bridge.jobs j where j.session_id = session.id) then
        raise exception 'A reply is still running in this session.'
            using errcode = 'PT409', hint = 'Wait for it, or cancel it with cancel_message.';
    end if;
    new.ordinal := session.last_ordinal + 2;
    update public.sessions s set last_ordinal = new.ordinal, updated_at = clock_timestamp() where s.id = session.id;
    new.status := 'queued';
    new.reply_to := null;
    new.attempt := 0;
    new.seq := 0;
    new.error := null;
    new.created_at := now();
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.accept_question is 'Checks a question and gives it its place in the session.';

create trigger accept_question before insert on public.messages
    for each row execute function bridge.accept_question();

create function bridge.enqueue_questions() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    question public.messages;
    running bridge.jobs;
    last_session uuid;
    ready uuid[] := '{}';
begin
    for question in select n.* from added n where n.role = 'user' order by n.session_id, n.ordinal loop
        select j.* into running
          from bridge.jobs j
          join public.sessions s on s.id = j.session_id
         where j.session_id = question.session_id and s.on_new_message = 'interrupt'
           and j.run_at is not null and j.attempt > 0
           for update of j;
        if found then
            perform bridge.stop_job(running);
        end if;
        if question.session_id = last_session and exists (
            select from public.sessions s where s.id = last_session and s.on_new_message = 'reject'
        ) then
            raise exception 'A reply is still running in this session.'
                using errcode = 'PT409', hint = 'It takes one message at a time.';
        end if;
        last_session := question.session_id;
        if bridge.enqueue(question, 0) then
            ready := ready || question.id;
        end if;
    end loop;
    perform bridge.announce_work(ready);
    return null;
end
$$;
comment on function bridge.enqueue_questions is 'Makes a job of every new question and wakes the workers.';

create trigger enqueue_questions after insert on public.messages
    referencing new table as added
    for each statement execute function bridge.enqueue_questions();


-- code files -------------------------------------------------------------------------------------

create function bridge.revise_file() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    perform bridge.check_file_size(new.session_id, new.content);
    if tg_op = 'INSERT' then
        perform bridge.check_files(new.session_id);
        new.revision := 1;
        new.created_at := now();
    elsif new.content is distinct from old.content then
        new.revision := old.revision + 1;
        insert into public.code_file_versions (file_id, session_id, path, content, language, revision, message_id)
        values (old.id, old.session_id, old.path, old.content, old.language, old.revision, old.message_id);
        perform bridge.trim_versions(old.id, old.session_id);
        if new.message_id is not distinct from old.message_id and auth.uid() is not null then
            new.message_id := null;  -- a user's own edit: no reply wrote this
        end if;
    else
        new.revision := old.revision;
    end if;
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.revise_file is 'Keeps every earlier content of a file as a version.';

create trigger revise_file before insert or update on public.code_files
    for each row execute function bridge.revise_file();

create function bridge.touch_session() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.touch_session is 'Keeps updated_at.';

create trigger touch_session before update on public.sessions
    for each row execute function bridge.touch_session();


-- what a user may ask ------------------------------------------------------------------------------

create function bridge.own_question(message_id uuid) returns public.messages
language plpgsql
set search_path = ''
as $$
declare
    question public.messages;
begin
    perform from public.sessions s
      join public.messages m on m.session_id = s.id
      where m.id = own_question.message_id and s.user_id = (select auth.uid())
      for no key update of s;
    if not found then
        raise exception 'There is no message % of yours.', own_question.message_id using errcode = 'PT404';
    end if;
    select q.* into question
      from public.messages m
      join public.messages q on q.id = coalesce(m.reply_to, m.id)
     where m.id = own_question.message_id;
    return question;
end
$$;
comment on function bridge.own_question is 'The caller''s question by its own id or its reply''s, with the session locked.';

create function bridge.cancel_message(message_id uuid) returns text
language plpgsql
security definer
set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(cancel_message.message_id);
    job bridge.jobs;
begin
    select j.* into job from bridge.jobs j where j.message_id = question.id for update;
    if not found then
        return question.status;
    end if;
    return bridge.stop_job(job);
end
$$;
comment on function bridge.cancel_message is 'See public.cancel_message.';

create function public.cancel_message(message_id uuid) returns text
language plpgsql
set search_path = ''
set statement_timeout = '5s'
as $$
begin
    return bridge.cancel_message(cancel_message.message_id);
end
$$;
comment on function public.cancel_message is
    'Stops the answer to an own message (the question''s id or the reply''s). Returns cancelled, cancelling (the worker is told), or the status it ended with.';

create function bridge.retry_message(message_id uuid) returns text
language plpgsql
security definer
set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(retry_message.message_id);
begin
    if exists (select from bridge.jobs j where j.message_id = question.id) then
        return question.status;
    end if;
    if bridge.requeue(question, true) then
        perform bridge.announce_work(array[question.id]);
    end if;
    return 'queued';
end
$$;
comment on function bridge.retry_message is 'See public.retry_message.';

create function public.retry_message(message_id uuid) returns text
language plpgsql
set search_path = ''
set statement_timeout = '5s'
as $$
begin
    return bridge.retry_message(retry_message.message_id);
end
$$;
comment on function public.retry_message is
    'Answers an own message anew (the question''s id or the reply''s). Returns queued, or the status of the attempt that is under way.';

revoke all on all functions in schema bridge from public, anon, authenticated, service_role;
revoke all on function public.cancel_message, public.retry_message from public, anon, authenticated, service_role;
-- the public functions run as their caller and reach the private ones, which check whose message it is
grant usage on schema bridge to authenticated;
grant execute on function bridge.cancel_message, bridge.retry_message to authenticated;
grant execute on function public.cancel_message, public.retry_message to authenticated;
