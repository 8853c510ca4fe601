-- Steps: what a handler has done for a question, remembered under a name, so that the next attempt does not do it again.
--
--   attempt 1   plan ─▶ remembered   fetch ─▶ remembered   mail ─ its worker dies
--   attempt 2   plan ─ returns at once   fetch ─ returns at once   mail ─▶ remembered   ask ─▶ waiting, no worker
--   attempt 3   … after `answer_message`, or when the time is over
--
-- Every write of a step is fenced by (worker, attempt), as all writes of a worker are, and carries the reply as it was
-- shown then. So the next attempt keeps what finished steps have shown, and goes on behind it.
--
-- A job that waits for an answer, a time or another reply is a job without a worker, whose `run_at` is its deadline.

create function bridge.remember(job bridge.jobs, step jsonb, out state text, out steps int)
language plpgsql set search_path = ''
as $$
declare
    most_steps bigint;
    most_bytes bigint;
    most_bytes_of_all bigint;
    new_bytes int := coalesce(octet_length(step ->> 'value'), 0);
    all_bytes bigint;
    is_known boolean;
begin
    -- Counted in place of kept: the job's row is wide, and writing it with each step is a third of its log.
    select count(*), coalesce(sum(s.bytes), 0), bool_or(s.is_done) filter (where s.name = step ->> 'name')
      into steps, all_bytes, is_known
      from bridge.steps s where s.question_id = job.question_id;
    if is_known then
        -- sent again, as the answer was lost; or given at the deadline, by whoever the attempt no longer waits for
        state := case when step ->> 'kind' = 'failed' and exists (
            select from bridge.steps s
             where s.question_id = job.question_id and s.name = step ->> 'name' and s.kind <> 'failed')
            then 'given' else 'known' end;
        return;
    end if;
    select min(l.value) filter (where l.name = 'steps_per_message'),
           min(l.value) filter (where l.name = 'step_bytes'),
           min(l.value) filter (where l.name = 'steps_bytes')
      into most_steps, most_bytes, most_bytes_of_all
      from (
        select distinct on (x.name) x.name, x.value from bridge.limits x
         where x.name in ('steps_per_message', 'step_bytes', 'steps_bytes')
           and (x.user_id = job.user_id or x.user_id is null)
         order by x.name, x.user_id nulls last) l;
    if is_known is null and steps >= most_steps then
        state := 'too_many_steps';
        return;
    elsif new_bytes > most_bytes or all_bytes + new_bytes > most_bytes_of_all then
        state := 'step_too_large';
        return;
    end if;
    -- nobody else writes steps of a job that the caller holds, so the insert needs no `on conflict`
    if is_known is null then
        insert into bridge.steps (
            question_id, name, ordinal, kind, value, bytes, is_done, attempt, chars, parts, emitted_before, emitted, run)
        select job.question_id, s.name, s.ordinal, s.kind, s.value, new_bytes, s.kind <> 'begun', job.attempt,
               s.chars, s.n_parts, s.emitted_before, s.emitted, s.run
          from jsonb_to_record(step) s (
                   name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted_before int,
                   emitted int, run jsonb);
        steps := steps + 1;
    else  -- it has begun, or waited
        update bridge.steps k
           set ordinal = s.ordinal, kind = s.kind, value = s.value, bytes = new_bytes, is_done = s.kind <> 'begun',
               attempt = job.attempt, chars = s.chars, parts = s.n_parts, emitted = s.emitted, run = s.run
          from jsonb_to_record(step) s (
                   name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted int, run jsonb)
         where k.question_id = job.question_id and k.name = s.name;
    end if;
    if step ? 'seq' then
        perform bridge.write_checkpoints(jsonb_build_array(step));
    end if;
    state := 'ok';
end
$$;
comment on function bridge.remember is
    'Writes a step with the reply as it was shown then. `state` is ok, known (it was written before), given (somebody gave it while the worker found that nobody had), or the limit that refuses it; `steps` is how many there are then. The caller holds the job.';

