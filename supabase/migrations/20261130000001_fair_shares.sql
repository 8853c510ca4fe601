-- No user can stall, ruin or blind the others: no write waits for a lock that a user may hold, claims are fair, every
-- attempt is charged, and there are limits to how fast a user changes rows.

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

update public.sessions s
   set function = left(regexp_replace(
           s.function, '[\u0001-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]', '?', 'g'), 128)
 where s.function ~ '[\u0001-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]';
alter table public.sessions add constraint sessions_function_printable check (
    function !~ '[\u0001-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]');

alter table bridge.jobs add column failed_by text;
comment on column bridge.jobs.failed_by is
    'The worker whose attempt failed last: another one, if there is one, makes the next.';
-- To find the users who wait, one after the other, however many questions each has. Condition: as that of
-- jobs_ready_by_function.
create index jobs_ready_by_user on bridge.jobs (function, user_id, run_at, id)
    where worker is null and function is not null;

alter table bridge.workers add column failing text[] not null default '{}';
comment on column bridge.workers.failing is
    'Those of its functions whose model was out of order when it was last asked: other workers are better at them.';

create table bridge.titles (
    session_id uuid primary key references public.sessions (id) on delete cascade,
    tries int not null default 1,
    charged int not null default 0,
    is_named boolean not null default false,
    constraint titles_tries check (tries >= charged)
);
comment on table bridge.titles is
    'Sessions for which a model was asked for a title. It is asked until it has given one, three times at most.';
comment on column bridge.titles.charged is 'The last try whose tokens were charged: repeating a call charges nothing.';

revoke all on bridge.titles from public, anon, authenticated, service_role;

create table bridge.rates (
    user_id uuid primary key references auth.users (id) on delete cascade,
    minute_at timestamptz not null default now(),
    messages int not null default 0,
    sessions int not null default 0,
    changes int not null default 0
) with (fillfactor = 50);
comment on table bridge.rates is
    'What a user has done in the minute that began at minute_at. A request of the user may keep its row locked: only the user''s own requests touch it.';
comment on column bridge.rates.changes is 'Sessions changed or deleted; files written, changed or deleted.';

revoke all on bridge.rates from public, anon, authenticated, service_role;

alter table bridge.usage drop column minute_at, drop column messages;
comment on table bridge.usage is
    'The tokens that a user has used on the (UTC) day. Only workers lock its rows, and only for a moment.';

alter table bridge.limits drop constraint limits_name;
alter table bridge.limits add constraint limits_name check (name in (
        'messages_per_minute', 'sessions_per_minute', 'changes_per_minute', 'unfinished_replies', 'running_replies',
        'tokens_per_day', 'sessions', 'files_per_session', 'versions_per_file', 'message_bytes', 'file_bytes'));
insert into bridge.limits (name, value) values
    ('sessions_per_minute', 30), ('changes_per_minute', 300), ('running_replies', 8);
-- it had no default: set it to null again if that is what you want
update bridge.limits l set value = 1000000
 where l.name = 'tokens_per_day' and l.user_id is null and l.value is null;


-- functions that are replaced by others ----------------------------------------------------------

drop trigger check_sessions on public.sessions;
drop function bridge.check_sessions();
drop function bridge.heartbeat(text, int, text[]);
drop function bridge.take_ready(timestamptz, text[], text[], timestamptz, int);
drop function public.bridge_claim(text, int, uuid[], int, int, text[]);
drop function public.bridge_finish(text, jsonb);

-- limits ------------------------------------------------------------------------------------------

create or replace function bridge.refuse(message text, name text, value bigint, ends_at timestamptz default null) returns void
language plpgsql set search_path = ''
as $$
begin
    raise exception '%', refuse.message using
        errcode = 'PT429',
        detail = jsonb_strip_nulls(jsonb_build_object(
            'limit', refuse.name, 'value', refuse.value, 'ends_at', refuse.ends_at))::text,
        hint = case when refuse.ends_at is null then 'Wait for a reply to finish, or delete something.'
            else format('Try again in %s s.', greatest(1, ceil(extract(epoch from refuse.ends_at - now()))::int)) end;
end
$$;
comment on function bridge.refuse is 'Raises HTTP 429 with the limit and when it ends.';

create function bridge.count_rate(user_id uuid, name text) returns void
language plpgsql set search_path = ''
as $$
declare
    used bridge.rates;
    counted int;
    most bigint := bridge.limit_of(count_rate.name || '_per_minute', count_rate.user_id);
begin
    -- the row's lock makes concurrent requests of one user wait for each other, and no others
    insert into bridge.rates as r (user_id, messages, sessions, changes)
    select u.id, (count_rate.name = 'messages')::int, (count_rate.name = 'sessions')::int,
           (count_rate.name = 'changes')::int
      from auth.users u where u.id = count_rate.user_id
    on conflict on constraint rates_pkey do update
       set messages = case when r.minute_at > now() - interval '1 minute' then r.messages else 0 end + excluded.messages,
           sessions = case when r.minute_at > now() - interval '1 minute' then r.sessions else 0 end + excluded.sessions,
           changes = case when r.minute_at > now() - interval '1 minute' then r.changes else 0 end + excluded.changes,
           minute_at = case when r.minute_at > now() - interval '1 minute' then r.minute_at else now() end
    returning * into used;
    counted := case count_rate.name
        when 'messages' then used.messages when 'sessions' then used.sessions else used.changes end;
    if counted > most then
        perform bridge.refuse(format('Rate limit: %s %s per minute', most, count_rate.name),
                              count_rate.name || '_per_minute', most, used.minute_at + interval '1 minute');
    end if;
end
$$;
comment on function bridge.count_rate is
    'Counts one of `messages`, `sessions` or `changes` in a user''s minute, or refuses it.';

create function bridge.tokens_left(user_id uuid) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return not exists (
        select from bridge.usage u
         where u.user_id = tokens_left.user_id and u.day = (now() at time zone 'utc')::date
           and u.tokens >= bridge.limit_of('tokens_per_day', tokens_left.user_id));
end
$$;
comment on function bridge.tokens_left is 'Whether a user has not used up the tokens of this day.';

