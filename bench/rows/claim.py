"""The claim of one job, called by SQL as the service role, against a claim with 1,000 finished messages only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg.types.json import Jsonb

from bench import database
from bench.database import Database, one_row
from bench.report import BOUNDS, Measured, ratio
from bench.world import Project, World

WORKER = "bench"
STATES = [name.removeprefix("claim, ") for name in BOUNDS if name.startswith("claim, ")]


async def run(world: World) -> Measured:
    """Measure each state, and the plain one again in between: all of its samples are the baseline."""
    project = await world.project(realtime=False)
    count = world.pick(40, 150)
    finished = world.pick(100_000, 1_000_000)
    jobs = world.pick(20_000, 100_000)
    plain: list[float] = []
    samples: dict[str, list[float]] = {}
    url = project.environment["SUPABASE_DB_URL"]
    async with project.database() as db, database.service_role(url) as service, database.no_autovacuum(db):
        user_id = await database.create_user(db)
        await database.add_finished(db, user_id, 1_000)
        await claims(db, service, user_id, 20)
        plain += await claims(db, service, user_id, count)

        sessions = await database.open_sessions(db, user_id, 10_000)
        await _queue(db, sessions)
        samples["10,000 queued"] = await claims(db, service, None, count)
        await database.clear_queue(db)
        plain += await claims(db, service, user_id, count)

        (session,) = await database.open_sessions(db, user_id, 1)
        await _queue(db, [session] * 1_000)
        # released each time, so that it stays at 1,000 and the session's history does not grow
        samples["1,000 queued in one session"] = await claims(db, service, None, count, "released")
        await database.clear_queue(db)
        plain += await claims(db, service, user_id, count)

        async with _snapshot(project):
            await _churn(db, user_id, jobs)
            samples["100,000 jobs under one snapshot"] = await claims(db, service, user_id, count)
        await database.clear_queue(db)
        await db.execute("vacuum analyze bridge.jobs")
        plain += await claims(db, service, user_id, count)

        await database.add_finished(db, user_id, finished)
        await db.execute("analyze")
        await claims(db, service, user_id, 20)
        samples["1,000,000 finished"] = await claims(db, service, user_id, count)
        plain += await claims(db, service, user_id, count) if world.quick else []
        await db.execute("truncate public.sessions cascade")
    names = {"1,000,000 finished": f"{finished:,} finished", "100,000 jobs under one snapshot": f"{jobs:,} jobs"}
    figures = [
        ratio(f"claim, {state}", samples[state], plain, unit="ms", state=names.get(state, state), claims=count)
        for state in STATES
    ]
    return Measured(figures, {"claim": {"1,000 finished": plain, **samples}})


async def claims(
    db: Database, service: Database, user_id: str | None, count: int, outcome: str = "done"
) -> list[float]:
    """Milliseconds of each of `count` claims of one job; with `user_id`, each of a question just asked."""
    taken: list[float] = []
    for _ in range(count):
        if user_id is not None:
            (session,) = await database.open_sessions(db, user_id, 1)
            await database.ask(db, [(session, "a question")])
        began = time.perf_counter()
        row = await one_row(
            service, "select public.bridge_claim(%s, 1, '{}', 30, 100, '{Chat}', capacity => 0) as claim", (WORKER,)
        )
        taken.append((time.perf_counter() - began) * 1000)
        (job,) = row["claim"]["jobs"]
        result = {
            "question_id": job["question_id"],
            "attempt": job["attempt"],
            "outcome": outcome,
            "content": "a reply",
        }
        await service.execute("select public.bridge_finish(%s, %s, true)", (WORKER, Jsonb([result])))
    return taken


async def _queue(db: Database, sessions: list[str]) -> None:
    """Ask a question in each of these sessions."""
    for at in range(0, len(sessions), 1_000):
        await database.ask(db, [(session, "a question that waits") for session in sessions[at : at + 1_000]])
    await db.execute("analyze")


@asynccontextmanager
async def _snapshot(project: Project) -> AsyncIterator[None]:
    """An open transaction: rows that it can still see are not cleaned up."""
    async with await psycopg.AsyncConnection.connect(project.admin_url) as db:
        await db.execute("set transaction isolation level repeatable read")
        await db.execute("select count(*) from bridge.jobs")
        yield
        await db.rollback()


async def _churn(db: Database, user_id: str, jobs: int) -> None:
    """Insert, claim and delete jobs by the thousand, bypassing the triggers, dated over the last hour."""
    steps = jobs // 1_000
    for step in range(steps):
        ago = 3600 * (1 - (step + 1) / steps)
        async with database.bypassing_triggers(db):
            await db.execute(
                """
                insert into bridge.jobs (question_id, session_id, user_id, ordinal, run_at, function)
                select gen_random_uuid(), gen_random_uuid(), %s, 2, now() - make_interval(secs => %s), 'Chat'
                  from generate_series(1, 1000)
                """,
                (user_id, ago),
            )
        async with database.bypassing_triggers(db):
            await db.execute(
                "update bridge.jobs set worker = %s, lease_until = run_at + interval '30 seconds'", (WORKER,)
            )
        async with database.bypassing_triggers(db):
            await db.execute("delete from bridge.jobs")
