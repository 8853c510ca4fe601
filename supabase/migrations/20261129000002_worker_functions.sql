-- What each worker answers: bridge.workers.functions, and the functions that some worker has known lately.
--
-- A migration of its own: it locks bridge.workers for a moment. A claim locks that table first and the queue later, and
-- a finish the other way round, so whoever locks both at once may end in a deadlock with one of them.

alter table bridge.workers add column functions text[];
comment on column bridge.workers.functions is
    'The functions that the worker answers; null: a worker of an older version, which does not say and takes every job.';

create table bridge.functions (
    name text primary key,
    known_until timestamptz not null
) with (fillfactor = 50);
comment on table bridge.functions is
    'The functions that workers have known within the last day. A job whose function is not in it, or only in the past, waits for half a minute and then fails.';
comment on column bridge.functions.known_until is
    'Until when a worker that knows it counts as live, or when the last one left.';

revoke all on bridge.functions from public, anon, authenticated, service_role;