create function public.bridge_step(worker text, steps jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    ids bigint[] := bridge.jobs_of(bridge_step.steps);
    -- nobody waits for a job that its user keeps locked, as in bridge_beat
    free bigint[] := array(
        select j.id from bridge.jobs j where j.id = any (ids) order by j.id for update skip locked);
    item jsonb;
    job bridge.jobs;
    remembered record;
    failed int;
    lease interval := coalesce(
        (select w.lease from bridge.workers w where w.name = bridge_step.worker), interval '30 seconds');
    state text;
    states jsonb := '{}';
    charges jsonb[] := '{}';
    owners jsonb := '{}';
begin
    set constraints all immediate;  -- so that a deferred trigger fails only its step, not all of them
    for item in select jsonb_array_elements(bridge_step.steps) loop
        select j.* into job from bridge.jobs j
         where j.question_id = (item ->> 'question_id')::uuid and j.worker is not distinct from bridge_step.worker
           and j.attempt = (item ->> 'attempt')::int;
        if not found then
            state := 'lost';
        elsif not job.id = any (free) then
            state := 'busy';
        elsif job.cancel then
            state := 'cancel';
        else
            begin
                remembered := bridge.remember(job, item);
                state := remembered.state;
            exception when others then
                if bridge.is_transient(sqlstate) then
                    raise;  -- not this step's fault: the worker sends all of them again
                end if;
                raise warning 'bridge_step: % of % refused: % %', item ->> 'name', job.question_id, sqlstate, sqlerrm;
                state := 'refused';
            end;
            if state = 'ok' then
                -- A finished step is progress: what failed before it does not count any more.
                failed := case when item ->> 'kind' = 'begun' then job.failures else 0 end;
                -- As by a beat, the lease is extended once a quarter has passed. Outside of the subtransaction, as the
                -- lock on the job is: otherwise Postgres would create a multixact.
                if job.steps = 0 or failed <> job.failures or not job.is_confirmed
                   or job.lease_until < now() + lease * 0.75
                then
                    update bridge.jobs j
                       set steps = remembered.steps, failures = failed, is_confirmed = true,
                           lease_until = greatest(j.lease_until, clock_timestamp() + lease)
                     where j.id = job.id;
                end if;
                if item ? 'run' then
                    charges := charges || ((item -> 'run') || jsonb_build_object('user_id', job.user_id));
                    owners := owners || jsonb_build_object(job.question_id, job.user_id);
                end if;
            elsif state = 'known' then
                state := 'ok';
            end if;
        end if;
        states := states || jsonb_build_object((item ->> 'question_id') || ' ' || (item ->> 'name'), state);
    end loop;
    if charges <> '{}' then
        perform bridge.charge_tokens(to_jsonb(charges));
    end if;
    return jsonb_build_object('results', states, 'used_up', (
        select coalesce(jsonb_agg(o.key), '[]') from jsonb_each_text(owners) o
         where not bridge.tokens_left(o.value::uuid)));
end
$$;
comment on function public.bridge_step is
    'Remembers steps [{question_id, attempt, name, ordinal, kind, value, chars, n_parts, emitted_before, emitted, run?, seq?, content?, parts?, data?}], each with the reply as it was shown then. Returns {results: {"question_id name": ok|lost|cancel|busy|given|too_many_steps|step_too_large|refused}, used_up: [question_id]}. busy: a user keeps it locked, send it again. given: somebody gave it in time, though the attempt did not see it: try again. used_up: of those with a run, the questions whose users have used up their tokens of the day.';

create function bridge.steps_of(question_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'name', s.name, 'ordinal', s.ordinal, 'kind', s.kind, 'value', s.value, 'is_done', s.is_done,
                   'is_due', coalesce(s.due_at <= now(), false), 'emitted_before', s.emitted_before,
                   'emitted', s.emitted) order by s.ordinal), '[]')
          from bridge.steps s where s.question_id = steps_of.question_id);
