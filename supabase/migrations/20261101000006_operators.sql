-- What operators ask: how it goes, and what becomes of the questions that were given up.

create function public.bridge_status() returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set statement_timeout = '5s'
as $$
begin
    return jsonb_build_object(
        'queued', (select count(*) from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'waiting', (select count(*) from bridge.jobs j where j.run_at is null),
        'retrying', (select count(*) from bridge.jobs j where j.worker is null and j.run_at > now()),
        'running', (select count(*) from bridge.jobs j where j.worker is not null),
        'oldest_seconds', (
            select coalesce(extract(epoch from now() - min(j.run_at)), 0)::float8
              from bridge.jobs j where j.worker is null and j.run_at <= now()),
        'dead_letters', (select count(*) from bridge.dead_letters),
        'workers', (
            select coalesce(jsonb_agg(jsonb_build_object(
                       'name', w.name, 'started_at', w.started_at, 'seen_at', w.seen_at,
                       'running', (select count(*) from bridge.jobs j where j.worker = w.name)) order by w.name), '[]')
              from bridge.workers w where w.seen_at > now() - greatest(w.lease, interval '30 seconds')),
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
comment on function public.bridge_status is 'The queue, the live workers and the last hour, for operators.';

create function public.bridge_dead_letters(max_rows int default 100) returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set statement_timeout = '5s'
as $$
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
                   'message_id', d.message_id, 'session_id', d.session_id, 'user_id', s.user_id,
                   'function', s.function, 'attempt', d.attempt, 'failures', d.failures, 'error', d.error,
                   'created_at', d.created_at,
                   'runs', (
                       select coalesce(jsonb_agg(to_jsonb(r) - 'message_id' order by r.attempt), '[]')
                         from bridge.runs r where r.message_id = d.message_id)
               ) order by d.created_at desc), '[]')
          from (
            select x.* from bridge.dead_letters x order by x.created_at desc limit bridge_dead_letters.max_rows
          ) d
          join public.sessions s on s.id = d.session_id);
end
$$;
comment on function public.bridge_dead_letters is
    'The questions that were given up, newest first, each with every attempt at it.';

create function public.bridge_dead_retry(message_ids uuid[] default null) returns int
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
as $$
declare
    question public.messages;
    letters uuid[];
    ready uuid[] := '{}';
    retried int := 0;
begin
    select array_agg(d.message_id) into letters from (
        select x.message_id from bridge.dead_letters x
         where bridge_dead_retry.message_ids is null or x.message_id = any (bridge_dead_retry.message_ids)
         order by x.id limit 500
    ) d;
    perform from public.sessions s
      where s.id in (select d.session_id from bridge.dead_letters d where d.message_id = any (letters))
      order by s.id for no key update;
    for question in
        select m.* from public.messages m
          join bridge.dead_letters d on d.message_id = m.id
         where d.message_id = any (letters)
           and not exists (select from bridge.jobs j where j.message_id = m.id)
         order by m.session_id, m.ordinal
    loop
        -- not charged: it was no fault of the user's
        if bridge.requeue(question, false) then
            ready := ready || question.id;
        end if;
        retried := retried + 1;
    end loop;
    perform bridge.announce_work(ready);
    return retried;
end
$$;
comment on function public.bridge_dead_retry is
    'Gives questions that were given up another set of attempts (null: the 500 oldest); returns how many.';

create function public.bridge_dead_drop(message_ids uuid[] default null) returns int
language plpgsql
security definer
set search_path = ''
set statement_timeout = '6s'
as $$
declare
    dropped int;
begin
    delete from bridge.dead_letters d
     where bridge_dead_drop.message_ids is null or d.message_id = any (bridge_dead_drop.message_ids);
    get diagnostics dropped = row_count;
    return dropped;
end
$$;
comment on function public.bridge_dead_drop is
    'Forgets dead letters (null: all of them); their messages stay failed. Returns how many.';

create function public.bridge_doctor() returns jsonb
language plpgsql
stable
security definer
set search_path = ''
set statement_timeout = '5s'
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
        'can_announce', has_function_privilege('realtime.send(jsonb, text, text, boolean)', 'execute'));
end
$$;
comment on function public.bridge_doctor is
    'What `bridge doctor` cannot see from outside: tables missing from the publication, the policy to run if it is missing, whether announcements can be sent.';

revoke all on function public.bridge_status, public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop,
    public.bridge_doctor
    from public, anon, authenticated;
grant execute on function public.bridge_status, public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop,
    public.bridge_doctor
    to service_role;
