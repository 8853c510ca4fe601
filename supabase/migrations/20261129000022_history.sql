-- History that a model can live with: only questions with their replies, and the replies' data.

create function bridge.data_of(reply jsonb) returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
    rest jsonb := nullif(data_of.reply, 'null');
begin
    if jsonb_typeof(rest) = 'object' then
        -- only where the worker has made them the reply's text and files; otherwise they are ordinary data
        if jsonb_typeof(rest -> 'reply') = 'string' then
            rest := rest - 'reply';
        end if;
        if not jsonb_path_exists(rest, 'lax $.files[*] ? (!exists (@.path) || !exists (@.content))') then
            rest := rest - 'files';
        end if;
    end if;
    return nullif(rest, '{}');
end
$$;
comment on function bridge.data_of is
    'What a reply''s `data` says beyond its text and its files, which are stored as such; null: nothing.';

create or replace function bridge.history_of(question public.messages, most int) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    -- An older worker knows no data: of a reply without text, it would make an empty message, which some models refuse.
    -- No join, which would fit jobs_held too, with the entries of all ended jobs.
    is_older boolean := (
        select w.functions is null from bridge.workers w
         where w.name = (select j.worker from bridge.jobs j where j.question_id = question.id));
    pair record;
    data jsonb;
    bytes bigint := 0;
    messages jsonb[] := '{}';
begin
    -- the newest first, until a limit is reached
    for pair in
        select q.content as asked, r.content as replied, r.data from public.messages r
          join public.messages q on q.id = r.reply_to
         where r.session_id = question.session_id and r.ordinal < question.ordinal
           and r.status in ('done', 'cancelled')
           and (r.content <> '' or (is_older is not true and bridge.data_of(r.data) is not null))
         order by r.ordinal desc limit history_of.most / 2
    loop
        data := bridge.data_of(pair.data);
        bytes := bytes + octet_length(pair.asked) + octet_length(pair.replied) + coalesce(octet_length(data::text), 0);
        exit when bytes > 262144;
        if not bridge.is_readable(data) then  -- a trigger or an administrator wrote it
            continue when pair.replied = '';
            data := null;
        end if;
        messages := messages
            || jsonb_build_object('role', 'assistant', 'content', pair.replied, 'data', data)
            || jsonb_build_object('role', 'user', 'content', pair.asked);
    end loop;
    return (
        select coalesce(jsonb_agg(m.message order by m.n desc), '[]')
          from unnest(messages) with ordinality m (message, n));
end
$$;
comment on function bridge.history_of is
    'What was said before a question, as [{role, content, data?}]: the questions that have a reply, each followed by it, up to `most` messages and 256 KiB. One that failed, or was cancelled before it had any text, is left out.';

revoke all on function bridge.data_of from public, anon, authenticated, service_role;