end
$$;
comment on function bridge.steps_of is
    'What attempts at a question have done [{name, ordinal, kind, value, is_done, is_due, emitted_before, emitted}], in their order.';

create function bridge.few_steps_of(job bridge.jobs) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    most_bytes constant int := 8192;
    steps jsonb;
begin
    if (select sum(s.bytes + 200) from bridge.steps s where s.question_id = job.question_id) <= most_bytes then
        steps := bridge.steps_of(job.question_id);
    end if;
    return case when octet_length(steps::text) <= most_bytes then jsonb_build_object('known', steps) else '{}' end;
end
$$;
comment on function bridge.few_steps_of is
    'The steps of a job as {known: [{name, …}]} for its payload, so that its worker need not call for them; {}: they are more than 8 KiB.';

create function public.bridge_steps(worker text, question_id uuid, attempt int) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
begin
    if not exists (
        select from bridge.jobs j
         where j.question_id = bridge_steps.question_id and j.worker is not distinct from bridge_steps.worker
           and j.attempt = bridge_steps.attempt)
    then
        return null;
    end if;
    return bridge.steps_of(bridge_steps.question_id);
end
$$;
comment on function public.bridge_steps is
    'What earlier attempts at a question have done [{name, ordinal, kind, value, is_done, is_due, emitted_before, emitted}], in their order; null: the caller does not hold it.';


-- parts --------------------------------------------------------------------------------------------

create function bridge.first_parts(parts jsonb, most int) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(p.value order by p.n) from jsonb_array_elements(first_parts.parts) with ordinality p (value, n)
         where p.n <= first_parts.most);
end
$$;
comment on function bridge.first_parts is 'The first parts of a reply; null: none.';

create function bridge.end_parts(parts jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(case
                   when p.value ->> 'state' in (
                       'input-streaming', 'input-available', 'approval-requested', 'approval-responded')
                   then p.value || '{"state": "output-error", "errorText": "Stopped."}'
                   when p.value ->> 'state' = 'streaming' then p.value || '{"state": "done"}'
                   else p.value end order by p.n)
          from jsonb_array_elements(end_parts.parts) with ordinality p (value, n));
end
$$;
comment on function bridge.end_parts is 'The parts of a reply that has ended: a tool that has not ended was stopped.';


-- waiting ------------------------------------------------------------------------------------------

