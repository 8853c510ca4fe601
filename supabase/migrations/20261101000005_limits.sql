-- Limits: no server stands in front of the tables, so the database says no.
--
-- Counters are kept apart from what they count: deleting a session gives no allowance back.

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
    'What a user may do: a row without user_id for everybody, one with it for that user. A null value: no limit but the columns'' own.';

create index limits_of_user on bridge.limits (user_id);

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
comment on table bridge.usage is 'What a user did of late: messages of the minute that began at minute_at, tokens of the (UTC) day.';

revoke all on bridge.limits, bridge.usage from public, anon, authenticated, service_role;

create function bridge.limit_of(name text, user_id uuid) returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
    return (
        select l.value from bridge.limits l
         where l.name = limit_of.name and (l.user_id = limit_of.user_id or l.user_id is null)
         order by l.user_id nulls last limit 1);
end
$$;
comment on function bridge.limit_of is 'The user''s own limit, or else everybody''s; null: none.';

create function bridge.refuse(sentence text, name text, value bigint, ends_at timestamptz default null) returns void
language plpgsql
set search_path = ''
as $$
begin
    raise exception '%', refuse.sentence using
        errcode = 'PT429',
        detail = jsonb_strip_nulls(jsonb_build_object(
            'limit', refuse.name, 'value', refuse.value, 'ends_at', refuse.ends_at))::text,
        hint = coalesce(
            format('Try again in %s s.', ceil(extract(epoch from refuse.ends_at - now()))::int),
            'Wait for a reply to end, or remove something.');
end
$$;
comment on function bridge.refuse is 'Refuses with HTTP 429: which limit it is, and when it ends.';

create function bridge.charge(user_id uuid) returns void
language plpgsql
set search_path = ''
as $$
declare
    used bridge.usage;
    most bigint;
begin
    -- the row's lock makes the user's concurrent inserts wait for each other, and nobody else's
    insert into bridge.usage as u (user_id, messages) values (charge.user_id, 1)
    on conflict on constraint usage_pkey do update
       set messages = case when u.minute_at > now() - interval '1 minute' then u.messages + 1 else 1 end,
           minute_at = case when u.minute_at > now() - interval '1 minute' then u.minute_at else now() end
    returning * into used;

    most := bridge.limit_of('messages_per_minute', charge.user_id);
    if used.messages > most then
        perform bridge.refuse(format('At most %s messages a minute are taken.', most),
                              'messages_per_minute', most, used.minute_at + interval '1 minute');
    end if;
    most := bridge.limit_of('unfinished_replies', charge.user_id);
    if most is not null and (select count(*) from bridge.jobs j where j.user_id = charge.user_id) >= most then
        perform bridge.refuse(format('At most %s replies may be under way.', most), 'unfinished_replies', most);
    end if;
    most := bridge.limit_of('tokens_per_day', charge.user_id);
    if used.day = (now() at time zone 'utc')::date and used.tokens >= most then
        perform bridge.refuse(format('Today''s %s tokens are used up.', most), 'tokens_per_day', most,
                              ((used.day + 1)::timestamp at time zone 'utc'));
    end if;
end
$$;
comment on function bridge.charge is 'Counts a question of a user, or refuses it.';

create function bridge.add_tokens(sums jsonb, user_id uuid, run jsonb) returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
declare
    spent bigint := coalesce((run ->> 'input_tokens')::bigint, 0) + coalesce((run ->> 'output_tokens')::bigint, 0);
begin
    if spent = 0 or add_tokens.user_id is null then
        return add_tokens.sums;
    end if;
    return add_tokens.sums || jsonb_build_object(
        add_tokens.user_id::text, coalesce((add_tokens.sums ->> add_tokens.user_id::text)::bigint, 0) + spent);
end
$$;
comment on function bridge.add_tokens is 'Adds what a run spent to the sums by user.';

create function bridge.charge_tokens(sums jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
    spent record;
begin
    -- in one order, and after all else that is locked
    for spent in select s.key::uuid as user_id, s.value::bigint as tokens from jsonb_each_text(charge_tokens.sums) s
                  order by s.key
    loop
        insert into bridge.usage as u (user_id, tokens)
        select x.id, spent.tokens from auth.users x where x.id = spent.user_id
        on conflict on constraint usage_pkey do update
           set tokens = case when u.day = excluded.day then u.tokens else 0 end + excluded.tokens,
               day = excluded.day;
    end loop;
end
$$;
comment on function bridge.charge_tokens is 'Counts tokens {user_id: tokens} of today.';

create function bridge.check_sessions() returns trigger
language plpgsql
security definer
set search_path = ''
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
        perform bridge.refuse(format('At most %s sessions are kept.', most), 'sessions', most);
    end if;
    return new;
end
$$;
comment on function bridge.check_sessions is 'Refuses a session too many.';

create trigger check_sessions before insert on public.sessions
    for each row execute function bridge.check_sessions();

create function bridge.check_files(session_id uuid) returns void
language plpgsql
set search_path = ''
as $$
declare
    session public.sessions;
    most bigint;
begin
    session := bridge.lock_session(check_files.session_id);
    most := bridge.limit_of('files_per_session', session.user_id);
    if (select count(*) from public.code_files f where f.session_id = check_files.session_id) >= most then
        perform bridge.refuse(format('At most %s files are kept in a session.', most), 'files_per_session', most);
    end if;
end
$$;
comment on function bridge.check_files is 'Refuses a file too many. Takes the session''s lock.';

create function bridge.trim_versions(file_id uuid, session_id uuid) returns void
language plpgsql
set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('versions_per_file', (
        select s.user_id from public.sessions s where s.id = trim_versions.session_id));
begin
    if most is not null then
        delete from public.code_file_versions v
         where v.file_id = trim_versions.file_id and v.id <= (
            select x.id from public.code_file_versions x where x.file_id = trim_versions.file_id
             order by x.id desc limit 1 offset most);
    end if;
end
$$;
comment on function bridge.trim_versions is 'Forgets the oldest versions of a file beyond what is kept.';

create function bridge.check_file_size(session_id uuid, content text) returns void
language plpgsql
set search_path = ''
as $$
declare
    most bigint := bridge.limit_of('file_bytes', (
        select s.user_id from public.sessions s where s.id = check_file_size.session_id));
begin
    if octet_length(check_file_size.content) > most then
        raise exception 'The file is too long: % bytes; at most % are taken.', octet_length(content), most
            using errcode = 'PT413', hint = 'Part it into smaller files.';
    end if;
end
$$;
comment on function bridge.check_file_size is 'Refuses a file that is too long.';

revoke all on function bridge.limit_of, bridge.refuse, bridge.charge, bridge.add_tokens, bridge.charge_tokens,
    bridge.check_sessions, bridge.check_files, bridge.trim_versions, bridge.check_file_size from public, anon, authenticated, service_role;