create or replace function bridge.charge(user_id uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    most bigint;
begin
    perform bridge.count_rate(charge.user_id, 'messages');
    most := bridge.limit_of('unfinished_replies', charge.user_id);
    if most is not null and (select count(*) from bridge.jobs j where j.user_id = charge.user_id) >= most then
        perform bridge.refuse(format('Too many replies in progress (limit %s)', most), 'unfinished_replies', most);
    end if;
    if not bridge.tokens_left(charge.user_id) then
        most := bridge.limit_of('tokens_per_day', charge.user_id);
        perform bridge.refuse(format('Daily limit reached: %s tokens', most), 'tokens_per_day', most,
                              ((now() at time zone 'utc')::date + 1)::timestamp at time zone 'utc');
    end if;
end
$$;
comment on function bridge.charge is 'Counts a question of a user, or refuses it.';

create or replace function bridge.charge_tokens(runs jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
    spent record;
begin
    -- In one order, and after every other lock. A user who is being deleted pays nothing: nobody waits for that.
    for spent in
        select r.user_id, sum(coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0)) as tokens
          from jsonb_to_recordset(charge_tokens.runs) r (user_id uuid, input_tokens bigint, output_tokens bigint)
         group by r.user_id order by r.user_id
    loop
        continue when spent.tokens <= 0;
        perform from auth.users x where x.id = spent.user_id for key share skip locked;
        continue when not found;
        insert into bridge.usage as u (user_id, tokens) values (spent.user_id, spent.tokens)
        on conflict on constraint usage_pkey do update
           set tokens = case when u.day = excluded.day then u.tokens else 0 end + excluded.tokens,
               day = excluded.day;
    end loop;
end
$$;
comment on function bridge.charge_tokens is 'Counts the tokens of runs [{user_id, input_tokens?, output_tokens?}] for today.';

create function bridge.admit_session() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('sessions', new.user_id);
begin
    -- its size before anything looks into it: that could take seconds
    if (tg_op = 'INSERT' or new.metadata is distinct from old.metadata)
       and (pg_column_size(new.metadata) > 65536 or octet_length(new.metadata::text) > 16384)
    then
        -- as sessions_metadata_object, which comes after all triggers
        raise exception '"metadata" must be a JSON object of at most 16384 bytes (16 KiB)' using errcode = '23514';
    end if;
    if tg_op = 'UPDATE' then
        return new;
    end if;
    if auth.uid() is not null then
        perform bridge.count_rate(auth.uid(), 'sessions');
    elsif most is not null then
        -- the lock keeps concurrent inserts for this user from counting past each other
        insert into bridge.rates as r (user_id) select x.id from auth.users x where x.id = new.user_id
        on conflict on constraint rates_pkey do update set messages = r.messages;
    end if;
    if (select count(*) from public.sessions s where s.user_id = new.user_id) >= most then
        perform bridge.refuse(format('Too many sessions (limit %s)', most), 'sessions', most);
    end if;
    return new;
end
$$;
comment on function bridge.admit_session is
    'Refuses a session beyond the limits: how many a user has and opens in a minute, and how large its metadata is.';

create function bridge.count_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- not what a worker or an administrator does, or a trigger of the project
    if auth.uid() is null or pg_trigger_depth() > 1 then
        return null;
    end if;
    if tg_table_name = 'code_files' and tg_op = 'DELETE' then
        if not exists (select from public.sessions s where s.id = old.session_id) then
            return null;  -- the deletion of the session takes its files with it, and is counted itself
        end if;
    end if;
    perform bridge.count_rate(auth.uid(), 'changes');
    return null;
end
$$;
comment on function bridge.count_change is 'Counts a row that a user has changed, or refuses it.';

-- guards ------------------------------------------------------------------------------------------

create or replace function bridge.check_json() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    value jsonb;
begin
    -- not `to_jsonb(new) -> tg_argv[0]`, which copies the whole row
    if tg_argv[0] = 'metadata' then
        value := new.metadata;
    else
        value := new.data;
    end if;
    if not bridge.is_readable(value) then
        raise exception '"%" is nested too deeply or contains a number that is too large', tg_argv[0]
            using errcode = 'PT400', hint = 'Use at most 32 levels and numbers up to 1e308. Send larger numbers as text.';
    end if;
    return new;
end
$$;
comment on function bridge.check_json is 'Trigger argument (column): refuses JSON that a worker could not read.';

create function bridge.forget_broadcasts(session_ids uuid[], most_bytes bigint default null) returns int
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
    select coalesce(sum(pg_relation_size(i.inhrelid)), 0) into bytes
      from pg_catalog.pg_inherits i where i.inhparent = 'realtime.messages'::regclass;
    if bytes > forget_broadcasts.most_bytes then
        return 0;
    end if;
    delete from realtime.messages m where m.topic = any (topics);
    get diagnostics forgotten = row_count;
    delete from realtime.messages m where m.event = 'session' and m.topic ^@ 'user:' and m.payload ->> 'id' = any (ids);
    get diagnostics more = row_count;
    return forgotten + more;
exception when others then
    raise warning 'bridge.forget_broadcasts: %', sqlerrm;
    return 0;
end
$$;
comment on function bridge.forget_broadcasts is
    'Deletes what Realtime has stored of broadcasts about sessions (for three days), and returns how many. There is no index to find them by: if the table is larger than `most_bytes`, it does nothing.';

create or replace function bridge.note_deleted() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if tg_table_name = 'sessions' then
        insert into bridge.deleted_ids (id) select d.id from deleted d order by d.id on conflict do nothing;
        -- at once where that takes a moment, otherwise bridge_trim does it
        perform bridge.forget_broadcasts(array(select d.id from deleted d), 33554432);
    else
        -- a week: Supabase's tokens do not live longer, and no reply takes as long
        insert into bridge.deleted_ids (id)
        select d.id from deleted d where d.role = 'user' and d.updated_at > now() - interval '7 days' order by d.id
        on conflict do nothing;
    end if;
    perform bridge.forget_ids(500);
    return null;
end
$$;
comment on function bridge.note_deleted is 'Keeps the ids of deleted sessions and questions for a week, and forgets what was broadcast about the sessions.';

-- jobs --------------------------------------------------------------------------------------------

create or replace function bridge.end_job(job bridge.jobs, status text, error jsonb default null, reply jsonb default null)
returns void
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
    delete from bridge.jobs j where j.id = job.id;
end
$$;
comment on function bridge.end_job is
    'The only way a job ends: reply and question get the status, the job is deleted. A failed job is deleted even if a trigger refuses its rows. The caller holds session and job.';

create or replace function bridge.request_cancel(job bridge.jobs) returns text
language plpgsql set search_path = ''
as $$
begin
    if job.worker is not null and job.lease_until >= now() then
        if not job.cancel then
            update bridge.jobs j set cancel = true where j.id = job.id;
            perform bridge.announce('bridge:inbox', 'cancel', jsonb_build_object('question_id', job.question_id));
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

-- code_files --------------------------------------------------------------------------------------

create or replace function bridge.write_file(
    job bridge.jobs, reply_id uuid, path text, content text, language text, revision int
) returns void
language plpgsql set search_path = ''
as $$
declare
    file public.code_files;
begin
    for round in 1 .. 5 loop
        select f.* into file from public.code_files f
         where f.session_id = job.session_id and f.path = write_file.path for update nowait;
        exit when found;
        -- A user who renames a file takes no lock on the session. The insert waits for a concurrent rename and then
        -- finds the path taken; the next round finds the file that took it.
        insert into public.code_files (session_id, path, content, language, message_id)
        values (job.session_id, write_file.path, write_file.content, write_file.language, write_file.reply_id)
            on conflict on constraint code_files_session_path_key do nothing;
        if found then
            return;
        end if;
    end loop;
    if file.id is null then
        raise exception 'the path keeps being taken and freed' using errcode = '23505';
    end if;
    if file.revision = write_file.revision or file.message_id = write_file.reply_id then
        update public.code_files f
           set content = write_file.content, language = coalesce(write_file.language, f.language),
               message_id = write_file.reply_id
         where f.id = file.id;
    elsif file.content <> write_file.content then
        -- the user edited it, or added it, meanwhile: the user's text stays
        insert into public.code_file_versions
            (file_id, session_id, path, content, language, revision, conflict, message_id)
        values (file.id, file.session_id, file.path, write_file.content, write_file.language,
                coalesce(write_file.revision, 0), true, write_file.reply_id);
        perform bridge.announce('session:' || file.session_id, 'file',
                                bridge.event_payload(to_jsonb(file)) || jsonb_build_object('conflict', true));
    end if;
end
$$;
comment on function bridge.write_file is
    'Writes a file of a reply; `revision` is the one that the reply started from. If the user changed the file since, the reply''s text becomes a version marked as a conflict.';

create or replace function bridge.write_files(job bridge.jobs, files jsonb) returns text
language plpgsql set search_path = ''
set lock_timeout = '50ms'  -- for a path that the user is adding; what the user has locked is not waited for
as $$
declare
    reply_id uuid := (select m.id from public.messages m where m.reply_to = job.question_id);
    file jsonb;
    refused text[] := '{}';
begin
    -- in one order, as they are locked
    for file in
        select f.value from jsonb_array_elements(write_files.files) f order by f.value ->> 'path'
    loop
        begin
            perform bridge.write_file(
                job, reply_id, file ->> 'path', file ->> 'content', file ->> 'language', (file ->> 'revision')::int);
        exception when others then
            if bridge.is_transient(sqlstate) then
                raise;
            end if;
            refused := refused || format('%s: %s', left(file ->> 'path', 80), sqlerrm);
        end;
    end loop;
    return nullif(array_to_string(refused, '; '), '');
end
$$;
comment on function bridge.write_files is
    'Writes the files [{path, content, language?, revision?}] of a reply. A refused file does not affect the others. Returns which were refused, and why.';

-- fleet -------------------------------------------------------------------------------------------

create function bridge.heartbeat(
    worker text, lease_seconds int default null, functions text[] default null, failing text[] default '{}'
) returns interval
language plpgsql set search_path = ''
as $$
declare
    me bridge.workers;
begin
    -- a worker counts as live for half a minute at least: a write every few seconds is enough
    select w.* into me from bridge.workers w
     where w.name = heartbeat.worker and w.seen_at > now() - interval '5 seconds'
       and (heartbeat.lease_seconds is null
            or (w.lease = make_interval(secs => heartbeat.lease_seconds)
                and w.functions is not distinct from heartbeat.functions
                and w.failing = heartbeat.failing));
    if not found then
        delete from bridge.workers w where w.seen_at < now() - interval '1 day';
        insert into bridge.workers as w (name, lease, functions, failing)
        values (heartbeat.worker, make_interval(secs => coalesce(heartbeat.lease_seconds, 30)), heartbeat.functions,
                heartbeat.failing)
        on conflict (name) do update
           set seen_at = now(),
               lease = case when heartbeat.lease_seconds is null then w.lease else excluded.lease end,
               functions = case when heartbeat.lease_seconds is null then w.functions else excluded.functions end,
               failing = case when heartbeat.lease_seconds is null then w.failing else excluded.failing end
        returning w.* into me;
        -- as long as bridge.live_workers counts it
        perform bridge.note_functions(
            me.functions, now() + least(greatest(me.lease, interval '30 seconds'), interval '5 minutes'));
    end if;
    return me.lease;
end
$$;
comment on function bridge.heartbeat is
    'Records that a worker is alive and, from a claim (with lease_seconds), what it answers; returns the length of its leases.';

create function bridge.answered_elsewhere(worker text) returns text[]
language plpgsql stable set search_path = ''
as $$
begin
    return array(
        select distinct f.name
          from bridge.workers w
          join bridge.live_workers l on l.name = w.name
         cross join unnest(w.functions) f (name)
         where w.name <> answered_elsewhere.worker and f.name <> all (w.failing));
end
$$;
comment on function bridge.answered_elsewhere is
    'The functions that other live workers answer, as far as these do not fail there.';

-- claim -------------------------------------------------------------------------------------------

create or replace function bridge.open_attempt(
    job bridge.jobs, history int, is_new boolean default false, taken_over boolean default false
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    opened jsonb;
    is_used_up boolean := false;
begin
    if is_new and not job.cancel then
        set constraints all immediate;  -- so that a deferred trigger fails only this job, not the whole claim
        insert into public.messages as m (session_id, ordinal, role, status, reply_to, attempt)
        values (job.session_id, job.ordinal + 1, 'assistant', 'running', job.question_id, job.attempt)
        on conflict on constraint messages_reply_to_key do update
           set status = 'running', attempt = excluded.attempt, content = '', data = null, seq = 0, error = null,
               updated_at = clock_timestamp();
        update public.messages m set status = 'running', error = null, updated_at = clock_timestamp()
         where m.id = job.question_id and m.status <> 'running';
        -- there were some left when it was asked, and the replies before it have used them up
        is_used_up := not bridge.tokens_left(job.user_id);
    end if;
    opened := bridge.payload(job, open_attempt.history, open_attempt.taken_over);
    if is_used_up then
        opened := opened || jsonb_build_object('used_up', true);
    end if;
    if not (bridge.is_readable(opened -> 'data') and bridge.is_readable(opened #> '{session,metadata}')) then
        raise exception 'unreadable data or session metadata' using errcode = '22023';
    end if;
    return opened;
exception when others then
    if bridge.is_transient(sqlstate) then
        raise;  -- not this job's fault: the worker repeats the claim
    end if;
    -- only this job is affected; its worker finishes it as failed
    return jsonb_build_object(
        'question_id', job.question_id, 'attempt', job.attempt, 'failures', job.failures,
        'cancel', job.cancel, 'taken_over', open_attempt.taken_over, 'broken', sqlstate || ' ' || sqlerrm);
end
$$;
comment on function bridge.open_attempt is
    'Returns the job''s payload, or {…, broken} if that fails. For a new attempt, it first opens the reply row.';

create function bridge.estimate_tokens(job bridge.jobs, out input_tokens int, out output_tokens int)
language plpgsql stable set search_path = ''
as $$
begin
    -- four bytes a token, and no more context than a claim brings
    input_tokens := (
        coalesce((select octet_length(m.content) + coalesce(octet_length(m.data::text), 0)
                    from public.messages m where m.id = job.question_id), 0)
        + least(262144, coalesce((
            select sum(octet_length(m.content)) from public.messages m
             where m.session_id = job.session_id and m.ordinal < job.ordinal and m.status in ('done', 'cancelled')), 0))
        + least(524288, coalesce((
            select sum(octet_length(f.content)) from public.code_files f where f.session_id = job.session_id), 0))) / 4;
    output_tokens := coalesce((
        select octet_length(m.content) from public.messages m where m.reply_to = job.question_id), 0) / 4;
end
$$;
comment on function bridge.estimate_tokens is 'About how many tokens an attempt cost that nobody reports.';

create function bridge.record_lost(jobs bigint[]) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.runs (question_id, attempt, worker, outcome, function, input_tokens, output_tokens)
    select j.question_id, j.attempt, j.worker, 'lost', j.function, e.input_tokens, e.output_tokens
      from bridge.jobs j cross join lateral bridge.estimate_tokens(j) e
     where j.id = any (record_lost.jobs)
        on conflict do nothing;
end
$$;
comment on function bridge.record_lost is
    'Records the attempts of jobs whose leases have ended as lost, with an estimate of what they cost.';

create or replace function bridge.take_expired(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    expired bigint[] := array(
        select c.id from (
            select h.id, h.lease_until from bridge.jobs h
             where h.worker is not null and h.run_at >= take_expired.horizon
               and h.worker <> take_expired.worker and h.lease_until < now()
               -- one that was cancelled needs no function to end
               and (take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                    or (h.function <> all (take_expired.known) and h.run_at <= take_expired.due))
             order by h.run_at, h.id) c
         order by c.lease_until);
    taken bigint[];
begin
    if expired = '{}' then
        return expired;
    end if;
    -- Each by its id, and in a form that only the primary keys fit: a plan made for a short queue takes any index, and
    -- its connection keeps it.
    select coalesce(array_agg(r.id), '{}') into taken from (
        select j.id from unnest(expired) with ordinality e (id, n)
         cross join lateral (
            select h.id, h.session_id from bridge.jobs h
             where h.id = e.id
               and case when take_expired.functions is null or h.cancel or h.function = any (take_expired.functions)
                             or h.function <> all (take_expired.known)
                        then h.worker <> take_expired.worker and h.lease_until < now() end
               for update skip locked) j
         cross join lateral (
            select from public.sessions s where s.id = j.session_id for key share skip locked) s
         order by e.n limit take_expired.slots
    ) r;
    perform bridge.record_lost(taken);
    return taken;
end
$$;
comment on function bridge.take_expired is
    'Locks up to `slots` jobs whose lease with another worker has ended and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`; records those attempts as lost.';

create function bridge.waiting_users(functions text[], most int, jobs_each int, horizon timestamptz) returns bigint[]
language plpgsql stable set search_path = ''
set enable_sort = off  -- so that only jobs_ready_by_user fits
as $$
declare
    start uuid := gen_random_uuid();  -- if more users wait than are looked at, each claim looks at others
    wanted text;
    last uuid;
    next uuid;
    looked int;
    found_jobs bigint[] := '{}';
begin
    foreach wanted in array waiting_users.functions loop
        looked := 0;
        -- from `start` to the last user, then from the first one to `start`
        for part in 1 .. 2 loop
            last := case part when 1 then start else '00000000-0000-0000-0000-000000000000' end;
            loop
                exit when looked >= waiting_users.most;
                next := (
                    select j.user_id from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and j.function = wanted and j.user_id > last
                     order by j.function, j.user_id, j.run_at, j.id limit 1);
                exit when next is null or (part = 2 and next > start);
                found_jobs := found_jobs || array(
                    select j.id from bridge.jobs j
                     where j.worker is null and j.function is not null
                       and j.function = wanted and j.user_id = next
                       and j.run_at >= waiting_users.horizon and j.run_at <= now()
                     order by j.function, j.user_id, j.run_at, j.id limit waiting_users.jobs_each);
                last := next;
                looked := looked + 1;
            end loop;
        end loop;
    end loop;
    return found_jobs;
end
$$;
comment on function bridge.waiting_users is
    'The first `jobs_each` jobs of up to `most` users who wait for each of the functions, in one look at the index for each user.';

create or replace function bridge.ready_jobs(horizon timestamptz, functions text[], known text[], due timestamptz, most int)
returns bigint[]
language plpgsql stable set search_path = ''
as $$
declare
    oldest bigint[] := array(
        select r.id from (
            select j.id, j.run_at
              from (select distinct u.name from unnest(ready_jobs.functions) u (name)) n
             cross join lateral (
                select h.id, h.run_at from bridge.jobs h
                 where h.worker is null and h.function is not null  -- and pairs, as in bridge.queue_hints
                   and (h.function, h.run_at) >= (n.name, ready_jobs.horizon)
                   and (h.function, h.run_at) <= (n.name, now())
                 order by h.function, h.run_at, h.id limit ready_jobs.most) j
             union all
            select u.id, u.run_at + bridge.unknown_wait() from bridge.unknown_jobs(known, due, most) u
          ) r (id, at)
         order by r.at, r.id limit ready_jobs.most);
begin
    if cardinality(oldest) = ready_jobs.most then  -- there are more, perhaps of users who have asked less
        oldest := array(
            select u.id from unnest(oldest) u (id)
             union select u.id from unnest(bridge.waiting_users(functions, 128, 8, horizon)) u (id));
    end if;
    return oldest;
end
$$;
comment on function bridge.ready_jobs is
    'Jobs that no worker holds and that could be claimed: the `most` oldest of the `functions`, and of those due at `due` whose function is not `known`; if there are more, also the oldest ones of each user.';

create function bridge.in_fair_order(
    ready bigint[], horizon timestamptz, worker text, elsewhere text[], others uuid[],
    out jobs bigint[], out functions text[], out newcomers bigint[]
)
language plpgsql set search_path = '' set enable_hashjoin = on set plan_cache_mode = force_generic_plan
as $$
declare
    everybody bigint := bridge.limit_of('running_replies', null);
begin
    with running as materialized (
        select h.user_id, count(*) as replies from bridge.jobs h
         where h.worker is not null and h.run_at >= in_fair_order.horizon
         group by h.user_id
    ), placed as (
        select j.id, j.user_id, j.function, j.run_at,
               coalesce(r.replies, 0) - 1
                   + row_number() over (partition by j.user_id order by j.run_at, j.id) as place,
               count(*) over (partition by j.user_id) as ready
          from unnest(in_fair_order.ready) e (id)
         cross join lateral (
            select h.id, h.user_id, h.function, h.run_at from bridge.jobs h
             where h.id = e.id and h.worker is null
               -- whose last attempt failed here: another worker makes the next, if one does within eight seconds
               and (h.failed_by is null or h.failed_by <> in_fair_order.worker
                    or h.function <> all (in_fair_order.elsewhere) or h.run_at < now() - interval '8 seconds')) j
          left join running r on r.user_id = j.user_id
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

create function bridge.claimed_by_others(ready bigint[], horizon timestamptz) returns uuid[]
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
             cross join lateral (select h.user_id from bridge.jobs h where h.id = e.id) j
             group by j.user_id) c
          left join (
            select h.user_id, count(*) as replies from bridge.jobs h
             where h.worker is not null and h.run_at >= claimed_by_others.horizon
             group by h.user_id) r on r.user_id = c.user_id
          left join bridge.limits own on own.name = 'running_replies' and own.user_id = c.user_id
         where c.jobs + coalesce(r.replies, 0) >= case when own.name is null then everybody else own.value end
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

create function bridge.lock_ready(
    jobs bigint[], functions text[], known text[], due timestamptz, most int
) returns bigint[]
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select j.id from unnest(lock_ready.jobs) with ordinality e (id, n)
         cross join lateral (  -- each by its id, as in bridge.take_expired
            select h.id, h.session_id from bridge.jobs h
             where h.id = e.id
               and case when h.worker is not null then false
                        when h.function = any (lock_ready.functions) then h.run_at <= now()
                        else h.run_at <= lock_ready.due and h.function <> all (lock_ready.known) end
               for update skip locked) j
         cross join lateral (
            select from public.sessions s where s.id = j.session_id for key share skip locked) s
         order by e.n limit greatest(lock_ready.most, 0));
end
$$;
comment on function bridge.lock_ready is 'Locks up to `most` of the jobs, in their order; leaves out those that are locked.';

create function bridge.take_ready(
    worker text, horizon timestamptz, functions text[], known text[], due timestamptz, slots int, reserve int,
    probing text[], elsewhere text[], out taken bigint[], out is_held_back boolean
)
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    most int := take_ready.slots + 8;  -- a few more than needed, as others may have locked some
    ready bigint[];
    fair record;
    probe record;
    found_jobs bigint[];
    wanted int;
    open_slots int := take_ready.slots - case
        when bridge.limit_of('running_replies', null) is null then 0 else take_ready.reserve end;
begin
    taken := '{}';
    is_held_back := false;
    if take_ready.functions is null then
        select coalesce(array_agg(r.id), '{}') into taken from (
            select j.id from bridge.jobs j join public.sessions s on s.id = j.session_id
             where j.worker is null and j.run_at >= take_ready.horizon and j.run_at <= now()
             order by j.run_at, j.id
             limit take_ready.slots
               for key share of s skip locked
               for update of j skip locked
        ) r;
        return;
    end if;
    while cardinality(taken) < take_ready.slots loop
        ready := bridge.ready_jobs(horizon, functions, known, due, most);
        exit when ready = '{}';
        select f.* into fair from bridge.in_fair_order(
            ready, horizon, worker, elsewhere, bridge.claimed_by_others(ready, horizon)) f;
        -- of a function that is probing, as many as it is named times
        taken := '{}';
        wanted := 0;
        for probe in
            select p.name, count(*)::int as most from unnest(take_ready.probing) p (name) group by p.name
        loop
            found_jobs := array(
                select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
                 where j.function = probe.name order by j.n);
            wanted := wanted + least(probe.most, cardinality(found_jobs));
            taken := taken || bridge.lock_ready(
                found_jobs, functions, known, due, least(probe.most, open_slots - cardinality(taken)));
        end loop;
        found_jobs := array(
            select j.id from unnest(fair.jobs, fair.functions) with ordinality j (id, function, n)
             where j.function <> all (take_ready.probing) order by j.n);
        wanted := wanted + cardinality(found_jobs);
        taken := taken || bridge.lock_ready(found_jobs, functions, known, due, open_slots - cardinality(taken));
        taken := taken || bridge.lock_ready(
            array(select n.id from unnest(fair.newcomers) n (id)
                   where n.id <> all (taken) and n.id = any (found_jobs)),
            functions, known, due, slots - cardinality(taken));
        is_held_back := cardinality(ready) > cardinality(taken);
        -- more only if others have locked some of these
        exit when cardinality(ready) < most or cardinality(taken) >= least(open_slots, wanted);
        most := most * 4;
    end loop;
end
$$;
comment on function bridge.take_ready is
    'Locks up to `slots` jobs that are due, that no worker holds, and whose function is one of `functions` (null: any) or, if they were due at `due`, not `known`. The last `reserve` slots are only for users who have nothing running, and at most two sessions waiting. is_held_back: there are more, for which a slot or a reply of their user has to become free.';

create function public.bridge_claim(
    worker text, slots int, holding uuid[], lease_seconds int, history int, functions text[] default null,
    reserve int default 0, probing text[] default '{}', paused text[] default '{}', failing text[] default '{}'
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
-- The queue is short-lived and its statistics are always stale: this and the functions it calls walk the indexes.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    snapshot text := pg_current_snapshot()::text;
    lease_end timestamptz := now() + bridge.heartbeat(
        bridge_claim.worker, bridge_claim.lease_seconds, bridge_claim.functions, bridge_claim.failing);
    horizon timestamptz := bridge.claim_horizon(bridge_claim.worker, bridge_claim.functions);
    due timestamptz := now() - bridge.unknown_wait();
    known text[] := bridge.known_functions(bridge_claim.functions, due);
    elsewhere text[] := bridge.answered_elsewhere(bridge_claim.worker);
    takes text[] := case when bridge_claim.functions is not null then array(
        select f.name from unnest(bridge_claim.functions) f (name)
         where f.name <> all (bridge_claim.paused) or f.name <> all (elsewhere)) end;
    expired bigint[];
    ready record;
    job bridge.jobs;
    jobs jsonb[] := '{}';  -- appending to an array does not copy it, unlike appending to a jsonb
begin
    -- Return again, under the same attempt, jobs whose claim answer was lost. They use slots like any other, so a worker
    -- that now asks for fewer gets them in parts. Even without a free slot it gets one.
    for job in
        select j.* from bridge.jobs j
         where j.id = any (array(
                   select h.id from bridge.jobs h
                    where h.worker is not null and h.run_at >= horizon and h.worker = bridge_claim.worker
                    order by h.run_at, h.id))
           and j.worker = bridge_claim.worker and not (j.question_id = any (bridge_claim.holding))
         order by j.id limit greatest(bridge_claim.slots, 1) for update skip locked
    loop
        update bridge.jobs j set lease_until = lease_end where j.id = job.id;
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history);
    end loop;

    -- jobs of vanished workers come before new ones
    slots := greatest(bridge_claim.slots - cardinality(jobs), 0);
    expired := bridge.take_expired(bridge_claim.worker, horizon, takes, known, due, slots);
    select r.* into ready from bridge.take_ready(
        bridge_claim.worker, horizon, takes, known, due, slots - cardinality(expired), bridge_claim.reserve,
        array(select f.name from unnest(bridge_claim.probing) f (name) where f.name = any (elsewhere)), elsewhere) r;
    for job in
        update bridge.jobs j
           set worker = bridge_claim.worker,
               lease_until = lease_end,
               attempt = j.attempt + 1,
               failures = j.failures + (j.worker is not null)::int
         where j.id = any (ready.taken || expired)
     returning j.*
    loop
        jobs := jobs || bridge.open_attempt(job, bridge_claim.history, true, job.id = any (expired));
    end loop;
    -- last, as the users' rows in bridge.usage stay locked until the end
    perform bridge.charge_tokens(coalesce((
        select jsonb_agg(jsonb_build_object(
                   'user_id', j.user_id, 'input_tokens', r.input_tokens, 'output_tokens', r.output_tokens))
          from unnest(expired) e (id)
          join bridge.jobs j on j.id = e.id
          join bridge.runs r on r.question_id = j.question_id and r.attempt = j.attempt - 1), '[]'));
    return bridge.queue_hints(bridge_claim.worker) || jsonb_build_object(
        'jobs', to_jsonb(jobs), 'snapshot', snapshot, 'held_back', ready.is_held_back, 'elsewhere', to_jsonb(elsewhere));
end
$$;
comment on function public.bridge_claim is
    'Takes up to `slots` jobs: first those the worker holds without knowing it (not in `holding`; at least one), then others that it can answer, as their function is one of `functions` (null: any), and those whose function no worker has known for half a minute, so that they fail. Of functions that other workers answer well, it takes as many jobs as `probing` names it times, or none if it is `paused`. Those that are `failing` are noted. The last `reserve` slots are for users who have asked little. Returns {jobs: [{question_id, …}], held_back, elsewhere, next_in_ms, workers, ready, snapshot}. held_back: claim again when a reply has ended. elsewhere: the functions that other workers answer well. The snapshot shows which transactions the claim has seen.';

-- beat --------------------------------------------------------------------------------------------

create or replace function public.bridge_beat(worker text, jobs jsonb) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    lease interval := bridge.heartbeat(bridge_beat.worker);
    -- Nobody waits for a job that its user keeps locked, as by deleting its session in a request that takes long: the
    -- beats of all others would be late. Its lease and its text wait for the next beat.
    free bigint[] := array(
        select j.id from bridge.jobs j
          join jsonb_to_recordset(bridge_beat.jobs) i (question_id uuid) on j.question_id = i.question_id
         order by j.id for update of j skip locked);
    states jsonb;
    checkpoints jsonb;
    item jsonb;
begin
    -- A beat comes every second, a lease lasts thirty: extending it once a quarter has passed costs a tenth of the
    -- writes, and at least half of it is always left.
    update bridge.jobs j set lease_until = now() + lease
      from jsonb_to_recordset(bridge_beat.jobs) i (question_id uuid, attempt int)
     where j.question_id = i.question_id and j.worker = bridge_beat.worker and j.attempt = i.attempt
       and j.id = any (free) and j.lease_until < now() + lease * 0.75;
    select coalesce(jsonb_object_agg(i.question_id, case
               when j.id is null then 'lost' when j.cancel then 'cancel' when j.id = any (free) then 'ok' else 'busy'
               end), '{}'),
           coalesce(jsonb_agg(e.value) filter (where j.id = any (free) and e.value ? 'seq'), '[]')
      into states, checkpoints
      from jsonb_array_elements(bridge_beat.jobs) e
     cross join jsonb_to_record(e.value) i (question_id uuid, attempt int)
      left join bridge.jobs j
        on j.question_id = i.question_id and j.worker = bridge_beat.worker and j.attempt = i.attempt;
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
    return bridge.queue_hints(bridge_beat.worker) || jsonb_build_object('results', states);
end
$$;
comment on function public.bridge_beat is
    'Extends the leases of jobs [{question_id, attempt, seq?, content?, data?}] and writes those with a seq as checkpoints. Returns {results: {question_id: ok|lost|cancel|busy}, next_in_ms, workers, ready}; busy: a user keeps it locked, try again.';

-- finish ------------------------------------------------------------------------------------------

create or replace function bridge.finish(job bridge.jobs, result jsonb) returns void
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
    if retry_at is not null then
        -- the text so far stays visible until the next attempt opens the reply again
        perform bridge.set_status(job.question_id, 'queued');
        update bridge.jobs j
           set worker = null, lease_until = null, run_at = retry_at,
               failures = j.failures + (outcome = 'failed' and not is_handed_over)::int,
               failed_by = case when outcome = 'failed' then job.worker end
         where j.id = job.id;
        -- after a failure too: another worker makes the next attempt, and has to learn when it is due
        if outcome = 'released' or job.function = any (bridge.answered_elsewhere(job.worker)) then
            perform bridge.announce_work(array[job.question_id]);
        end if;
        return;
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
    perform bridge.end_job(job, outcome, case when outcome = 'failed' then result -> 'error' end, result);
end
$$;
comment on function bridge.finish is
    'Writes how an attempt ended. The caller holds session and job. If the user cancelled first, every outcome becomes cancelled.';

create or replace function bridge.finish_held(job bridge.jobs, result jsonb) returns text
language plpgsql set search_path = ''
as $$
begin
    perform bridge.finish(job, result);
    return 'ok';
exception
    when lock_not_available then
        return 'busy';  -- a user keeps one of the reply's files locked
    when others then
        if bridge.is_transient(sqlstate) then
            raise;  -- not this result's fault: the worker repeats the batch
        end if;
        -- refused because of its content: end it as failed, without that content
        raise warning 'bridge_finish: % refused: % %', job.question_id, sqlstate, sqlerrm;
        perform bridge.finish(job, jsonb_build_object(
            'outcome', 'failed',
            'error', jsonb_build_object('code', 'unstorable', 'message', 'The reply could not be stored.'),
            'run', coalesce(nullif(result -> 'run', 'null'), '{}') || jsonb_build_object('error', jsonb_build_object(
                'code', 'unstorable', 'detail', sqlstate || ' ' || sqlerrm))));
        return 'refused';
end
$$;
comment on function bridge.finish_held is
    'Finishes a job that its worker holds: ok, busy (nothing was written, as something is locked), or refused (it was ended as failed). A refused result does not affect the others.';

create function bridge.price_lost(worker text, question_id uuid, attempt int, run jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
    known bridge.runs;
    input int := coalesce((run ->> 'input_tokens')::int, 0);
    output int := coalesce((run ->> 'output_tokens')::int, 0);
begin
    -- what was charged when the job was taken over is an estimate; the rest is charged once
    select r.* into known from bridge.runs r
     where r.question_id = price_lost.question_id and r.attempt = price_lost.attempt
       and r.worker = price_lost.worker and r.outcome = 'lost'
       for update skip locked;
    if not found then
        return '{}';
    end if;
    update bridge.runs r
       set input_tokens = greatest(r.input_tokens, input), output_tokens = greatest(r.output_tokens, output)
     where r.question_id = known.question_id and r.attempt = known.attempt;
    return jsonb_build_object('input_tokens', greatest(
        0, input + output - coalesce(known.input_tokens, 0) - coalesce(known.output_tokens, 0)));
end
$$;
comment on function bridge.price_lost is
    'Notes what an attempt cost whose worker had lost its lease; returns what is still to be charged.';

create function bridge.begin_title(session_id uuid) returns boolean
language plpgsql set search_path = ''
as $$
begin
    insert into bridge.titles as t (session_id)
    select s.id from public.sessions s where s.id = begin_title.session_id and s.title is null
        on conflict on constraint titles_pkey do update set tries = t.tries + 1 where not t.is_named and t.tries < 3;
    return found;
end
$$;
comment on function bridge.begin_title is
    'Whether a model may be asked for a session''s title: until it has given one, three times at most. The caller holds the session.';

create function public.bridge_title(session_id uuid, user_id uuid, title text, run jsonb) returns text
language plpgsql security definer set search_path = '' set statement_timeout = '6s' set lock_timeout = '50ms'
as $$
declare
    state text := 'ok';
    is_free boolean;
begin
    perform from public.sessions s where s.id = bridge_title.session_id for no key update skip locked;
    is_free := found;
    if bridge_title.title is not null and is_free then
        update public.sessions s set title = bridge_title.title
         where s.id = bridge_title.session_id and s.title is null;
    elsif bridge_title.title is not null
        and exists (select from public.sessions s where s.id = bridge_title.session_id)
    then
        state := 'busy';
    end if;
    -- repeated, after an answer that was lost or was `busy`, it charges nothing
    perform from bridge.titles t where t.session_id = bridge_title.session_id and t.charged < t.tries;
    if found or not exists (select from public.sessions s where s.id = bridge_title.session_id) then
        perform bridge.charge_tokens(jsonb_build_array(
            coalesce(bridge_title.run, '{}') || jsonb_build_object('user_id', bridge_title.user_id)));
    end if;
    update bridge.titles t
       set charged = t.tries, is_named = t.is_named or (bridge_title.title is not null and is_free)
     where t.session_id = bridge_title.session_id;
    return state;
end
$$;
comment on function public.bridge_title is
    'Sets the title that a model gave a session which has none (null: it gave none), and charges what it cost. Returns ok, or busy: the session is locked, try again.';

create function bridge.next_of_users(worker text, users uuid[]) returns uuid[]
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
         where l.most <= 1 + (
            select count(*) from bridge.jobs h
             where h.worker is not null and h.run_at >= horizon and h.user_id = u.id));
end
$$;
comment on function bridge.next_of_users is
    'Of users who had as many replies running as they may, and of whom one has ended: a question that can run now.';

create function public.bridge_finish(worker text, results jsonb, knows_busy boolean default false) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
set enable_seqscan = off set enable_bitmapscan = off  -- see bridge.promote
as $$
declare
    result record;
    job bridge.jobs;
    state text;
    sessions uuid[];
    free bigint[];
    states jsonb := '{}';
    charges jsonb[] := '{}';
    untitled uuid[] := '{}';
    ended uuid[] := '{}';
begin
    if not bridge_finish.knows_busy then  -- an older worker waits, as it always did
        perform from public.sessions s
          where s.id in (
              select j.session_id from bridge.jobs j
                join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id)
          order by s.id for no key update;
        perform from bridge.jobs j
          join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id
          order by j.id for update of j;
    end if;
    -- Nobody waits for a session or a job that its user keeps locked, with a request that takes long: the replies of all
    -- others in the batch would be late.
    sessions := array(
        select s.id from public.sessions s
         where s.id in (
            select j.session_id from bridge.jobs j
              join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id)
         order by s.id for no key update skip locked);
    free := array(
        select j.id from bridge.jobs j
          join jsonb_to_recordset(bridge_finish.results) i (question_id uuid) on j.question_id = i.question_id
         where j.session_id = any (sessions)
         order by j.id for update of j skip locked);
    for result in
        select i.*, e.value as item
          from jsonb_array_elements(bridge_finish.results) e
         cross join jsonb_to_record(e.value) i (question_id uuid, attempt int, user_id text, run jsonb, name boolean)
    loop
        select j.* into job from bridge.jobs j
         where j.question_id = result.question_id
           and j.worker = bridge_finish.worker and j.attempt = result.attempt;
        if job.id is null then
            state := bridge.state_of_unheld(bridge_finish.worker, result.question_id, result.attempt);
            if state = 'lost' then
                result.run := bridge.price_lost(
                    bridge_finish.worker, result.question_id, result.attempt, coalesce(result.run, '{}'));
            end if;
        elsif job.id = any (free) then
            state := bridge.finish_held(job, result.item);
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
        if result.name and state = 'ok' and job.id is not null and bridge.begin_title(job.session_id) then
            untitled := untitled || result.question_id;
        end if;
        states := states || jsonb_build_object(result.question_id, state);
    end loop;
    perform bridge.announce_work(bridge.next_of_users(bridge_finish.worker, ended));
    perform bridge.charge_tokens(to_jsonb(charges));
    return bridge.queue_hints(bridge_finish.worker)
        || jsonb_build_object('results', states, 'untitled', to_jsonb(untitled));
end
$$;
comment on function public.bridge_finish is
    'Ends attempts [{question_id, attempt, outcome, user_id, content?, data?, seq?, files?, error?, retry_in_ms?, hand_over_in_ms?, name?, run?}]. Returns {results: {question_id: ok|lost|gone|refused|busy}, untitled: [question_id], next_in_ms, workers, ready}. busy: a user keeps it locked, send it again; a call without `knows_busy` waits instead, but not for files. hand_over_in_ms: as retry_in_ms, if another worker can answer. untitled: of those with `name`, the ones whose session needs a title.';

-- operators ---------------------------------------------------------------------------------------

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
    perform bridge.announce_work(ready);
    return retried;
end
$$;
comment on function public.bridge_dead_retry is
    'Requeues dead letters with a fresh count of failures (null: the 500 oldest), except in sessions that are locked. Returns how many.';

create or replace function public.bridge_dead_drop(question_ids uuid[] default null) returns int
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

create or replace function public.bridge_doctor() returns jsonb
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
    'What `bridge doctor` cannot see from outside: tables missing from the publication, the policy to create if it is missing, whether broadcasts can be sent, and how long a request of a user may take.';

-- trim --------------------------------------------------------------------------------------------

create or replace function public.bridge_trim(
    runs_days int default 30,
    dead_letters_days int default 90,
    versions_days int default null,
    max_rows int default 5000
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int;
    letters int;
    versions int;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days) < 1 then
        raise exception 'days must be at least 1; null keeps all' using errcode = '22023';
    end if;
    -- An array, because it is computed once. As a joined subquery that locks, it would run again for each row where the
    -- plan is a nested loop, lock other rows, and delete more than max_rows.
    delete from bridge.dead_letters d where d.id = any (array(
        select x.id from bridge.dead_letters x
         where x.created_at < now() - make_interval(days => bridge_trim.dead_letters_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics letters = row_count;
    rest := rest - letters;
    runs := bridge.trim_runs(bridge_trim.runs_days, rest);  -- after the letters, which keep their runs
    rest := rest - runs;
    delete from public.code_file_versions v where v.id = any (array(
        select x.id from public.code_file_versions x
         where x.created_at < now() - make_interval(days => bridge_trim.versions_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics versions = row_count;
    rest := rest - versions;
    -- deletions forget ids as well, but one that deletes many sessions leaves more than it forgets
    rest := rest - bridge.forget_ids(rest);
    return jsonb_build_object(
        'runs', runs, 'dead_letters', letters, 'versions', versions, 'more', rest = 0,
        'broadcasts', bridge.forget_broadcasts(array(
            select d.id from bridge.deleted_ids d where d.deleted_at > now() - interval '4 days')));
end
$$;
comment on function public.bridge_trim is
    'Deletes attempts, dead letters and earlier versions of files that are older than the given days (null keeps all), at most max_rows rows; and what Realtime still stores of broadcasts about deleted sessions. Returns {runs, dead_letters, versions, broadcasts, more}; if `more`, call it again.';


-- triggers ---------------------------------------------------------------------------------------

-- the first of the triggers: they run in the order of their names
create trigger admit_session before insert or update on public.sessions
    for each row execute function bridge.admit_session();
create trigger count_change after delete on public.sessions
    for each row execute function bridge.count_change();
create trigger count_update after update on public.sessions
    for each row when (old.last_ordinal is not distinct from new.last_ordinal)
    execute function bridge.count_change();
create trigger count_change after insert or update or delete on public.code_files
    for each row execute function bridge.count_change();


-- grants -----------------------------------------------------------------------------------------

revoke all on function
    bridge.count_rate, bridge.tokens_left, bridge.admit_session, bridge.count_change, bridge.forget_broadcasts,
    bridge.heartbeat, bridge.answered_elsewhere, bridge.estimate_tokens, bridge.record_lost, bridge.waiting_users,
    bridge.in_fair_order, bridge.claimed_by_others, bridge.lock_ready, bridge.take_ready, bridge.price_lost,
    bridge.begin_title, bridge.next_of_users
    from public, anon, authenticated, service_role;
revoke all on function public.bridge_claim, public.bridge_finish, public.bridge_title from public, anon, authenticated;
grant execute on function public.bridge_claim, public.bridge_finish, public.bridge_title to service_role;
