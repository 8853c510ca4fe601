-- Retention: bounded deletes of everything that would otherwise grow for ever.

create function bridge.trim_runs(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    deleted int;
begin
    delete from bridge.runs r where r.ctid = any (array(
        select x.ctid from bridge.runs x
         where x.created_at < now() - make_interval(days => trim_runs.days)
           and not exists (select from bridge.jobs j where j.question_id = x.question_id)
           and not exists (select from bridge.dead_letters d where d.question_id = x.question_id)
           -- without a reply, only the runs know the last attempt, which the next one must exceed
           and exists (select from public.messages m where m.reply_to = x.question_id)
         order by x.created_at limit trim_runs.most for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_runs is
    'Deletes up to `most` runs older than `days` whose question is answered and has no dead letter; returns how many.';

create function bridge.trim_steps(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    deleted int;
begin
    delete from bridge.steps s where s.ctid = any (array(
        select x.ctid from bridge.steps x
         where x.created_at < now() - make_interval(days => trim_steps.days)
           and not exists (select from bridge.jobs j where j.question_id = x.question_id)
           and not exists (select from bridge.dead_letters d where d.question_id = x.question_id)
         limit trim_steps.most for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_steps is
    'Deletes up to `most` steps older than `days` whose question has ended and has no dead letter; returns how many.';

create function bridge.is_needed(path text, days int) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return exists (
        select from bridge.attachments a
         where a.path = is_needed.path
           and (a.created_at >= now() - make_interval(days => is_needed.days)
                or exists (
                    select from public.messages m
                     where m.id = a.message_id
                       and (exists (select from bridge.jobs j where j.question_id = coalesce(m.reply_to, m.id))
                            or exists (
                                select from bridge.dead_letters d where d.question_id = coalesce(m.reply_to, m.id))))));
end
$$;
comment on function bridge.is_needed is
    'Whether an attachment was named in the last `days`, or by a question that has not ended or has a dead letter, or by its reply.';

create function bridge.trim_attachments(days int, most int) returns int
language plpgsql set search_path = ''
as $$
declare
    paths text[];
    locked uuid[];
    deleted int;
begin
    paths := array(
        select x.path from (
            select a.path from bridge.attachments a
             where a.created_at < now() - make_interval(days => trim_attachments.days)
               and not bridge.is_needed(a.path, trim_attachments.days)
             order by a.created_at limit trim_attachments.most for update skip locked) x);
    -- A question that names one again holds its session. A locked session is left to the next call.
    locked := array(
        select s.id from public.sessions s
         where s.id in (select split_part(p.path, '/', 1)::uuid from unnest(paths) p (path))
         order by s.id for no key update skip locked);
    paths := array(
        select distinct p.path from unnest(paths) p (path)
         where split_part(p.path, '/', 1)::uuid = any (locked)
           and not bridge.is_needed(p.path, trim_attachments.days));
    insert into bridge.orphans (prefix) select p.path from unnest(paths) p (path) order by p.path on conflict do nothing;
    delete from bridge.attachments a where a.path = any (paths);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function bridge.trim_attachments is
    'Notes up to `most` attachments that were named more than `days` ago and are not needed, so that a worker removes their objects; returns how often they were named, which may be more. Their messages stay.';

create function public.bridge_trim(
    runs_days int default 30,
    dead_letters_days int default 90,
    versions_days int default null,
    max_rows int default 5000,
    steps_days int default 7,
    attachments_days int default null
) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '20s'
as $$
declare
    rest int := coalesce(bridge_trim.max_rows, 0);
    runs int;
    letters int;
    versions int;
    steps int;
    attachments int;
begin
    if rest not between 1 and 50000 then
        raise exception 'max_rows must be from 1 to 50000' using errcode = '22023';
    end if;
    if least(bridge_trim.runs_days, bridge_trim.dead_letters_days, bridge_trim.versions_days, bridge_trim.steps_days,
             bridge_trim.attachments_days) < 1
    then
        raise exception 'days must be at least 1; null keeps all' using errcode = '22023';
    end if;
    -- An array, because it is computed once. As a joined subquery that locks, it would run again for each row where the
    -- plan is a nested loop, lock other rows, and delete more than max_rows.
    delete from bridge.dead_letters d where d.id = any (array(
        select x.id from bridge.dead_letters x
         where x.created_at < now() - make_interval(days => bridge_trim.dead_letters_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics letters = row_count;
    rest := rest - letters;
    runs := bridge.trim_runs(bridge_trim.runs_days, rest);  -- after the letters, which keep their runs
    rest := rest - runs;
    steps := bridge.trim_steps(bridge_trim.steps_days, rest);
    rest := rest - steps;
    delete from public.code_file_versions v where v.id = any (array(
        select x.id from public.code_file_versions x
         where x.created_at < now() - make_interval(days => bridge_trim.versions_days)
         order by x.created_at limit rest for update skip locked));
    get diagnostics versions = row_count;
    rest := rest - versions;
    attachments := bridge.trim_attachments(bridge_trim.attachments_days, rest);
    rest := greatest(rest - attachments, 0);  -- an object's names are forgotten together
    -- deletions forget ids as well, but one that deletes many sessions leaves more than it forgets
    rest := rest - bridge.forget_ids(rest);
    return jsonb_build_object(
        'runs', runs, 'dead_letters', letters, 'versions', versions, 'steps', steps,
        'attachments', attachments, 'more', rest = 0,
        'broadcasts', bridge.forget_broadcasts(array(
            select d.id from bridge.deleted_ids d where d.deleted_at > now() - interval '4 days')));
end
$$;
comment on function public.bridge_trim is
    'Deletes attempts, dead letters, steps and earlier versions of files that are older than the given days (null keeps all), at most max_rows rows; has workers remove attachments that are older; and deletes what Realtime still stores of broadcasts about deleted sessions. Returns {runs, dead_letters, versions, steps, attachments, broadcasts, more}; if `more`, call it again.';
