-- Jobs in hand by their time, so that looking for those of vanished workers has a horizon too. A beat changes neither
-- column, and stays in its page. Alone in its migration: one that locks two tables can deadlock with a worker.

create index jobs_in_hand on bridge.jobs (run_at, id) where worker is not null;
drop index bridge.jobs_held;
