-- Two more hints: code files that are gone, and a session that moves up in the list of its user's sessions.

create function bridge.announce_deleted_files() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- one event a session, however many files; a session that is deleted takes its files along, and says so itself
    perform bridge.announce('session:' || d.session_id, 'files_deleted', bridge.slim(jsonb_build_object('ids', d.ids)))
       from (select f.session_id, jsonb_agg(f.id order by f.id) as ids from deleted f group by f.session_id) d
      where exists (select from public.sessions s where s.id = d.session_id);
    return null;
end
$$;
comment on function bridge.announce_deleted_files is 'Tells sessions'' topics which of their code files are gone.';

create trigger announce_delete after delete on public.code_files
    referencing old table as deleted
    for each statement execute function bridge.announce_deleted_files();

create function bridge.announce_order() returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
    -- one look into sessions_of_user: in a conversation that goes on, its session is the newest already
    if exists (
        select from public.sessions s
         where s.user_id = new.user_id and s.updated_at > old.updated_at and s.id <> new.id
    ) then
        perform bridge.announce('user:' || new.user_id, 'session', bridge.slim(to_jsonb(new)));
    end if;
    return null;
end
$$;
comment on function bridge.announce_order is 'Tells a user''s topic about a session that a new message moves up in the list, newest first.';

create trigger announce_order after update on public.sessions
    for each row when (old.last_ordinal is distinct from new.last_ordinal)
    execute function bridge.announce_order();

revoke all on function bridge.announce_deleted_files, bridge.announce_order from public, anon, authenticated, service_role;
