-- Tables of the baselines: a chat as in a tutorial, and a queue that workers poll.

create table if not exists public.chat_messages (
    id uuid primary key default gen_random_uuid(),
    chat_id uuid not null,
    user_id uuid not null default auth.uid(),
    role text not null default 'user',
    content text not null default '',
    status text not null default 'queued',
    reply_to uuid,
    created_at timestamptz not null default clock_timestamp()
);
comment on table public.chat_messages is 'Messages of a chat, as the baselines store them.';
create index if not exists chat_messages_of_chat on public.chat_messages (chat_id, created_at);
alter table public.chat_messages enable row level security;
drop policy if exists "own messages" on public.chat_messages;
create policy "own messages" on public.chat_messages
    to authenticated using (user_id = (select auth.uid())) with check (user_id = (select auth.uid()));
grant select, insert on public.chat_messages to authenticated;
grant select, insert, update, delete on public.chat_messages to service_role;

do $$
begin
    if not exists (select from pg_publication_tables
                    where pubname = 'supabase_realtime' and tablename = 'chat_messages') then
        alter publication supabase_realtime add table public.chat_messages;
    end if;
end
$$;

-- a queue like pgmq's: reading a message hides it for some seconds, and finishing it deletes it
create table if not exists public.queue (
    id bigint generated always as identity primary key,
    topic text not null,
    message jsonb not null,
    visible_at timestamptz not null default now(),
    reads int not null default 0,
    created_at timestamptz not null default clock_timestamp()
);
comment on table public.queue is 'A queue in the manner of pgmq.';
create index if not exists queue_visible on public.queue (topic, visible_at, id);
alter table public.queue enable row level security;
grant insert on public.queue to authenticated;
drop policy if exists "anybody asks" on public.queue;
create policy "anybody asks" on public.queue for insert to authenticated with check (true);
grant select, insert, update, delete on public.queue to service_role;

create or replace function public.queue_read(topic text, seconds int, most int) returns setof public.queue
language plpgsql
set search_path = ''
as $$
begin
    return query
        update public.queue q
           set visible_at = clock_timestamp() + make_interval(secs => queue_read.seconds), reads = q.reads + 1
         where q.id in (
            select x.id from public.queue x
             where x.topic = queue_read.topic and x.visible_at <= clock_timestamp() order by x.id limit queue_read.most for update skip locked)
        returning q.*;
end
$$;
comment on function public.queue_read is 'Takes up to `most` messages and hides them for some seconds.';
revoke all on function public.queue_read from public, anon, authenticated;
grant execute on function public.queue_read to service_role;
