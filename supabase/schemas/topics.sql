-- Who may listen on which private topic. Only the service role may send.
--
-- On the hosted service `postgres` may only create and drop policies here, and some projects refuse even that to
-- `supabase db push` (supabase/cli issue 6116). Then this warns, and `bridge doctor` prints what to run in the SQL
-- editor of the dashboard.

create function bridge.topics_policy() returns text
language plpgsql immutable set search_path = ''
as $function$
begin
    -- the id is cast behind a guard and compared with the key: one index lookup, however many sessions there are
    return $policy$create policy "bridge: users listen on their own topics" on realtime.messages
    for select to authenticated
    using (
        extension = 'broadcast'
        and case
            when (select realtime.topic()) ~ '^session:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then exists (
                select from public.sessions s
                 where s.id = substr((select realtime.topic()), 9)::uuid and s.user_id = (select auth.uid()))
            else (select realtime.topic()) = 'user:' || (select auth.uid())::text
        end
    );$policy$;
end
$function$;
comment on function bridge.topics_policy is 'The statement that lets users listen on their own topics.';
revoke all on function bridge.topics_policy from public, anon, authenticated, service_role;

do $$
begin
    if not exists (
        select from pg_catalog.pg_policies p
         where p.schemaname = 'realtime' and p.tablename = 'messages' and p.policyname like 'bridge: %'
    ) then
        execute bridge.topics_policy();
    end if;
exception when insufficient_privilege then
    raise warning 'Creating the policy on realtime.messages was refused (%). Run `bridge doctor`: it prints what to run in the SQL editor of the dashboard.', sqlerrm;
end
$$;
