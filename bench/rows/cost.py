"""The REST calls and database transactions of a reply of 12 s: one reply, and 64 at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench import database
from bench.counting import CountingProxy
from bench.database import Database
from bench.processes import Program
from bench.report import Figure, Measured
from bench.statements import Statements, logged
from bench.world import Model, Project, World, unique
from tests.support.database import Row

TOKENS = 940  # 0.3 s and 11.75 s at 80 tokens a second
AT_ONCE = 64
SETTLE_SECONDS = 2.0


async def run(world: World) -> Measured:
    """Count a worker's calls at a proxy, and transactions in Postgres's log less those of an idle project.

    One reply in one project and 64 in another, concurrently: neither count depends on the machine's speed.
    """
    model = await world.model("realistic")
    async with AsyncExitStack() as opened:
        one = await _place(world, opened, await world.project(), model, 1)
        many = await _place(world, opened, await world.project("at once"), model, AT_ONCE)
        found = await asyncio.gather(
            *(place.measure(idle_seconds=world.pick(5, 15), times=world.pick(1, 2)) for place in (one, many))
        )
    return Measured([*_figures("one_reply", found[0], 1), *_figures("64_at_once", found[1], AT_ONCE)])


def _figures(name: str, times: list[Row], replies: int) -> list[Figure]:
    """The first time is in sessions that are new to the worker; `_again` in the same sessions."""
    figures = []
    for suffix, spent in zip(("", "_again"), times, strict=False):
        unit = "a reply" if replies > 1 else ""
        figures += [
            Figure(
                f"rest_calls_{name}{suffix}", spent["calls"].total() / replies, unit or "calls",
                detail={"calls": dict(spent["calls"]), "worker_cpu_ms_a_reply": spent["cpu"] / replies * 1000},
            ),
            Figure(
                f"transactions_{name}{suffix}", spent["transactions"] / replies, unit or "transactions",
                detail={"idle_a_second": spent["idle"], "by_role": spent["by_role"],
                        "asking": f"{1 / replies:.2g} of them is the insert of the questions"},
            ),
        ]  # fmt: skip
    return figures


async def _place(world: World, opened: AsyncExitStack, project: Project, model: Model, replies: int) -> Place:
    proxy = await opened.enter_async_context(world.counted(project))
    person = await opened.enter_async_context(world.person(project))
    db = await opened.enter_async_context(project.database())
    worker = await opened.enter_async_context(world.worker(project, model, url=proxy.url, concurrency=AT_ONCE))
    sessions = await database.open_sessions(db, person.id, replies)
    return Place(proxy, worker, db, await opened.enter_async_context(logged(project, db)), sessions)


@dataclass(frozen=True)
class Place:
    """A project with a worker, and the sessions to ask in."""

    proxy: CountingProxy
    worker: Program
    db: Database
    statements: Statements
    sessions: list[str]

    async def measure(self, *, idle_seconds: float, times: int) -> list[Row]:
        """Ask in all sessions this many times; the cost of each time."""
        await asyncio.sleep(SETTLE_SECONDS)
        self.statements.mark()
        began = time.monotonic()
        await asyncio.sleep(idle_seconds)
        idle = self.statements.transactions().total() / (time.monotonic() - began)
        return [await self._spent(idle) for _ in range(times)]

    async def _spent(self, idle: float) -> Row:
        # of different lengths: they end over 1.5 s
        questions = [(session, unique(f"tokens={TOKENS - 2 * n}")) for n, session in enumerate(self.sessions)]
        calls, cpu = Counter(self.proxy.counts), self.worker.cpu()
        began = time.monotonic()
        self.statements.mark()
        asked = await database.ask(self.db, questions)
        left = len(asked)
        while left:
            await asyncio.sleep(0.25)
            left = await database.queued(self.db, asked)
        spent, cpu = Counter(self.proxy.counts) - calls, self.worker.cpu() - cpu
        by_role = self.statements.transactions()
        # the benchmark's own transactions are not counted, except the insert
        transactions = by_role.total() + 1 - idle * (time.monotonic() - began)
        return {"calls": spent, "transactions": transactions, "by_role": dict(by_role), "cpu": cpu, "idle": idle}
