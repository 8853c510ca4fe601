-- The schema `realtime` with the names, columns, grants and behaviour of Supabase Realtime v2.129. The superuser
-- supabase_admin applies it before any migration. It is idempotent.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'supabase_realtime_admin') then
        create role supabase_realtime_admin nologin noinherit noreplication;
    end if;
end
$$;

create schema if not exists realtime;
comment on schema realtime is 'Realtime: broadcasts from the database, and authorisation of private channels.';
revoke all on schema realtime from public;
grant usage on schema realtime to postgres, anon, authenticated, service_role, supabase_realtime_admin;
-- for the partitions too
alter default privileges in schema realtime grant all on tables to postgres;
alter default privileges in schema realtime grant all on sequences to postgres;
alter default privileges in schema realtime grant all on functions to postgres;

create table if not exists realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp without time zone not null default now(),
    inserted_at timestamp without time zone not null default now(),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    primary key (id, inserted_at),
    constraint messages_payload_exclusive check (payload is null or binary_payload is null)
) partition by range (inserted_at);
comment on table realtime.messages is
    'Each insert is broadcast to its topic. Policies on this table control who may read and write private channels.';
create index if not exists messages_inserted_at_topic_index
    on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private is true;
alter table realtime.messages enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
revoke all on realtime.messages from public;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

-- One partition per day, from yesterday to three days ahead, as on the hosted service.
do $$
declare
    day date;
begin
    for day in
        select d::date
        from generate_series((now() at time zone 'utc')::date - 1, (now() at time zone 'utc')::date + 3, interval '1 day') as d
    loop
        execute format(
            'create table if not exists realtime.%I partition of realtime.messages for values from (%L) to (%L)',
            'messages_' || to_char(day, 'YYYY_MM_DD'), day, day + 1
        );
    end loop;
end
$$;

grant all on all tables in schema realtime to postgres;  -- those of an older data folder

-- As on the hosted service, these functions have no search_path of their own and everybody may call them.
create or replace function realtime.topic() returns text
    language sql
    stable
as $$
    select nullif(current_setting('realtime.topic', true), '')::text;
$$;
comment on function realtime.topic() is 'The topic being authorised, for use in policies on realtime.messages.';

create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
    returns void
    language plpgsql
    volatile
as $$
declare
    message_id uuid := gen_random_uuid();
begin
    perform set_config('realtime.topic', send.topic, true);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (
        message_id,
        case
            when send.payload ? 'id' then send.payload
            else jsonb_set(send.payload, '{id}', to_jsonb(message_id))
        end,
        send.event, send.topic, send.private, 'broadcast'
    );
exception
    when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end;
$$;
comment on function realtime.send(jsonb, text, text, boolean) is
    'Broadcasts a payload to a topic when the transaction commits. Failures raise a warning, never an error.';

create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
    returns void
    language plpgsql
    volatile
as $$
begin
    perform set_config('realtime.topic', send_binary.topic, true);
    insert into realtime.messages (binary_payload, event, topic, private, extension)
    values (send_binary.payload, send_binary.event, send_binary.topic, send_binary.private, 'broadcast');
exception
    when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end;
$$;
comment on function realtime.send_binary(bytea, text, text, boolean) is
    'Broadcasts bytes to a topic when the transaction commits. Only clients with serializer 2.0.0 receive them.';

create or replace function realtime.broadcast_changes(
    topic_name text,
    event_name text,
    operation text,
    table_name text,
    table_schema text,
    new record,
    old record,
    level text default 'ROW'
)
    returns void
    language plpgsql
    volatile
as $$
begin
    if broadcast_changes.level = 'STATEMENT' then
        raise exception 'function can only be triggered for each row, not for each statement';
    end if;
    if broadcast_changes.operation not in ('INSERT', 'UPDATE', 'DELETE') then
        raise exception 'Unexpected operation type: %', broadcast_changes.operation;
    end if;
    perform realtime.send(
        jsonb_build_object(
            'old_record', broadcast_changes.old,
            'record', broadcast_changes.new,
            'operation', broadcast_changes.operation,
            'table', broadcast_changes.table_name,
            'schema', broadcast_changes.table_schema
        ),
        broadcast_changes.event_name,
        broadcast_changes.topic_name
    );
exception
    when others then
        raise exception 'Failed to process the row: %', sqlerrm;
end;
$$;
comment on function realtime.broadcast_changes(text, text, text, text, text, record, record, text) is
    'Broadcasts a row change from a row trigger to a private topic.';

alter function realtime.topic() owner to supabase_realtime_admin;
alter function realtime.send(jsonb, text, text, boolean) owner to supabase_realtime_admin;
alter function realtime.send_binary(bytea, text, text, boolean) owner to supabase_realtime_admin;
alter function realtime.broadcast_changes(text, text, text, text, text, record, record, text)
    owner to supabase_realtime_admin;
grant execute on all functions in schema realtime to public;

-- Lets migrations create policies and triggers on realtime.messages; devstack/guard.sql refuses the rest.
grant supabase_realtime_admin to postgres with inherit true, set false;
