-- Limits: no server stands in front of the tables, so the database enforces them.
--
-- Counters are separate from the rows they count: deleting a session gives no allowance back.

create table bridge.limits (
    name text not null,
    user_id uuid references auth.users (id) on delete cascade,
    value bigint,
    constraint limits_key unique nulls not distinct (name, user_id),
    constraint limits_name check (name in (
        'messages_per_minute', 'unfinished_replies', 'tokens_per_day', 'sessions', 'files_per_session',
        'versions_per_file', 'message_bytes', 'file_bytes')),
    constraint limits_value check (value >= 0)
);
comment on table bridge.limits is
    'Limits for everybody (no user_id) and for single users. A null value: only the columns'' own limits apply.';

create index limits_of_user on bridge.limits (user_id);

-- Rows, though this is a schema file: they are part of the schema's state, and the comparison of schemas/ with
-- migrations/ covers them. `supabase db diff` does not see rows: write a change into the migration by hand.
insert into bridge.limits (name, value) values
    ('messages_per_minute', 30),
    ('unfinished_replies', 20),
    ('tokens_per_day', null),
    ('sessions', 1000),
    ('files_per_session', 200),
    ('versions_per_file', 50),
    ('message_bytes', 32768),
    ('file_bytes', 262144);

create table bridge.usage (
    user_id uuid primary key references auth.users (id) on delete cascade,
    minute_at timestamptz not null default now(),
    messages int not null default 0,
    day date not null default (now() at time zone 'utc')::date,
    tokens bigint not null default 0
) with (fillfactor = 50);
comment on table bridge.usage is
    'What a user has used: messages in the minute that began at minute_at, tokens on the (UTC) day.';

revoke all on bridge.limits, bridge.usage from public, anon, authenticated, service_role;

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
        hint = coalesce(
            format('Try again in %s s.', ceil(extract(epoch from refuse.ends_at - now()))::int),
            'Wait for a reply to finish, or delete something.');
end
$$;
comment on function bridge.refuse is 'Raises HTTP 429 with the limit and when it ends.';

create function bridge.charge(user_id uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    used bridge.usage;
    most bigint;
begin
    -- the row's lock makes concurrent inserts of one user wait for each other, and no others
    insert into bridge.usage as u (user_id, messages) values (charge.user_id, 1)
    on conflict on constraint usage_pkey do update
       set messages = case when u.minute_at > now() - interval '1 minute' then u.messages + 1 else 1 end,
           minute_at = case when u.minute_at > now() - interval '1 minute' then u.minute_at else now() end
    returning * into used;

    most := bridge.limit_of('messages_per_minute', charge.user_id);
    if used.messages > most then
        perform bridge.refuse(format('Rate limit: %s messages per minute', most),
                              'messages_per_minute', most, used.minute_at + interval '1 minute');
    end if;
    most := bridge.limit_of('unfinished_replies', charge.user_id);
    if most is not null and (select count(*) from bridge.jobs j where j.user_id = charge.user_id) >= most then
        perform bridge.refuse(format('Too many replies in progress (limit %s)', most), 'unfinished_replies', most);
    end if;
    most := bridge.limit_of('tokens_per_day', charge.user_id);
    if used.day = (now() at time zone 'utc')::date and used.tokens >= most then
        perform bridge.refuse(format('Daily limit reached: %s tokens', most), 'tokens_per_day', most,
                              ((used.day + 1)::timestamp at time zone 'utc'));
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
    -- in one order, and after every other lock
    for spent in
        select r.user_id, sum(coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0)) as tokens
          from jsonb_to_recordset(charge_tokens.runs) r (user_id uuid, input_tokens bigint, output_tokens bigint)
         group by r.user_id order by r.user_id
    loop
        insert into bridge.usage as u (user_id, tokens)
        select x.id, spent.tokens from auth.users x where x.id = spent.user_id and spent.tokens <> 0
        on conflict on constraint usage_pkey do update
           set tokens = case when u.day = excluded.day then u.tokens else 0 end + excluded.tokens,
               day = excluded.day;
    end loop;
end
$$;
comment on function bridge.charge_tokens is 'Counts the tokens of runs [{user_id, input_tokens?, output_tokens?}] for today.';

create function bridge.check_sessions() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('sessions', new.user_id);
begin
    if most is null then
        return new;
    end if;
    -- the lock keeps concurrent inserts of this user from counting past each other
    insert into bridge.usage as u (user_id) select x.id from auth.users x where x.id = new.user_id
    on conflict on constraint usage_pkey do update set messages = u.messages;
    if (select count(*) from public.sessions s where s.user_id = new.user_id) >= most then
        perform bridge.refuse(format('Too many sessions (limit %s)', most), 'sessions', most);
    end if;
    return new;
end
$$;
comment on function bridge.check_sessions is 'Refuses a session beyond the limit.';

create trigger check_sessions before insert on public.sessions
    for each row execute function bridge.check_sessions();
