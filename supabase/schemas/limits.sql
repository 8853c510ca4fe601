-- Limits: no server stands in front of the tables, so the database enforces them.
--
-- Counters are separate from the rows they count: deleting a session gives no allowance back.

create table bridge.limits (
    name text not null,
    user_id uuid references auth.users (id) on delete cascade,
    value bigint,
    constraint limits_key unique nulls not distinct (name, user_id),
    constraint limits_name check (name in (
        'messages_per_minute', 'sessions_per_minute', 'changes_per_minute', 'unfinished_replies', 'running_replies',
        'tokens_per_day', 'sessions', 'files_per_session', 'versions_per_file', 'message_bytes', 'file_bytes',
        'steps_per_message', 'step_bytes', 'steps_bytes', 'attachments_per_message', 'attachment_bytes',
        'uploads_per_session')),
    constraint limits_value check (value >= 0)
);
comment on table bridge.limits is
    'Limits for everybody (no user_id) and for single users. A null value: only the columns'' own limits apply.';

create index limits_of_user on bridge.limits (user_id);

-- Rows, though this is a schema file: they are part of the schema's state, and the comparison of schemas/ with
-- migrations/ covers them. `supabase db diff` does not see rows: write a change into the migration by hand.
insert into bridge.limits (name, value) values
    ('messages_per_minute', 30),
    ('sessions_per_minute', 30),
    ('changes_per_minute', 300),
    ('unfinished_replies', 20),
    ('running_replies', 8),
    ('tokens_per_day', 1000000),
    ('sessions', 1000),
    ('files_per_session', 200),
    ('versions_per_file', 50),
    ('message_bytes', 32768),
    ('file_bytes', 262144),
    ('steps_per_message', 500),
    ('step_bytes', 262144),
    ('steps_bytes', 8388608),
    ('attachments_per_message', 8),
    ('attachment_bytes', 10485760),
    ('uploads_per_session', 200);

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

create table bridge.usage (
    user_id uuid primary key references auth.users (id) on delete cascade,
    day date not null default (now() at time zone 'utc')::date,
    tokens bigint not null default 0
) with (fillfactor = 50);
comment on table bridge.usage is
    'The tokens that a user has used on the (UTC) day. Only workers lock its rows, and only for a moment.';

revoke all on bridge.limits, bridge.rates, bridge.usage from public, anon, authenticated, service_role;

create function bridge.limit_of(name text, user_id uuid) returns bigint
language plpgsql stable set search_path = ''
as $$
begin
    return (
        select l.value from bridge.limits l
         where l.name = limit_of.name and (l.user_id = limit_of.user_id or l.user_id is null)
         order by l.user_id nulls last limit 1);
end
$$;
comment on function bridge.limit_of is 'The user''s own limit, or the one for everybody; null: no limit.';

create function bridge.refuse(message text, name text, value bigint, ends_at timestamptz default null) returns void
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

create function bridge.charge(user_id uuid) returns void
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

create function bridge.charge_tokens(runs jsonb) returns void
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

-- the first of the triggers: they run in the order of their names
create trigger admit_session before insert or update on public.sessions
    for each row execute function bridge.admit_session();

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

-- After the change: the user's counters are locked after all else, as by a question. An upsert counts once.
create trigger count_change after delete on public.sessions
    for each row execute function bridge.count_change();
-- not what a new question changes
create trigger count_update after update on public.sessions
    for each row when (old.last_ordinal is not distinct from new.last_ordinal)
    execute function bridge.count_change();
create trigger count_change after insert or update or delete on public.code_files
    for each row execute function bridge.count_change();
