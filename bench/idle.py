"""What workers ask of the project when there is little to do."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from bench.report import Figure, Measured
from bench.world import World, unique

SETTLE_SECONDS = 3.0


async def run(world: World) -> Measured:
    """One idle worker's requests a minute; the claims that one insert causes with 8 idle workers."""
    return Measured([await _requests(world), await _claims(world)])


async def _requests(world: World) -> Figure:
    project, model = await world.project(), await world.model()
    async with world.counted(project) as proxy, world.worker(project, model, url=proxy.url):
        await asyncio.sleep(SETTLE_SECONDS)
        before, began = proxy.counts.copy(), time.monotonic()
        await asyncio.sleep(world.pick(20, 60))
        minutes = (time.monotonic() - began) / 60
        asked = proxy.counts - before
    return Figure(
        "idle_requests", asked.total() / minutes, "a minute", 20,
        detail={"calls": dict(asked), "seconds": minutes * 60},
    )  # fmt: skip


async def _claims(world: World) -> Figure:
    project, model = await world.project(), await world.model()
    count = 8
    async with AsyncExitStack() as opened:
        proxy = await opened.enter_async_context(world.counted(project))
        person = await opened.enter_async_context(world.person(project))
        for _ in range(count):
            # a sweep meanwhile would be no answer to the insert
            await opened.enter_async_context(world.worker(project, model, url=proxy.url, sweep_seconds=300))
        session = await person.open_session(title="idle")
        await asyncio.sleep(SETTLE_SECONDS)
        claims = []
        for _ in range(world.pick(2, 5)):
            before = proxy.counts["rpc/bridge_claim"]
            message_id = await person.ask(session, unique("tokens=10"))
            await person.reply(message_id)
            await asyncio.sleep(1.5)  # until postgres_changes has told of it too
            claims.append(proxy.counts["rpc/bridge_claim"] - before)
    return Figure(
        "claims_for_one_insert", max(claims), "claims", count,
        detail={"workers": count, "each": claims, "what": "the most of all"},
    )  # fmt: skip
