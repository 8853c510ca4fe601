"""What a reply of 12 s costs: REST calls, and transactions of the database; alone, and 64 at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from bench import backlog
from bench.backlog import Database
from bench.counting import CountingProxy
from bench.report import Figure, Measured
from bench.world import World, unique

TOKENS = 940  # 0.3 s and 11.75 s at 80 tokens a second
# Postgres reports what an idle connection did at most this late (pgstat.c, PGSTAT_IDLE_INTERVAL).
REPORT_SECONDS = 10.5


async def run(world: World) -> Measured:
    """Count the worker's calls at a proxy, and transactions in pg_stat_database less those of an idle project."""
    project, model = await world.project(), await world.model("realistic")
    async with (
        world.counted(project) as proxy,
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model, url=proxy.url, concurrency=64) as worker,
    ):
        sessions = await backlog.open_sessions(db, person.id, 65)
        await asyncio.sleep(REPORT_SECONDS)
        idle = await _idle_rate(db, world.pick(5, 15))
        one = await _spent(db, proxy, idle, [(sessions[0], unique(f"tokens={TOKENS}"))])
        cpu = worker.cpu()
        many = await _spent(db, proxy, idle, _questions(sessions[1:]))
        again = many if world.quick else await _spent(db, proxy, idle, _questions(sessions[1:]))
        cpu = (worker.cpu() - cpu) / (1 if world.quick else 2)
    figures = [
        Figure("rest_calls_one_reply", one["calls"].total(), "calls", 16, detail={"calls": dict(one["calls"])}),
        Figure(
            "rest_calls_64_at_once", many["calls"].total() / 64, "a reply", 2, detail={"calls": dict(many["calls"])}
        ),
        Figure(
            "transactions_one_reply", one["transactions"], "transactions", 16,
            detail={"idle_a_second": idle, "asking": "1 of them is the question's own insert"},
        ),
        *(
            []
            if world.quick
            else [
                Figure(
                    "transactions_64_at_once_again", again["transactions"] / 64, "a reply", 2,
                    detail={"what": "the second reply in each session: the worker has joined its channel"},
                )
            ]
        ),
        Figure(
            "transactions_64_at_once", many["transactions"] / 64, "a reply", 2,
            detail={"idle_a_second": idle, "worker_cpu_ms_a_reply": cpu / 64 * 1000},
        ),
    ]  # fmt: skip
    return Measured(figures)


def _questions(sessions: list[str]) -> list[tuple[str, str]]:
    """One a session, not all of one length: they end over 1.5 s."""
    return [(session, unique(f"tokens={TOKENS - 2 * number}")) for number, session in enumerate(sessions)]


async def _spent(db: Database, proxy: CountingProxy, idle: float, questions: list[tuple[str, str]]) -> dict[str, Any]:
    calls, began, before = Counter(proxy.counts), time.monotonic(), await _transactions(db)
    message_ids = await backlog.ask(db, questions)
    asked = 1  # our own transactions: the insert, and the looks at the queue below
    while True:
        cursor = await db.execute(
            "select count(*) as left from bridge.jobs where message_id = any (%s)", (message_ids,)
        )
        asked += 1
        row: Any = await cursor.fetchone()
        if row["left"] == 0:
            break
        await asyncio.sleep(0.25)
    spent = Counter(proxy.counts) - calls
    await asyncio.sleep(REPORT_SECONDS)
    transactions = await _transactions(db) - before - asked + 1 - idle * (time.monotonic() - began)
    return {"calls": spent, "transactions": max(0.0, transactions)}


async def _transactions(db: Database) -> int:
    await db.execute("select pg_stat_force_next_flush()")
    cursor = await db.execute(
        "select xact_commit + xact_rollback as n from pg_stat_database where datname = current_database()"
    )
    row: Any = await cursor.fetchone()
    return int(row["n"])


async def _idle_rate(db: Database, seconds: float) -> float:
    """Transactions a second of the project with a worker that has nothing to do."""
    before, began = await _transactions(db), time.monotonic()
    await asyncio.sleep(seconds)
    return (await _transactions(db) - before) / (time.monotonic() - began)
