-- Orphans: objects of the bucket `attachments` that nobody needs: those of deleted sessions, and those that no message has
-- named for a day.
--
-- Storage refuses deletions in SQL. So the database only notes what to remove, and workers remove it through the API.

create table bridge.orphans (
    prefix text primary key,
    since timestamptz not null default now(),
    taken_until timestamptz not null default '-infinity',
    worker text
);
comment on table bridge.orphans is 'What workers are to remove from the bucket `attachments`.';
comment on column bridge.orphans.prefix is 'The name of an object or, with a slash at the end, of a session: all below it.';
comment on column bridge.orphans.taken_until is 'Until when its worker has time to remove it; then another one does.';
comment on column bridge.orphans.worker is 'The worker that was asked last to remove it.';

create table bridge.orphan_search (
    id boolean primary key default true,
    position text not null default '',
    next_at timestamptz not null default '-infinity',
    constraint orphan_search_one_row check (id)
);
comment on table bridge.orphan_search is 'How far the search for objects that no message names has come. One row.';
comment on column bridge.orphan_search.position is 'The object that was looked at last; empty: the search begins again.';

insert into bridge.orphan_search default values;

revoke all on bridge.orphans, bridge.orphan_search from public, anon, authenticated, service_role;

create function bridge.orphan_sessions() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if bridge.has_storage() then
        insert into bridge.orphans (prefix)
        select d.id || '/' from deleted d where bridge.count_objects(d.id, 1) > 0 order by d.id
            on conflict do nothing;
    end if;
    return null;
end
$$;
comment on function bridge.orphan_sessions is 'Notes the objects of deleted sessions, so that a worker removes them.';

create trigger orphan_sessions after delete on public.sessions
    referencing old table as deleted
    for each statement execute function bridge.orphan_sessions();

create function bridge.find_orphans(most int) returns void
language plpgsql set search_path = ''
as $$
declare
    search bridge.orphan_search;
    names text[];
    unnamed text[];
    locked uuid[];
begin
    select s.* into search from bridge.orphan_search s where s.next_at <= now() for update skip locked;
    if not found then
        return;
    end if;
    names := array(
        select o.name from storage.objects o
         where o.bucket_id = 'attachments' and o.name collate "C" > search.position
         order by o.name collate "C" limit find_orphans.most);
    update bridge.orphan_search s
       set position = case when cardinality(names) = find_orphans.most then names[find_orphans.most] else '' end,
           next_at = now() + case when cardinality(names) = find_orphans.most
                                  then interval '1 minute' else interval '10 minutes' end
     where s.id;
    unnamed := array(
        select n.name from unnest(names) n (name)
         where not exists (select from bridge.attachments a where a.path = n.name)
           and n.name ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/');
    -- A question that names one holds its session. A locked session is left to the next search.
    locked := array(
        select s.id from public.sessions s
         where s.id in (select split_part(u.name, '/', 1)::uuid from unnest(unnamed) u (name))
         order by s.id for no key update skip locked);
    insert into bridge.orphans (prefix)
    select u.name
      from unnest(unnamed) u (name)
     cross join lateral (select split_part(u.name, '/', 1)::uuid as session_id) o
     where case when o.session_id = any (locked)
                then not exists (select from bridge.attachments a where a.path = u.name)
                     -- of a reply that is not finished
                     and not exists (select from bridge.jobs j where j.session_id = o.session_id)
                     and exists (
                        select from storage.objects x
                         where x.bucket_id = 'attachments' and x.name = u.name
                           and x.created_at < now() - interval '1 day')
                else not exists (select from public.sessions s where s.id = o.session_id)
                     and not exists (select from bridge.orphans r where r.prefix = o.session_id || '/') end
     order by u.name
        on conflict do nothing;
end
$$;
comment on function bridge.find_orphans is
    'Looks at the next `most` objects, if that is due, and notes those that no message has named for a day, and those whose session does not exist.';

create function bridge.has_orphans() returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return exists (select from bridge.orphans o where o.taken_until <= now())
        or exists (select from bridge.orphan_search s where s.next_at <= now());
end
$$;
comment on function bridge.has_orphans is 'Whether a worker should call bridge_orphans.';

create function public.bridge_orphans(worker text, most int default 20) returns jsonb
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
declare
    taken text[];
begin
    if bridge.has_storage() then
        perform bridge.find_orphans(1000);
    else
        update bridge.orphan_search s set next_at = now() + interval '1 hour' where s.next_at <= now();
    end if;
    with locked as (
        select o.prefix from bridge.orphans o
         where o.taken_until <= now()
         order by o.since limit least(bridge_orphans.most, 100) for update skip locked
    ), updated as (
        update bridge.orphans o set taken_until = now() + interval '20 seconds', worker = bridge_orphans.worker
          from locked l where o.prefix = l.prefix
        returning o.prefix
    )
    select array_agg(u.prefix order by u.prefix) into taken from updated u;
    return to_jsonb(coalesce(taken, '{}'));
end
$$;
comment on function public.bridge_orphans is
    'Up to `most` names of objects to remove from the bucket `attachments`, or with a slash at the end of sessions, all of whose objects are to be removed. The caller has 20 seconds; then another worker gets them.';

create function public.bridge_orphans_done(worker text, prefixes text[]) returns void
language plpgsql security definer set search_path = '' set statement_timeout = '6s'
as $$
begin
    delete from bridge.orphans o where o.prefix = any (array(
        select x.prefix from bridge.orphans x
         where x.prefix = any (bridge_orphans_done.prefixes) order by x.prefix for update skip locked));
end
$$;
comment on function public.bridge_orphans_done is 'Forgets what was removed. Safe to repeat.';
