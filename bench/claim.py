"""The claim of one job, by SQL as the service role, against a claim with 1,000 finished messages and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bench import backlog
from bench.backlog import Database
from bench.report import Measured, ratio
from bench.world import Project, World
from tests.support.database import Row

WORKER = "bench"
BOUNDS = {
    "1,000,000 finished": 1.2,
    "10,000 queued": 1.5,
    "1,000 queued in one session": 2.0,
    "100,000 jobs under one snapshot": 3.0,
}


async def run(world: World) -> Measured:
    """Each state in turn, and the plain one again between them: all of its samples are the baseline."""
    project = await world.project(realtime=False)
    count = world.pick(40, 150)
    finished = world.pick(100_000, 1_000_000)
    jobs = world.pick(20_000, 100_000)
    plain: list[float] = []
    samples: dict[str, list[float]] = {}
    async with project.database() as db, service_role(project) as service, no_autovacuum(db):
        user_id = await user(db)
        await backlog.finished(db, user_id, 1_000)
        await _claims(db, service, user_id, 20)
        plain += await _claims(db, service, user_id, count)

        sessions = await backlog.open_sessions(db, user_id, 10_000)
        await queue(db, sessions)
        await db.execute("analyze")
        samples["10,000 queued"] = await _claims(db, service, None, count)
        await clear(db)
        plain += await _claims(db, service, user_id, count)

        (session,) = await backlog.open_sessions(db, user_id, 1)
        await queue(db, [session] * 1_000)
        await db.execute("analyze")
        # given back each time: it stays at 1,000, and no history grows that others do not have
        samples["1,000 queued in one session"] = await _claims(db, service, None, count, "released")
        await clear(db)
        plain += await _claims(db, service, user_id, count)

        async with snapshot(project):
            await churn(db, user_id, jobs)
            samples["100,000 jobs under one snapshot"] = await _claims(db, service, user_id, count)
        await clear(db)
        await db.execute("vacuum analyze bridge.jobs")
        plain += await _claims(db, service, user_id, count)

        await backlog.finished(db, user_id, finished)
        await db.execute("analyze")
        await _claims(db, service, user_id, 20)
        samples["1,000,000 finished"] = await _claims(db, service, user_id, count)
        plain += await _claims(db, service, user_id, count) if world.quick else []
        await db.execute("truncate public.sessions cascade")
    names = {"1,000,000 finished": f"{finished:,} finished", "100,000 jobs under one snapshot": f"{jobs:,} jobs"}
    figures = [
        ratio(f"claim, {state}", samples[state], plain, bound, unit="ms", state=names.get(state, state), claims=count)
        for state, bound in BOUNDS.items()
    ]
    return Measured(figures, {"claim": {"1,000 finished": plain, **samples}})


@asynccontextmanager
async def service_role(project: Project) -> AsyncIterator[Database]:
    """A connection as the service role, as REST makes them."""
    url = project.environment["SUPABASE_DB_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row) as db:
        await db.execute("set role service_role")
        yield db


@asynccontextmanager
async def no_autovacuum(db: Database) -> AsyncIterator[None]:
    """Autovacuum comes by the clock, and right after tables were filled: it would be measured along."""
    await db.execute("alter system set autovacuum = off")
    await db.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        await db.execute("alter system reset autovacuum")
        await db.execute("select pg_reload_conf()")


@asynccontextmanager
async def snapshot(project: Project) -> AsyncIterator[None]:
    """A transaction that began before, and keeps what it can see from being cleaned up."""
    async with await psycopg.AsyncConnection.connect(project.admin_url) as db:
        await db.execute("set transaction isolation level repeatable read")
        await db.execute("select count(*) from bridge.jobs")
        yield
        await db.rollback()


async def _claims(
    db: Database, service: Database, user_id: str | None, count: int, outcome: str = "done"
) -> list[float]:
    """Milliseconds of so many claims of one job each; with `user_id`, each of a question just asked."""
    taken: list[float] = []
    for _ in range(count):
        if user_id is not None:
            (session,) = await backlog.open_sessions(db, user_id, 1)
            await backlog.ask(db, [(session, "a question")])
        began = time.perf_counter()
        cursor = await service.execute("select public.bridge_claim(%s, 1, '{}', 30, 100) as claim", (WORKER,))
        row: Any = await cursor.fetchone()
        taken.append((time.perf_counter() - began) * 1000)
        (job,) = row["claim"]["jobs"]
        result = {
            "question_id": job["question_id"],
            "attempt": job["attempt"],
            "outcome": outcome,
            "content": "a reply",
        }
        await service.execute("select public.bridge_finish(%s, %s)", (WORKER, Jsonb([result])))
    return taken


async def user(db: Database) -> str:
    """Somebody with sessions; gives the id."""
    cursor = await db.execute("insert into auth.users (id) values (gen_random_uuid()) returning id::text")
    row: Row | None = await cursor.fetchone()
    assert row is not None
    return str(row["id"])


async def queue(db: Database, sessions: list[str]) -> None:
    """A question in each of these sessions."""
    for at in range(0, len(sessions), 1_000):
        await backlog.ask(db, [(session, "a question that waits") for session in sessions[at : at + 1_000]])


async def churn(db: Database, user_id: str, jobs: int) -> None:
    """Jobs that come, are claimed and end, by the thousand and past the triggers, as if over the last hour."""
    steps = jobs // 1_000
    for step in range(steps):
        ago = 3600 * (1 - (step + 1) / steps)
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute(
                """
                insert into bridge.jobs (question_id, session_id, user_id, ordinal, run_at)
                select gen_random_uuid(), gen_random_uuid(), %s, 2, now() - make_interval(secs => %s)
                  from generate_series(1, 1000)
                """,
                (user_id, ago),
            )
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute(
                "update bridge.jobs set worker = %s, lease_until = run_at + interval '30 seconds'", (WORKER,)
            )
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute("delete from bridge.jobs")


async def clear(db: Database) -> None:
    """An empty queue, as vacuum leaves it."""
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")
        await db.execute("delete from bridge.jobs")
    await db.execute("vacuum bridge.jobs")
    await db.execute("vacuum public.messages")
