"""Write-ahead log of a reply of 1,000 tokens at 80 a second, against a worker that UPDATEs its row for each token."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from bench import database, waldump
from bench.report import Measured, Spread, ratio
from bench.waldump import Written
from bench.world import World, insert_chat, unique

TOKENS = 1000


async def run(world: World) -> Measured:
    """First the bridge, then the tutorial's worker, each after a reply that touches the same tables."""
    project, paced, fast = await world.project(), await world.model("realistic"), await world.model()
    async with world.person(project) as person, project.database() as db, database.no_autovacuum(db):
        (session,) = await database.open_sessions(db, person.id, 1)

        async def bridge() -> None:
            await database.replies_done(db, await database.ask(db, [(session, unique(f"tokens={TOKENS}"))]))

        async def tutorial(tokens: int = TOKENS) -> None:
            question = await insert_chat(person, unique(f"tokens={tokens}"), str(uuid.uuid4()))
            async with asyncio.timeout(120):
                status = ""
                while status != "done":
                    await asyncio.sleep(0.2)
                    status = (await person.rows("chat_messages", id=question))[0]["status"]

        async def measured(reply: Callable[[], Awaitable[None]]) -> list[Written]:
            found = []
            for _ in range(world.pick(1, 3)):
                begin = await waldump.position(db)
                await reply()
                found.append(await waldump.written(project, begin, await waldump.position(db)))
            return found

        async with world.worker(project, fast):
            await bridge()
        async with world.worker(project, paced):
            ours = await measured(bridge)
        async with world.baseline("tutorial_worker", project, fast):
            await tutorial(80)
            theirs = await measured(tutorial)
    records = [one.records for one in ours], [one.records for one in theirs]
    figure = ratio(
        "wal", *records, unit="kB", tokens=TOKENS,
        whole_pages_kb=Spread.of([one.pages for one in ours]).median,
        baseline_whole_pages_kb=Spread.of([one.pages for one in theirs]).median,
    )  # fmt: skip
    return Measured([figure], {"WAL of 1,000 tokens": {"bridge": records[0], "an UPDATE a token": records[1]}})
