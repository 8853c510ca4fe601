"""What workers ask of the project when there is little to do."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from bench.counting import CountingProxy
from bench.report import Figure, Measured
from bench.world import World, unique
from tests.support.users import Person

WORKERS = 8
SETTLE_SECONDS = 3.0
# Until postgres_changes has told of an insert too.
TOLD_SECONDS = 1.5


async def run(world: World) -> Measured:
    """One idle worker's requests a minute; then the claims that one insert causes with 8 idle workers."""
    project, model = await world.project(), await world.model()
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        alone = await opened.enter_async_context(world.counted(project))
        many = await opened.enter_async_context(world.counted(project))
        async with world.worker(project, model, url=alone.url):
            await world.enter(
                opened,
                # a sweep meanwhile would be no answer to the insert
                *(world.worker(project, model, url=many.url, sweep_seconds=300) for _ in range(WORKERS)),
            )
            await asyncio.sleep(SETTLE_SECONDS)
            requests = await _requests(alone, world.pick(12, 40))
        return Measured([requests, await _claims(many, person, world.pick(3, 5))])


async def _requests(proxy: CountingProxy, seconds: float) -> Figure:
    before, began = proxy.counts.copy(), time.monotonic()
    await asyncio.sleep(seconds)
    minutes = (time.monotonic() - began) / 60
    asked = proxy.counts - before
    return Figure(
        "idle_requests", asked.total() / minutes, "a minute", 20,
        detail={"calls": dict(asked), "seconds": minutes * 60},
    )  # fmt: skip


async def _claims(proxy: CountingProxy, person: Person, count: int) -> Figure:
    session = await person.open_session(title="idle")
    claims = []
    for _ in range(count):
        before = proxy.counts["rpc/bridge_claim"]
        message_id = await person.ask(session, unique("tokens=10"))
        await person.reply(message_id)
        await asyncio.sleep(TOLD_SECONDS)
        claims.append(proxy.counts["rpc/bridge_claim"] - before)
    return Figure(
        "claims_for_one_insert", max(claims), "claims", WORKERS,
        detail={"workers": WORKERS, "each": claims, "what": "the most of all"},
    )  # fmt: skip
