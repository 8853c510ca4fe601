-- Drops everything that `schema.sql` creates.
drop policy if exists conformance_listen on realtime.messages;
drop policy if exists conformance_send on realtime.messages;
drop policy if exists conformance_objects on storage.objects;
drop function if exists public.conformance_echo, public.conformance_total, public.conformance_words,
    public.conformance_own_notes, public.conformance_nothing, public.conformance_odd_names, public.conformance_who,
    public.conformance_fail, public.conformance_service_only, public.conformance_send;
drop table if exists public.conformance_types, public.conformance_comments, public.conformance_counters, public.conformance_notes,
    public.conformance_defaults;
notify pgrst, 'reload schema';
