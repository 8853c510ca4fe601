-- For operators: the state of the queue, and the questions that the worker gave up on.

create function public.bridge_status() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'queued', (select count(*) from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'waiting', (select count(*) from bridge.jobs j where j.run_at is null),
        'retrying', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status <> 'waiting' and m.run_at is null),
        'asking', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status = 'waiting'),
        'scheduled', (
            select count(*) from bridge.jobs j join public.messages m on m.id = j.question_id
             where j.worker is null and j.run_at > now() and m.status <> 'waiting' and m.run_at is not null),
        'running', (select count(*) from bridge.jobs j where j.worker is not null),
        'unknown_function', (
            select count(*) from bridge.jobs j
             where j.worker is null and j.run_at is not null and not exists (
                select from bridge.functions f where f.name = j.function and f.known_until > now())),
        'oldest_seconds', (
            select coalesce(extract(epoch from now() - min(j.run_at)), 0)::float8
              from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'dead_letters', (select count(*) from bridge.dead_letters),
        'workers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                       'name', w.name, 'started_at', w.started_at, 'seen_at', w.seen_at,
                       'running', (select count(*) from bridge.jobs j where j.worker = w.name)) order by w.name), '[]')
              from bridge.live_workers w),
        'last_hour', (
            select jsonb_build_object(
                       'done', count(*) filter (where r.outcome = 'done'),
                       'failed', count(*) filter (where r.outcome = 'failed'),
                       'cancelled', count(*) filter (where r.outcome = 'cancelled'),
                       'input_tokens', coalesce(sum(r.input_tokens), 0),
                       'output_tokens', coalesce(sum(r.output_tokens), 0))
              from bridge.runs r where r.created_at > now() - interval '1 hour'));
end
$$;
comment on function public.bridge_status is
    'The queue, the live workers and the last hour. asking: how many replies wait for an answer, a time or another reply; scheduled: how many questions for their run_at. unknown_function: how many questions wait for a function that no live worker knows.';

create function public.bridge_dead_letters(max_rows int default 100) returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'question_id', d.question_id, 'session_id', d.session_id, 'user_id', s.user_id,
                   'function', s.function, 'attempt', d.attempt, 'failures', d.failures, 'error', d.error,
                   'created_at', d.created_at,
                   'runs', (
                       select coalesce(jsonb_agg(to_jsonb(r) - 'question_id' order by r.attempt), '[]')
                         from bridge.runs r where r.question_id = d.question_id)
               ) order by d.created_at desc), '[]')
          from (
            select x.* from bridge.dead_letters x order by x.created_at desc limit bridge_dead_letters.max_rows
          ) d
          join public.sessions s on s.id = d.session_id);
end
$$;
comment on function public.bridge_dead_letters is
    'The questions that the worker gave up on, newest first, each with all its attempts.';

create function public.bridge_list_steps(question_id uuid) returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return (
        select jsonb_build_object(
                   'question_id', m.id, 'session_id', m.session_id, 'status', m.status, 'attempt', r.attempt,
                   'run_at', j.run_at, 'steps', (
                       select coalesce(jsonb_agg(to_jsonb(s) - 'question_id' - 'value' || jsonb_build_object(
                                  'bytes', coalesce(octet_length(s.value::text), 0)) order by s.ordinal), '[]')
                         from bridge.steps s where s.question_id = m.id))
          from public.messages m
          left join public.messages r on r.reply_to = m.id
          left join bridge.jobs j on j.question_id = m.id
         where m.id = coalesce(
            (select x.reply_to from public.messages x where x.id = bridge_list_steps.question_id),
            bridge_list_steps.question_id));
end
$$;
comment on function public.bridge_list_steps is
    'The steps of a question (by its own id or its reply''s) in their order, without what they gave, which may be the users''; null: there is no such question.';

create function public.bridge_dead_retry(question_ids uuid[] default null) returns int
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

create function public.bridge_dead_drop(question_ids uuid[] default null) returns int
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    dropped int;
begin
    delete from bridge.dead_letters d where d.id = any (array(
        select x.id from bridge.dead_letters x
         where bridge_dead_drop.question_ids is null or x.question_id = any (bridge_dead_drop.question_ids)
           for update skip locked));
    get diagnostics dropped = row_count;
    return dropped;
end
$$;
comment on function public.bridge_dead_drop is
    'Deletes dead letters (null: all of them); their messages stay failed. Returns how many.';

create function public.bridge_doctor() returns jsonb
language plpgsql stable security definer set search_path = '' set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'unpublished', (
            select coalesce(jsonb_agg(t.name order by t.name), '[]')
              from unnest(array['sessions', 'messages', 'code_files']) t (name)
             where not exists (
                select from pg_catalog.pg_publication_tables p
                 where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = t.name)),
        'topics_policy', case when not exists (
            select from pg_catalog.pg_policies p
             where p.schemaname = 'realtime' and p.tablename = 'messages' and p.policyname like 'bridge: %')
            then bridge.topics_policy() end,
        'storage', bridge.has_storage(),
        'attachments_bucket', bridge.check_bucket(),
        'attachments_access', case when to_regclass('storage.objects') is not null and not bridge.has_attachments_access()
            then bridge.attachments_access() end,
        'models', (select coalesce(jsonb_agg(m.name order by m.ordinal, m.name), '[]') from public.models m),
        'can_announce', has_function_privilege('realtime.send(jsonb, text, text, boolean)', 'execute'),
        'authenticated_statement_timeout', (
            select split_part(c.setting, '=', 2)
              from pg_catalog.pg_db_role_setting r
              join pg_catalog.pg_roles o on o.oid = r.setrole
             cross join unnest(r.setconfig) c (setting)
             where o.rolname = 'authenticated' and c.setting like 'statement\_timeout=%'
             order by r.setdatabase desc limit 1));
end
$$;
comment on function public.bridge_doctor is
    'What `bridge doctor` cannot see from outside: tables missing from the publication, the policies and the trigger to create if they are missing, whether there is Storage, what is wrong with its bucket `attachments`, the names of the models, whether broadcasts can be sent, and how long a request of a user may take.';
