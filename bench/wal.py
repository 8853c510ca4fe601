"""Write-ahead log of a reply of 1,000 tokens at 80 a second, against a worker that UPDATEs its row for each."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from bench import backlog
from bench.backlog import Database
from bench.report import Measured, ratio
from bench.world import World, insert_chat, unique
from tests.harness import Person

TOKENS = 1000


async def run(world: World) -> Measured:
    """Both in turns, after a reply of each that no page is written whole for the first time after a checkpoint."""
    project, paced, fast = await world.project(), await world.model("realistic"), await world.model()
    ours: list[float] = []
    theirs: list[float] = []
    idle = 0.0
    async with (
        world.person(project) as person,
        project.database() as db,
    ):
        # neither vacuum's own writes nor whole pages after a checkpoint: they come by the clock, not by the reply
        await db.execute("alter system set autovacuum = off")
        await db.execute("select pg_reload_conf()")
        await db.execute("checkpoint")
        async with world.worker(project, fast):
            (session,) = await backlog.open_sessions(db, person.id, 1)
            await _bridge(db, session, tokens=TOKENS)  # as long as the others: so that it touches the same tables
        async with world.worker(project, paced):
            idle = await _idle_rate(db, 3)
            for _ in range(world.pick(1, 3)):
                ours.append(await _bridge(db, session, tokens=TOKENS, idle=idle))
        async with world.baseline("tutorial_worker", project, fast):
            await _tutorial(db, person, 80)  # 80 updates touch them all
            for _ in range(world.pick(1, 3)):
                theirs.append(await _tutorial(db, person, TOKENS))
        await db.execute("alter system reset autovacuum")
        await db.execute("select pg_reload_conf()")
    return Measured(
        [ratio("wal", ours, theirs, 1 / 50, unit="kB", tokens=TOKENS, idle_kb_a_second=idle / 1000)],
        {"WAL of 1,000 tokens": {"bridge": ours, "an UPDATE a token": theirs}},
    )


async def _bridge(db: Database, session: str, *, tokens: int, idle: float = 0.0) -> float:
    before, began = await _written(db), time.monotonic()
    await backlog.only_done(db, await backlog.ask(db, [(session, unique(f"tokens={tokens}"))]))
    return (await _written(db) - before - idle * (time.monotonic() - began)) / 1000


async def _tutorial(db: Database, person: Person, tokens: int) -> float:
    before = await _written(db)
    message_id = await insert_chat(person, unique(f"tokens={tokens}"), str(uuid.uuid4()))
    async with asyncio.timeout(120):
        while True:
            rows = await person.rows("chat_messages", id=message_id)
            if rows[0]["status"] == "done":
                break
            await asyncio.sleep(0.2)
    return (await _written(db) - before) / 1000


async def _written(db: Database) -> int:
    cursor = await db.execute("select (pg_current_wal_insert_lsn() - '0/0')::bigint as bytes")
    row: Any = await cursor.fetchone()
    return int(row["bytes"])


async def _idle_rate(db: Database, seconds: float) -> float:
    before = await _written(db)
    await asyncio.sleep(seconds)
    return (await _written(db) - before) / seconds
