-- Restricts the schemas of Realtime and Storage for the role that runs migrations. On the hosted service, `postgres` is
-- not a superuser and owns nothing there. The extension supautils lets it change policies and drop triggers on the
-- tables below, for which plain Postgres requires ownership of the table. So `postgres` is made a member of the owning
-- roles, and event triggers reject everything else. Applied by the superuser after the schemas.

drop schema if exists realtime_guard cascade;  -- an older data folder has the triggers there
create schema if not exists devstack_guard;
comment on schema devstack_guard is 'Event trigger functions that restrict schemas as the hosted service does.';
revoke all on schema devstack_guard from public;

create or replace function devstack_guard.refuse_ddl() returns event_trigger
    language plpgsql
    set search_path = ''
as $$
declare
    command record;
begin
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        return;
    end if;
    for command in select * from pg_catalog.pg_event_trigger_ddl_commands() loop
        if (command.schema_name in ('realtime', 'storage') or command.object_identity ~ '(^| on )(realtime|storage)\.')
            and not (
                command.command_tag in ('CREATE POLICY', 'ALTER POLICY', 'CREATE TRIGGER')
                and command.object_identity ~ ' on (realtime\.messages|storage\.(objects|buckets))$'
            )
        then
            raise exception 'must be owner of %', command.object_identity using errcode = '42501';
        end if;
    end loop;
end;
$$;
comment on function devstack_guard.refuse_ddl() is
    'Rejects (42501) DDL by ordinary roles on the schemas realtime and storage, except of policies and triggers.';

create or replace function devstack_guard.refuse_drop() returns event_trigger
    language plpgsql
    set search_path = ''
as $$
declare
    dropped record;
begin
    if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
        return;
    end if;
    for dropped in select * from pg_catalog.pg_event_trigger_dropped_objects() loop
        if (dropped.schema_name in ('realtime', 'storage') or dropped.object_identity ~ '(^| on )(realtime|storage)\.')
            and not (
                dropped.object_type in ('policy', 'trigger')  -- a trigger is dropped from the partitions too
                and dropped.object_identity ~ ' on (realtime\.messages(_[0-9_]+)?|storage\.(objects|buckets))$'
            )
        then
            raise exception 'must be owner of %', dropped.object_identity using errcode = '42501';
        end if;
    end loop;
end;
$$;
comment on function devstack_guard.refuse_drop() is
    'Rejects (42501) drops by ordinary roles in the schemas realtime and storage, except of policies and triggers.';

drop event trigger if exists devstack_refuse_ddl;
create event trigger devstack_refuse_ddl on ddl_command_end execute function devstack_guard.refuse_ddl();
drop event trigger if exists devstack_refuse_drop;
create event trigger devstack_refuse_drop on sql_drop execute function devstack_guard.refuse_drop();
