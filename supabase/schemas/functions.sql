-- The catalogue: which functions there are, and what users see of each.

create table public.functions (
    name text primary key,
    result json,  -- not jsonb, which forgets the order of fields
    updated_at timestamptz not null default now(),
    title text,
    description text,
    parameters json,  -- in the order in which a form shows them
    suggestions jsonb not null default '[]',
    reads_files boolean not null default false,
    accepts jsonb not null default '[]',
    constraint functions_name_size check (octet_length(name) between 1 and 128),
    constraint functions_result_size check (octet_length(result::text) <= 65536),
    constraint functions_title_size check (octet_length(title) between 1 and 256),
    constraint functions_description_size check (octet_length(description) between 1 and 1024),
    constraint functions_parameters_size check (octet_length(parameters::text) <= 65536),
    constraint functions_suggestions_size check (
        jsonb_typeof(suggestions) = 'array' and jsonb_array_length(suggestions) <= 8
        and octet_length(suggestions::text) <= 8192),
    constraint functions_suggestions_text check (not jsonb_path_exists(suggestions, '$[*] ? (@.type() != "string")')),
    -- No control characters, and none that turn the direction of text or have no width. In the text of jsonb, control
    -- characters are escaped, and nothing else is but quotes and backslashes.
    constraint functions_printable check (
        concat_ws(' ', name, title, description)
            !~ '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'),
    constraint functions_suggestions_printable check (
        suggestions::text
            !~ '(^|[^\\])(\\\\)*\\[bfnrtu]|[\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'),
    constraint functions_parameters_printable check (
        parameters::jsonb::text
            !~ '(^|[^\\])(\\\\)*\\[bfu]|[\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'),
    constraint functions_result_printable check (
        result::jsonb::text
            !~ '(^|[^\\])(\\\\)*\\[bfu]|[\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'),
    constraint functions_accepts check (
        jsonb_typeof(accepts) = 'array' and jsonb_array_length(accepts) <= 32
        and not jsonb_path_exists(accepts, '$[*] ? (!(@ like_regex "^[a-z0-9.+-]{1,127}/[a-z0-9.+-]{1,127}$"))'))
);
comment on table public.functions is 'The functions that workers answer, as each worker describes them when it starts.';
comment on column public.functions.result is
    'The JSON schema of the function''s result, with the fields in the order of its class; null if it is not known.';
comment on column public.functions.updated_at is 'When a worker last described it.';
comment on column public.functions.title is 'What to call it; null: its name.';
comment on column public.functions.description is 'What it does, in one line.';
comment on column public.functions.parameters is
    'The JSON schema (an object) of the arguments that it takes from a question''s data; null if there are none.';
comment on column public.functions.suggestions is 'Questions to start with: a list of texts.';
comment on column public.functions.reads_files is 'Whether it reads the session''s files.';
comment on column public.functions.accepts is 'The types of attachments that it reads, such as image/png.';

alter table public.functions enable row level security;
revoke all on public.functions from public, anon, authenticated, service_role;
grant select on public.functions to authenticated;
grant select, insert, update, delete on public.functions to service_role;

create policy "signed-in users read the functions" on public.functions for select to authenticated using (true);

create function public.bridge_describe(functions json) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    item json;
    its record;
begin
    for item in
        select distinct on (x.item ->> 'name') x.item
          from json_array_elements(bridge_describe.functions) x (item)
         where octet_length(x.item ->> 'name') between 1 and 128
           and x.item ->> 'name' !~ '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]'
         order by x.item ->> 'name'
         limit 1000
    loop
        begin
            select * into its from json_to_record(item) x (
                name text, title text, description text, parameters json, result json, suggestions jsonb,
                reads_files boolean, accepts jsonb, internal boolean);
            if its.internal then
                delete from public.functions f where f.name = its.name;
            elsif item -> 'title' is null then  -- an older worker knows of nothing but the result
                insert into public.functions as f (name, result) values (its.name, its.result)
                on conflict (name) do update set result = excluded.result, updated_at = now();
            else
                insert into public.functions as f (
                    name, title, description, parameters, result, suggestions, reads_files, accepts)
                values (its.name, its.title, its.description, its.parameters, its.result,
                        coalesce(its.suggestions, '[]'), coalesce(its.reads_files, false),
                        coalesce(its.accepts, '[]'))
                on conflict (name) do update
                   set title = excluded.title, description = excluded.description, parameters = excluded.parameters,
                       result = excluded.result, suggestions = excluded.suggestions,
                       reads_files = excluded.reads_files, accepts = excluded.accepts, updated_at = now();
            end if;
        exception when data_exception or integrity_constraint_violation then  -- of the rest, something is too large
            insert into public.functions as f (name) values (item ->> 'name')
            on conflict (name) do update set result = null, updated_at = now();
        end;
    end loop;
    -- what no worker has known within the last day
    delete from public.functions f
     where f.updated_at < now() - interval '1 day'
       and not exists (select from bridge.functions b where b.name = f.name);
end
$$;
comment on function public.bridge_describe is
    'Describes the functions [{name, title, description, parameters, result, suggestions, reads_files, accepts}] of a worker that '
    'starts. An item without the key title, as older workers send it, changes only the result. One that is internal is '
    'removed. Of one that breaks a bound of the table, only the name is kept.';
