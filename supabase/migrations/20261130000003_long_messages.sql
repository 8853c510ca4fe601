-- A question may have up to 128 KiB: how many is up to the limit `message_bytes`.

alter table public.messages
    drop constraint messages_content_size,
    -- every row keeps the old rule, so it keeps this one: no scan while the table is locked
    add constraint messages_content_size
        check (octet_length(content) <= case role when 'user' then 131072 else 1048576 end) not valid;

create or replace function bridge.check_question(question public.messages, owner uuid) returns void
language plpgsql set search_path = ''
as $$
declare
    -- no more than messages_content_size allows, whatever the limit says
    most bigint := least(bridge.limit_of('message_bytes', check_question.owner), 131072);
begin
    if question.content !~ '\S' then
        raise exception 'The message is empty' using errcode = 'PT400', hint = 'Write some text into "content".';
    end if;
    if octet_length(question.content) > most then
        raise exception 'Message too long: % bytes (limit %)', octet_length(question.content), most
            using errcode = 'PT413', hint = 'Shorten it, or put long text into a code file.';
    end if;
    if jsonb_typeof(question.data) <> 'object' or octet_length(question.data::text) > 32768 then
        raise exception '"data" must be a JSON object of at most 32768 bytes (32 KiB)' using errcode = 'PT400';
    end if;
end
$$;