create function bridge.wait(job bridge.jobs, waits jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    many int;
    until timestamptz;
begin
    insert into bridge.steps (
        question_id, name, ordinal, kind, value, is_done, attempt, chars, parts, emitted_before, emitted, due_at)
    select job.question_id, w.name, w.ordinal, w.kind, w.value, false, job.attempt, w.chars, w.n_parts,
           w.emitted_before, w.emitted,
           -- a deadline is compared and subtracted: it is never infinite
           now() + make_interval(secs => least(greatest(w.within_ms, 0), 7776000000) / 1000)
      from jsonb_to_recordset(wait.waits) w (
               name text, ordinal int, kind text, value jsonb, chars int, n_parts int, emitted_before int, emitted int,
               within_ms float8)
        -- one that waits since an earlier attempt, and may have been answered meanwhile, keeps its deadline
        on conflict on constraint steps_pkey do update
           set ordinal = excluded.ordinal, attempt = excluded.attempt, chars = excluded.chars, parts = excluded.parts,
               emitted = excluded.emitted;
    many := (select count(*) from bridge.steps s where s.question_id = job.question_id);
    if many > bridge.limit_of('steps_per_message', job.user_id) then
        raise exception 'too many steps' using errcode = '22023';
    elsif (select count(*) from bridge.steps s
            where s.question_id = job.question_id and not s.is_done and s.kind = 'ask') > 16 then
        raise exception 'more than 16 questions to the user at once' using errcode = '22023';
    end if;
    perform bridge.begin_children(job);
    select min(s.due_at) into until from bridge.steps s
     where s.question_id = job.question_id and not s.is_done and s.attempt = job.attempt;
    if until is null then  -- answered meanwhile
        perform bridge.set_status(job.question_id, 'queued');
    end if;
    update bridge.jobs j
       set worker = null, slot = null, lease_until = null, is_confirmed = true, failures = 0, failed_by = null,
           steps = many, run_at = coalesce(until, now())
     where j.id = job.id
    returning j.* into job;
    if until is not null then
        perform bridge.announce_due(job, until, '');
    end if;
end
$$;
comment on function bridge.wait is
    'Ends an attempt that waits for [{name, ordinal, kind, value, chars, n_parts, emitted_before, emitted, within_ms}]: its job has no worker until one of them is due or all are done. The caller holds session and job.';

create function bridge.wake(job bridge.jobs) returns boolean
language plpgsql set search_path = ''
as $$
begin
    -- a worker that holds it finds out when its attempt ends
    if job.worker is not null or exists (
        select from bridge.steps s
         where s.question_id = job.question_id and not s.is_done and s.due_at > now()
           and s.attempt = job.attempt)  -- not what only an earlier attempt has waited for
    then
        return false;
    end if;
    perform bridge.set_status(job.question_id, 'queued');
    update bridge.jobs j set run_at = now() where j.id = job.id;
    return true;
end
$$;
comment on function bridge.wake is
    'Makes a waiting job ready if nothing of what it waits for is open; the caller holds session and job, and dispatches it.';

create function bridge.answer_message(message_id uuid, ask text, answer jsonb) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    question public.messages := bridge.own_question(answer_message.message_id);
    job bridge.jobs;
    step bridge.steps;
    reply public.messages;
begin
    select j.* into job from bridge.jobs j where j.question_id = question.id for update;
    if not found then
        return question.status;
    end if;
    if octet_length(answer_message.answer::text) > 32768 then
        raise exception 'The answer is too long: % bytes (limit 32768)', octet_length(answer_message.answer::text)
            using errcode = 'PT413', hint = 'Shorten it.';
    elsif not (jsonb_typeof(answer_message.answer) = 'object' and bridge.is_readable(answer_message.answer)) then
        raise exception 'The answer must be a JSON object of at most 32 levels'
            using errcode = 'PT400', hint = 'Send {"approved": true}, for example.';
    end if;
    select s.* into step from bridge.steps s
     where s.question_id = question.id and s.name = answer_message.ask
       and (s.kind = 'ask' or (s.kind = 'failed' and s.due_at is not null));
    if not found then
        raise exception 'Message % has no question %', answer_message.message_id, left(answer_message.ask, 200)
            using errcode = 'PT404', hint = 'Answer by the name in its part''s approval.';
    elsif step.kind = 'failed' then
        return 'late';
    elsif step.is_done then
        return 'answered';
    elsif step.due_at <= now() then
        return 'late';
    end if;
    update bridge.steps s set is_done = true, value = coalesce(answer_message.answer, '{}')
     where s.question_id = question.id and s.name = step.name;
    update public.messages m
       set parts = bridge.answer_parts(m.parts, step.name, answer_message.answer), updated_at = clock_timestamp()
     where m.reply_to = question.id and m.parts is not null
    returning m.* into reply;
    if bridge.wake(job) then
        perform bridge.dispatch(array[question.id]);
    elsif reply.id is not null then  -- its status stays, so no trigger announces the row
        perform bridge.announce('session:' || question.session_id, 'message', bridge.event_payload(to_jsonb(reply)));
    end if;
    return 'taken';
end
$$;
comment on function bridge.answer_message is 'See public.answer_message.';

create function bridge.answer_parts(parts jsonb, ask text, answer jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return (
        select jsonb_agg(case
                   when p.value ->> 'toolCallId' = answer_parts.ask and p.value ->> 'state' = 'approval-requested'
                   then p.value || jsonb_build_object('state', 'approval-responded', 'approval', jsonb_build_object(
                       'id', answer_parts.ask, 'approved', answer_parts.answer -> 'approved' is not distinct from 'true'))
                   else p.value end order by p.n)
          from jsonb_array_elements(answer_parts.parts) with ordinality p (value, n));
end
$$;
comment on function bridge.answer_parts is 'The parts of a reply with the user''s answer to one of its questions.';

create function bridge.keep_answers(question_id uuid, parts jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    step record;
begin
    if keep_answers.parts @> '[{"state": "approval-requested"}]' then
        for step in
            select s.name, s.value from bridge.steps s
             where s.question_id = keep_answers.question_id and s.kind = 'ask' and s.is_done
        loop
            keep_answers.parts := bridge.answer_parts(keep_answers.parts, step.name, step.value);
        end loop;
    end if;
    return keep_answers.parts;
end
$$;
comment on function bridge.keep_answers is
    'The parts that a worker writes, with the answers that its attempt does not know of. The caller holds the job.';

create function public.answer_message(message_id uuid, ask text, answer jsonb default '{}') returns text
language plpgsql set search_path = '' set statement_timeout = '5s'
as $$
begin
    return bridge.answer_message(answer_message.message_id, answer_message.ask, answer_message.answer);
end
$$;
comment on function public.answer_message is
    'Answers a question that a reply asks you (by the id of the question or of the reply, and the name in the part''s approval). Returns taken, answered (somebody was first), late, or the status the reply had already ended with.';


-- other replies ------------------------------------------------------------------------------------

create function bridge.begin_children(job bridge.jobs) returns void
language plpgsql set search_path = ''
as $$
declare
    step bridge.steps;
    depth int := 0;
    above uuid := job.session_id;
begin
    if not exists (
        select from bridge.steps s
         where s.question_id = job.question_id and s.kind = 'run' and not s.is_done and s.value ? 'session_id')
    then
        return;
    end if;
    -- a request of the user may keep the user's counters locked, and nobody waits for that
    perform from bridge.rates r where r.user_id = job.user_id for update skip locked;
    if not found and exists (select from bridge.rates r where r.user_id = job.user_id) then
        raise lock_not_available using message = format('The counters of user %s are locked', job.user_id);
    end if;
    loop
        above := (
            select m.session_id from public.sessions s join public.messages m on m.id = s.parent where s.id = above);
        exit when above is null or depth > 3;
        depth := depth + 1;
    end loop;
    for step in
        select s.* from bridge.steps s
         where s.question_id = job.question_id and s.kind = 'run' and not s.is_done and s.value ? 'session_id'
         order by s.name
    loop
        begin
            if depth >= 3 then
                raise exception 'A reply that another one asked for may not ask for more than two further ones, one inside the other'
                    using errcode = 'PT400';
            end if;
            insert into public.sessions (id, user_id, title, function, parent)
            values ((step.value ->> 'session_id')::uuid, job.user_id, left(step.name, 200), step.value ->> 'function',
                    job.question_id)
            on conflict (id) do nothing;
            insert into public.messages (id, session_id, content, data)
            values ((step.value ->> 'question_id')::uuid, (step.value ->> 'session_id')::uuid, step.value ->> 'message',
                    nullif(step.value -> 'data', 'null'))
            on conflict (id) do nothing;
            if not exists (
                select from public.messages m join public.sessions s on s.id = m.session_id
                 where m.id = (step.value ->> 'question_id')::uuid and s.parent = job.question_id)
            then
                -- the user has computed the ids, and would answer in the function's place
                raise exception 'Another session has the id of the question' using errcode = 'PT409';
            end if;
            update bridge.steps s set value = jsonb_build_object('question_id', step.value -> 'question_id')
             where s.question_id = job.question_id and s.name = step.name;
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            raise warning 'bridge: % of % not begun: % %', step.name, job.question_id, sqlstate, sqlerrm;
            -- A limit of the user, or an argument that cannot be: the handler learns why. What else Postgres says may
            -- have values of rows in it.
            update bridge.steps s
               set is_done = true, value = jsonb_build_object('status', 'failed', 'error', jsonb_build_object(
                       'code', 'not_begun', 'message', case when sqlstate ~ '^PT' then sqlerrm
                           else 'The question could not be asked.' end))
             where s.question_id = job.question_id and s.name = step.name;
        end;
    end loop;
end
$$;
comment on function bridge.begin_children is
    'Asks the questions that a job waits for: each in a session of its own, whose parent is the question. The caller holds session and job.';

create function bridge.note_child(job bridge.jobs) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.ended_children (question_id, parent)
    select job.question_id, s.parent from public.sessions s where s.id = job.session_id and s.parent is not null
    on conflict do nothing;
end
$$;
comment on function bridge.note_child is 'Notes that a question of a handler has ended.';

create function bridge.wake_parents() returns void
language plpgsql set search_path = '' set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    child record;
    job bridge.jobs;
    woken uuid[] := '{}';
    reply jsonb;
    is_woken boolean;
begin
    for child in
        select c.question_id, c.parent from bridge.ended_children c
         order by c.question_id limit 32 for update skip locked
    loop
        -- whatever is locked is left to another claim
        perform from public.sessions s
          join public.messages m on m.session_id = s.id
          where m.id = child.parent for no key update of s skip locked;
        if not found then
            continue when exists (select from public.messages m where m.id = child.parent);
        else
            select j.* into job from bridge.jobs j where j.question_id = child.parent for update skip locked;
            continue when not found and exists (select from bridge.jobs j where j.question_id = child.parent);
            reply := coalesce((
                select jsonb_build_object('status', r.status, 'content', r.content, 'data', r.data, 'error', r.error)
                  from public.messages r where r.reply_to = child.question_id), '{"status": "cancelled"}');
            if octet_length(reply::text) > 1048576 then  -- see steps_value_size
                reply := '{"status": "failed", "error": {"code": "too_large", "message": "The reply is too long."}}';
            end if;
            -- also of one that has failed meanwhile: it may be tried again
            update bridge.steps s set is_done = true, value = reply
             where s.question_id = child.parent and s.kind = 'run' and not s.is_done
               and s.value ->> 'question_id' = child.question_id::text;
            if found and job.id is not null then
                begin
                    is_woken := bridge.wake(job);
                exception when others then
                    if bridge.is_transient(sqlstate) then
                        raise;
                    end if;
                    -- a trigger of the project refuses its status: no other claim fails because of that
                    raise warning 'bridge: % cannot be woken: % %', child.parent, sqlstate, sqlerrm;
                    update bridge.jobs j set run_at = now() where j.id = job.id and j.worker is null;
                    is_woken := found;
                end;
                if is_woken then
                    woken := woken || child.parent;
                end if;
            end if;
        end if;
        delete from bridge.ended_children c where c.question_id = child.question_id;
    end loop;
    perform bridge.dispatch(woken);
end
$$;
comment on function bridge.wake_parents is
    'Gives the replies to questions of handlers to those that wait for them, and makes these ready. It waits for no lock.';

create function bridge.cancel_children(parent uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    job bridge.jobs;
begin
    for job in
        select j.* from public.sessions s
         cross join lateral (
            select h.* from bridge.jobs h where h.session_id = s.id and h.run_at is not null for update skip locked) j
         where s.parent = cancel_children.parent
    loop
        perform from public.sessions s where s.id = job.session_id for no key update skip locked;
        if found then
            perform bridge.request_cancel(job);
        end if;
    end loop;
end
$$;
comment on function bridge.cancel_children is
    'Cancels what a handler has asked for whose reply is cancelled; what is locked goes on in vain.';
