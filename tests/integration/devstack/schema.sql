-- The schema for the REST and Auth tests: an ordinary migration, run by the role postgres.

create table public.notes (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users on delete cascade,
  body text not null check (length(body) <= 20),
  data jsonb,
  tags text[],
  at timestamptz not null default now(),
  unique (user_id, body)
);
comment on table public.notes is 'Notes, private to their user.';
alter table public.notes enable row level security;
create policy "own" on public.notes to authenticated
  using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
grant select, insert, update, delete on public.notes to authenticated, service_role;
revoke all on public.notes from anon;
alter publication supabase_realtime add table public.notes;

create table public.defaults (
  id int primary key default 1,
  word text not null default 'given',
  note text
);
grant all on public.defaults to service_role;
revoke all on public.defaults from anon, authenticated;
grant select, insert (note) on public.defaults to authenticated;

create schema hidden;
create table hidden.secrets (id int primary key);
grant usage on schema hidden to anon, authenticated, service_role;
grant select on hidden.secrets to anon, authenticated, service_role;

create table public.profiles (id uuid primary key references auth.users on delete cascade);
alter table public.profiles enable row level security;

create function public.make_profile() returns trigger
  language plpgsql security definer set search_path = ''
as $$
begin
  insert into public.profiles (id) values (new.id);
  return new;
end
$$;
create trigger make_profile after insert on auth.users for each row execute function public.make_profile();

create function public.echo(value jsonb) returns jsonb
  language plpgsql set search_path = ''
as $$ begin return echo.value; end $$;

create function public.kind(value jsonb) returns text
  language plpgsql set search_path = ''
as $$ begin return jsonb_typeof(kind.value); end $$;

create function public.echo_ids(ids uuid[]) returns uuid[]
  language plpgsql set search_path = ''
as $$ begin return echo_ids.ids; end $$;

create function public.echo_words(words text[], most integer default 10) returns jsonb
  language plpgsql set search_path = ''
as $$ begin return to_jsonb(echo_words.words[1:echo_words.most]); end $$;

create function public.nothing() returns void
  language plpgsql set search_path = ''
as $$ begin end $$;

create function public.listing(count integer) returns table (number integer, at timestamptz)
  language plpgsql set search_path = ''
as $$
begin
  return query select g, '2026-01-02T03:04:05.678Z'::timestamptz from generate_series(1, listing.count) as g;
end
$$;

create function public.who() returns jsonb
  language plpgsql set search_path = ''
as $$
begin
  return jsonb_build_object(
    'user', current_user, 'session', session_user, 'uid', auth.uid(), 'role', auth.role(), 'email', auth.email(),
    'claims', auth.jwt(), 'timeout', current_setting('statement_timeout'),
    'lock_timeout', current_setting('lock_timeout')
  );
end
$$;

create function public.fail(state text, message text default 'it failed') returns void
  language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = fail.state, message = fail.message, detail = 'the detail', hint = 'the hint';
end
$$;

create function public.nap(seconds double precision) returns void
  language plpgsql set search_path = ''
as $$ begin perform pg_sleep(nap.seconds); end $$;

create function public.short_nap(seconds double precision) returns void
  language plpgsql set search_path = '' set statement_timeout = '200ms'
as $$ begin perform pg_sleep(short_nap.seconds); end $$;

create function public.only_service() returns text
  language plpgsql set search_path = ''
as $$ begin return 'yes'; end $$;
revoke execute on function public.only_service() from public, anon, authenticated;

-- Users own the folder named by their ID, in every bucket whose name begins with `own-`.
create policy own on storage.objects to authenticated
  using (bucket_id like 'own-%' and (storage.foldername(name))[1] = (select auth.uid())::text)
  with check (bucket_id like 'own-%' and (storage.foldername(name))[1] = (select auth.uid())::text);
