-- The tables and policies that the recordings used.
create table public.alltypes (
    id uuid primary key default gen_random_uuid(), t text, j jsonb, ts timestamptz, i8 bigint, n numeric, b boolean,
    ta text[], nul text, big text, tsn timestamp, d date, f8 double precision, i4a int[], bya bytea, ij json,
    vc varchar, en text
);
alter table public.alltypes alter column big set storage external;
create table public.alltypes_full (like public.alltypes including all);
alter table public.alltypes_full replica identity full;
create table public.messages (
    id uuid primary key default gen_random_uuid(), session_id uuid not null, role text, content text,
    created_at timestamptz not null default now()
);
alter table public.messages enable row level security;
create policy own on public.messages for select to authenticated using (session_id = (select auth.uid()));
create policy everything on public.messages for select to anon using (true);
create table public.rlsfull (id bigint generated always as identity primary key, owner uuid, v text);
alter table public.rlsfull replica identity full;
alter table public.rlsfull enable row level security;
create policy own on public.rlsfull for select to authenticated using (owner = (select auth.uid()));
create table public.denied (id bigint generated always as identity primary key, v text);
alter table public.denied enable row level security;
create table public.nopriv (id int primary key, v text);
revoke all on public.nopriv from authenticated;
create table public.colpriv (id int primary key, v text, secret text);
revoke all on public.colpriv from authenticated;
grant select (id, v) on public.colpriv to authenticated;
create table public.nopk (a int, v text);
alter table public.nopk replica identity full;
create table public.not_published (id bigint primary key);
create table public.perf (id bigint generated always as identity primary key, sent_at double precision, v text);
create table public.bc (id uuid primary key, v text, n int);
create function public.bc_changed() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    perform realtime.broadcast_changes(
        'bc:' || coalesce(new.id, old.id)::text, tg_op, tg_op, tg_table_name, tg_table_schema, new, old
    );
    return null;
end;
$$;
create trigger bc_changed after insert or update or delete on public.bc
    for each row execute function public.bc_changed();
alter publication supabase_realtime add table
    public.alltypes, public.alltypes_full, public.messages, public.rlsfull, public.denied, public.nopriv,
    public.colpriv, public.nopk, public.perf;

create policy read_topics on realtime.messages for select to authenticated using (
    realtime.topic() like 'room:%' or realtime.topic() like 'ro:%' or realtime.topic() like 'bc:%'
    or realtime.topic() = 'user:' || (select auth.uid())
);
create policy write_rooms on realtime.messages for insert to authenticated
    with check (realtime.topic() like 'room:%');
