-- How others remember steps: in the manner of Absurd, and of LangGraph.

create schema if not exists peers;

-- Absurd: a queue has tables of its own for tasks, runs and checkpoints, and each call names the queue. A step is two
-- calls: what is remembered of it, and what it gave, which extends the claim. Nothing is locked, as there.
create table if not exists peers.t_bench (
    task_id uuid primary key default gen_random_uuid(),
    state text not null default 'running',
    params jsonb not null default '{}'
);
create table if not exists peers.r_bench (
    run_id uuid primary key default gen_random_uuid(),
    task_id uuid not null,
    attempt int not null default 1,
    state text not null default 'running',
    claimed_by text not null default 'bench',
    claim_expires_at timestamptz not null default clock_timestamp()
);
create table if not exists peers.c_bench (
    task_id uuid not null,
    checkpoint_name text not null,
    state jsonb,
    status text not null default 'committed',
    owner_run_id uuid not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (task_id, checkpoint_name)
);

create or replace function peers.get_task_checkpoint_state(queue text, task uuid, step text) returns jsonb
language plpgsql stable
as $$
declare
    found_state jsonb;
begin
    execute format('select c.state from peers.%I c where c.task_id = $1 and c.checkpoint_name = $2', 'c_' || queue)
       into found_state using task, step;
    return found_state;
end
$$;

create or replace function peers.set_task_checkpoint_state(
    queue text, task uuid, step text, state jsonb, run uuid, claim_seconds int) returns void
language plpgsql
as $$
declare
    own record;
    other int;
begin
    execute format('select r.attempt, r.state as run, t.state as task from peers.%I r join peers.%I t using (task_id)'
                   ' where r.run_id = $1', 'r_' || queue, 't_' || queue)
       into own using run;
    if own.attempt is null or own.task = 'cancelled' or own.run = 'failed' then
        raise exception 'run % has ended', run;
    end if;
    execute format('update peers.%I set claim_expires_at = clock_timestamp() + make_interval(secs => $2)'
                   ' where run_id = $1', 'r_' || queue) using run, claim_seconds;
    execute format('select r.attempt from peers.%I c join peers.%I r on r.run_id = c.owner_run_id'
                   ' where c.task_id = $1 and c.checkpoint_name = $2', 'c_' || queue, 'r_' || queue)
       into other using task, step;
    if other is null or other <= own.attempt then
        execute format('insert into peers.%I (task_id, checkpoint_name, state, owner_run_id) values ($1, $2, $3, $4)'
                       ' on conflict (task_id, checkpoint_name) do update set state = excluded.state,'
                       ' owner_run_id = excluded.owner_run_id, updated_at = excluded.updated_at', 'c_' || queue)
          using task, step, state, run;
    end if;
end
$$;

-- LangGraph: the whole state, again with every step.
create table if not exists peers.checkpoints (
    thread uuid not null,
    step int not null,
    state jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (thread, step)
);
