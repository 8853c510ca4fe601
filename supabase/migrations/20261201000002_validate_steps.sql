-- Reads all messages, sessions and runs, under locks that nobody waits for.

alter table public.messages validate constraint messages_status, validate constraint messages_parts_size;
alter table public.sessions validate constraint sessions_parent_fkey;
alter table bridge.runs validate constraint runs_outcome;
