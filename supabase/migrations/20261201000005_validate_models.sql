-- Reads all messages and sessions, under locks that nobody waits for.

alter table public.messages validate constraint messages_model_fkey;
alter table public.sessions validate constraint sessions_model_fkey;
