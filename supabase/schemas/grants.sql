-- Who may call what. The tables' grants stand with the tables.

revoke all on all functions in schema bridge from public, anon, authenticated, service_role;

-- for users: the public functions run as their caller, and the private ones check whose message it is
revoke all on function public.cancel_message, public.retry_message, public.answer_message from public, anon, authenticated, service_role;
grant usage on schema bridge to authenticated;
grant execute on function bridge.cancel_message, bridge.retry_message, bridge.answer_message to authenticated;
-- in a policy of Storage
grant execute on function bridge.may_upload to authenticated;
grant execute on function public.cancel_message, public.retry_message, public.answer_message to authenticated;

-- for workers and operators, who hold the secret key
revoke all on function
    public.bridge_claim, public.bridge_beat, public.bridge_finish, public.bridge_title, public.bridge_leave,
    public.bridge_probe, public.bridge_describe, public.bridge_step, public.bridge_steps,
    public.bridge_orphans, public.bridge_orphans_done, public.bridge_status, public.bridge_doctor, public.bridge_trim,
    public.bridge_list_steps, public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop
    from public, anon, authenticated;
grant execute on function
    public.bridge_claim, public.bridge_beat, public.bridge_finish, public.bridge_title, public.bridge_leave,
    public.bridge_probe, public.bridge_describe, public.bridge_step, public.bridge_steps,
    public.bridge_orphans, public.bridge_orphans_done, public.bridge_status, public.bridge_doctor, public.bridge_trim,
    public.bridge_list_steps, public.bridge_dead_letters, public.bridge_dead_retry, public.bridge_dead_drop
    to service_role;
