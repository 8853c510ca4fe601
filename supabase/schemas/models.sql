-- The models that users may choose: names of clients in baml_src. The foreign keys make this table the allow-list.

create table public.models (
    name text primary key,
    title text,
    ordinal int not null default 0,
    constraint models_name_size check (octet_length(name) between 1 and 128),
    constraint models_title_size check (octet_length(title) between 1 and 256),
    constraint models_printable check (
        concat_ws(' ', name, title)
            !~ '[\u0001-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]')
);
comment on table public.models is 'The models that users may choose. Empty: each function uses its own.';
comment on column public.models.name is 'The name of a client in baml_src.';
comment on column public.models.title is 'What to call it; null: its name.';
comment on column public.models.ordinal is 'Its place in a list.';

alter table public.models enable row level security;
revoke all on public.models from public, anon, authenticated, service_role;
grant select on public.models to authenticated;
grant select, insert, update, delete on public.models to service_role;

create policy "signed-in users read the models" on public.models for select to authenticated using (true);

alter table public.sessions add constraint sessions_model_fkey
    foreign key (model) references public.models (name) on update cascade on delete set null;
create index sessions_of_model on public.sessions (model) where model is not null;

alter table public.messages add constraint messages_model_fkey
    foreign key (model) references public.models (name) on update cascade on delete set null;
create index messages_of_model on public.messages (model) where model is not null;
