-- From an insert to a job, and what a user may ask for afterwards: cancel and retry.

create function bridge.refuse_if_busy(session public.sessions) returns void
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

create function bridge.check_question(question public.messages, owner uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    -- no more than messages_content_size allows, whatever the limit says
    most bigint := least(bridge.limit_of('message_bytes', check_question.owner), 131072);
begin
    if question.content !~ '\S' and question.attachments is null then
        raise exception 'The message is empty' using errcode = 'PT400', hint = 'Write some text into "content".';
    end if;
    if octet_length(question.content) > most then
        raise exception 'Message too long: % bytes (limit %)', octet_length(question.content), most
            using errcode = 'PT413', hint = 'Shorten it, or put long text into a code file.';
    end if;
    if jsonb_typeof(question.data) <> 'object' or octet_length(question.data::text) > 32768 then
        raise exception '"data" must be a JSON object of at most 32768 bytes (32 KiB)' using errcode = 'PT400';
    end if;
    if question.run_at > now() + interval '90 days' then
        raise exception '"run_at" must be within 90 days' using errcode = 'PT400';
    end if;
end
$$;
comment on function bridge.check_question is
    'Refuses a question that is empty, too long or too far ahead. Its attachments have been checked.';

create function bridge.accept_question() returns trigger
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
    new.attachments := bridge.check_attachments(new, session.user_id);
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
    new.parts := null;
    new.created_at := now();
    -- Its worker is chosen before the row is written, so that it need not be written again. Only the first of a
    -- statement: the choice for the others has to see what became of this one.
    if coalesce(current_setting('bridge.chosen', true), '') = ''
       and (new.run_at is null or new.run_at <= now())
       and not exists (select from bridge.jobs j where j.session_id = session.id and j.run_at is not null)
    then
        -- of the slots that are for users who ask little none: what else the statement asks is not seen yet
        chosen := bridge.choose_worker(session.id, session.user_id, session.function, null, null, '{}', false, false);
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

create trigger accept_question before insert on public.messages
    for each row when (new.role = 'user') execute function bridge.accept_question();

create function bridge.enqueue_questions() returns trigger
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

create trigger enqueue_questions after insert on public.messages
    referencing new table as added
    for each statement execute function bridge.enqueue_questions();

create function bridge.touch_session() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end
$$;
comment on function bridge.touch_session is 'Keeps updated_at current.';

create trigger touch_session before update on public.sessions
    for each row execute function bridge.touch_session();


-- cancel and retry -------------------------------------------------------------------------------

create function bridge.own_question(message_id uuid) returns public.messages
language plpgsql set search_path = ''
as $$
declare
    question public.messages;
begin
    perform from public.sessions s
      join public.messages m on m.session_id = s.id
      where m.id = own_question.message_id and s.user_id = (select auth.uid())
      for no key update of s;
    if not found then
        raise exception 'Message % does not exist or is not yours', own_question.message_id using errcode = 'PT404';
    end if;
    select q.* into question
      from public.messages m
      join public.messages q on q.id = coalesce(m.reply_to, m.id)
     where m.id = own_question.message_id;
    return question;
end
$$;
comment on function bridge.own_question is
    'The caller''s question, by its own id or its reply''s, with the session locked.';

create function bridge.cancel_message(message_id uuid) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(cancel_message.message_id);
    job bridge.jobs;
begin
    select j.* into job from bridge.jobs j where j.question_id = question.id for update;
    if not found then
        return question.status;
    end if;
    return bridge.request_cancel(job);
end
$$;
comment on function bridge.cancel_message is 'See public.cancel_message.';

create function public.cancel_message(message_id uuid) returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.cancel_message(cancel_message.message_id);
end
$$;
comment on function public.cancel_message is
    'Stops the reply to one of your messages (by the id of the question or of the reply). Returns cancelled, cancelling (the worker has been asked to stop), or the status it had already ended with.';

create function bridge.retry_message(message_id uuid) returns text
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

create function public.retry_message(message_id uuid) returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.retry_message(retry_message.message_id);
end
$$;
comment on function public.retry_message is
    'Regenerates the reply to one of your messages (by the id of the question or of the reply). Returns queued, or the status of the attempt in progress.';
