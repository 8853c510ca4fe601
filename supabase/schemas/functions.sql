-- The catalogue: which functions there are, and what each returns.

create table public.functions (
    name text primary key,
    result json,  -- not jsonb, which forgets the order of fields
    updated_at timestamptz not null default now(),
    constraint functions_name_size check (octet_length(name) between 1 and 128),
    constraint functions_result_size check (octet_length(result::text) <= 65536)
);
comment on table public.functions is 'The functions that workers answer, as each worker describes them when it starts.';
comment on column public.functions.result is
    'The JSON schema of the function''s result, with the fields in the order of its class; null if it is not known.';
comment on column public.functions.updated_at is 'When a worker last described it.';

alter table public.functions enable row level security;
revoke all on public.functions from public, anon, authenticated, service_role;
grant select on public.functions to authenticated;
grant select, insert, update, delete on public.functions to service_role;

create policy "signed-in users read the functions" on public.functions for select to authenticated using (true);

create function public.bridge_describe(functions json) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
begin
    insert into public.functions as f (name, result)
    select distinct on (x.name) x.name, case when octet_length(x.result::text) <= 65536 then x.result end
      from json_to_recordset(bridge_describe.functions) x (name text, result json)
     where octet_length(x.name) between 1 and 128
     order by x.name
    on conflict (name) do update set result = excluded.result, updated_at = now();
    -- what no worker has known within the last day
    delete from public.functions f
     where f.updated_at < now() - interval '1 day'
       and not exists (select from bridge.functions b where b.name = f.name);
end
$$;
comment on function public.bridge_describe is
    'Describes the functions [{name, result}] of a worker that starts. A result above 64 KiB is left out.';
