-- Reads all messages, under a lock that nobody waits for.

alter table public.messages validate constraint messages_content_size;
