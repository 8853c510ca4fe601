-- A limited subquery that locks is run again for each row where the plan is a nested loop, and then takes other rows:
-- a call deleted more than its `max_rows`. As a CTE it is run once.

create or replace function public.bridge_trim(
    runs_days int default 30, dead_letters_days int default 90, versions_days int default null, max_rows int default 5000
) returns jsonb
language plpgsql
security definer
set search_path = ''
set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int := 0;
    letters int := 0;
    versions int := 0;
    ids int := 0;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days) < 1 then
        raise exception 'days must be at least 1; null keeps all' using errcode = '22023';
    end if;
    -- first the letters: they keep their runs
    with old as materialized (
        select x.id from bridge.dead_letters x
         where x.created_at < now() - make_interval(days => bridge_trim.dead_letters_days)
         order by x.created_at limit rest for update skip locked)
    delete from bridge.dead_letters d using old
     where d.id = old.id;
    get diagnostics letters = row_count;
    rest := rest - letters;
    with old as materialized (
        select x.message_id, x.attempt from bridge.runs x
         where x.created_at < now() - make_interval(days => bridge_trim.runs_days)
           and not exists (select from bridge.jobs j where j.message_id = x.message_id)
           and not exists (select from bridge.dead_letters d where d.message_id = x.message_id)
           -- without a reply its runs alone know the last attempt, which the next one must exceed
           and exists (select from public.messages m where m.reply_to = x.message_id)
         order by x.created_at limit rest for update skip locked)
    delete from bridge.runs r using old
     where r.message_id = old.message_id and r.attempt = old.attempt;
    get diagnostics runs = row_count;
    rest := rest - runs;
    with old as materialized (
        select x.id from public.code_file_versions x
         where x.created_at < now() - make_interval(days => bridge_trim.versions_days)
         order by x.created_at limit rest for update skip locked)
    delete from public.code_file_versions v using old
     where v.id = old.id;
    get diagnostics versions = row_count;
    rest := rest - versions;
    -- deletions forget some as well, but one of many sessions at once leaves more than it forgets
    with old as materialized (
        select x.id from bridge.deleted_ids x where x.deleted_at < now() - interval '7 days'
         order by x.deleted_at limit rest for update skip locked)
    delete from bridge.deleted_ids i using old where i.id = old.id;
    get diagnostics ids = row_count;
    return jsonb_build_object(
        'runs', runs, 'dead_letters', letters, 'versions', versions, 'more', rest - ids = 0);
end
$$;
