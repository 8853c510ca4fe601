-- The schema for the conformance tests. Idempotent; `drop.sql` removes it.

create table if not exists public.conformance_notes (
    id uuid primary key default gen_random_uuid(),
    owner uuid not null default auth.uid() references auth.users on delete cascade,
    body text not null check (length(body) <= 100),
    rank integer not null default 0,
    tags text[] not null default '{}',
    data jsonb not null default '{}',
    due timestamptz,
    secret text not null default 'hidden'
);
comment on table public.conformance_notes is 'Notes, private to their owner. No API user may read the column `secret`.';

create table if not exists public.conformance_comments (
    id bigint generated always as identity primary key,
    note_id uuid not null references public.conformance_notes on delete cascade,
    text text not null
);
comment on table public.conformance_comments is 'A related table, for embedding.';

create table if not exists public.conformance_counters (
    owner uuid not null default auth.uid() references auth.users on delete cascade,
    name text not null,
    value integer not null default 1,
    primary key (owner, name)
);
comment on table public.conformance_counters is 'Has a composite key, for upserts.';

create table if not exists public.conformance_types (
    id integer primary key,
    amount numeric,
    raw bytea,
    words text[],
    ids uuid[]
);
comment on table public.conformance_types is 'Types that JSON and Postgres represent differently.';

create table if not exists public.conformance_defaults (
    id uuid primary key default gen_random_uuid(),
    owner uuid not null default auth.uid() references auth.users on delete cascade,
    word text not null default 'given',
    note text
);
comment on table public.conformance_defaults is 'Every column may be left out.';

alter table public.conformance_types enable row level security;
alter table public.conformance_defaults enable row level security;
alter table public.conformance_notes enable row level security;
alter table public.conformance_comments enable row level security;
alter table public.conformance_counters enable row level security;

drop policy if exists own on public.conformance_notes;
create policy own on public.conformance_notes to authenticated using (owner = (select auth.uid()));
drop policy if exists own on public.conformance_comments;
create policy own on public.conformance_comments to authenticated
using (exists (select from public.conformance_notes as notes where notes.id = note_id));
drop policy if exists own on public.conformance_counters;
create policy own on public.conformance_counters to authenticated using (owner = (select auth.uid()));
drop policy if exists own on public.conformance_defaults;
create policy own on public.conformance_defaults to authenticated using (owner = (select auth.uid()));

revoke all on public.conformance_defaults from anon, authenticated;
grant select, insert (word, note) on public.conformance_defaults to authenticated;
revoke all on public.conformance_notes, public.conformance_comments, public.conformance_counters, public.conformance_types
from anon, authenticated;
grant all on public.conformance_types to service_role;
grant select (id, owner, body, rank, tags, data, due), insert (id, body, rank, tags, data, due),
update (body, rank, tags, data, due), delete on public.conformance_notes to authenticated;
grant select, insert, update, delete on public.conformance_comments, public.conformance_counters to authenticated;
grant all on public.conformance_notes, public.conformance_comments, public.conformance_counters to service_role;

create or replace function public.conformance_echo(value jsonb) returns jsonb
language plpgsql set search_path = '' as $$ begin return value; end $$;

create or replace function public.conformance_total(numbers integer[]) returns bigint
language plpgsql set search_path = '' as $$ begin return (select sum(n) from unnest(numbers) as n); end $$;

create or replace function public.conformance_words(words text[], times integer default 1)
returns table (word text, at integer)
language plpgsql set search_path = '' as $$
begin
    return query select w, o::integer from generate_series(1, times), unnest(words) with ordinality as u (w, o);
end $$;

create or replace function public.conformance_own_notes() returns setof public.conformance_notes
language plpgsql stable security definer set search_path = '' as $$
begin
    return query select * from public.conformance_notes as notes where notes.owner = (select auth.uid());
end $$;

create or replace function public.conformance_nothing() returns void
language plpgsql set search_path = '' as $$ begin end $$;

create or replace function public.conformance_odd_names("select" text, "camelCase" integer, "order" jsonb default '[]')
returns text
language plpgsql set search_path = '' as $$
begin
    return concat("select", '-', "camelCase", '-', "order");
end $$;

create or replace function public.conformance_who() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
    return jsonb_build_object('role', current_user::text, 'uid', auth.uid(), 'claims', auth.jwt());
end $$;

create or replace function public.conformance_fail(state text) returns void
language plpgsql set search_path = '' as $$
begin
    raise exception 'the message' using errcode = state, detail = 'the detail', hint = 'the hint';
end $$;

create or replace function public.conformance_service_only() returns text
language plpgsql set search_path = '' as $$ begin return 'yes'; end $$;

create or replace function public.conformance_send(payload jsonb, event text, topic text, private boolean) returns void
language plpgsql security definer set search_path = '' as $$ begin perform realtime.send(payload, event, topic, private); end $$;
comment on function public.conformance_send is 'Broadcasts from the database; requires the secret key.';

revoke execute on function public.conformance_service_only, public.conformance_send from public, anon, authenticated;
grant execute on function public.conformance_service_only, public.conformance_send to service_role;

drop policy if exists conformance_listen on realtime.messages;
create policy conformance_listen on realtime.messages for select to authenticated
using ((select realtime.topic()) like 'conformance:' || (select auth.uid())::text || '%');
drop policy if exists conformance_send on realtime.messages;
create policy conformance_send on realtime.messages for insert to authenticated
with check (
    (select realtime.topic()) like 'conformance:' || (select auth.uid())::text || '%'
    and (select realtime.topic()) not like '%:silent'
);

drop policy if exists conformance_objects on storage.objects;
create policy conformance_objects on storage.objects for all to authenticated
using (bucket_id like 'conformance-%' and (storage.foldername(name))[1] = (select auth.uid())::text)
with check (bucket_id like 'conformance-%' and (storage.foldername(name))[1] = (select auth.uid())::text);

do $$
begin
    alter publication supabase_realtime add table public.conformance_notes;
exception when duplicate_object then null;
end $$;

notify pgrst, 'reload schema';
