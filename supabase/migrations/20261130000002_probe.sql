-- A worker's subscription is proved through the database: bridge_probe.

create table bridge.probes (
    nonce text primary key,
    constraint probes_nonce_is_short check (octet_length(nonce) between 1 and 64)
);
comment on table bridge.probes is
    'Always empty: a row is inserted and deleted in one transaction, and only Realtime''s postgres_changes report it.';
-- Realtime leaves out what the subscriber may not select.
grant select on bridge.probes to service_role;
alter publication supabase_realtime add table bridge.probes;

create function public.bridge_probe(nonce text, row_event boolean default false) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '2s'
as $$
begin
    if bridge_probe.nonce is null or octet_length(bridge_probe.nonce) not between 1 and 64 then
        raise exception 'a nonce has 1 to 64 bytes' using errcode = '22023';
    end if;
    if bridge_probe.row_event then
        insert into bridge.probes (nonce) values (bridge_probe.nonce) on conflict do nothing;
        delete from bridge.probes p where p.nonce = bridge_probe.nonce;
    end if;
    perform bridge.announce('bridge:inbox', 'probe', jsonb_build_object('nonce', bridge_probe.nonce));
end
$$;
comment on function public.bridge_probe is
    'Sends `probe` with the caller''s nonce to the workers'' topic; with row_event, a row of bridge.probes comes and goes too.';

revoke all on function public.bridge_probe from public, anon, authenticated;
grant execute on function public.bridge_probe to service_role;
