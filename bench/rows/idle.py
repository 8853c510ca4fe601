"""The requests of workers that have little to do."""

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
DELIVERED_SECONDS = 1.5  # until postgres_changes has delivered an insert, too


async def run(world: World) -> Measured:
    """An idle worker's requests a minute, then the claims that one insert causes with 8 idle workers."""
    project, model = await world.project(), await world.model()
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        single = await opened.enter_async_context(world.counted(project))
        many = await opened.enter_async_context(world.counted(project))
        async with world.worker(project, model, url=single.url):
            await world.enter(
                opened,
                # a sweep would add claims that the insert did not cause
                *(world.worker(project, model, url=many.url, sweep_seconds=300) for _ in range(WORKERS)),
            )
            await asyncio.sleep(SETTLE_SECONDS)
            requests = await _requests(single, world.pick(12, 40))
        return Measured([requests, await _claims(many, person, world.pick(3, 5))])


async def _requests(proxy: CountingProxy, seconds: float) -> Figure:
    before, began = proxy.counts.copy(), time.monotonic()
    await asyncio.sleep(seconds)
    minutes = (time.monotonic() - began) / 60
    sent = proxy.counts - before
    detail = {"calls": dict(sent), "seconds": minutes * 60}
    return Figure("idle_requests", sent.total() / minutes, "a minute", detail=detail)


async def _claims(proxy: CountingProxy, person: Person, count: int) -> Figure:
    session = await person.open_session(title="idle")
    claims = []
    for _ in range(count):
        before = proxy.counts["rpc/bridge_claim"]
        await person.reply(await person.ask(session, unique("tokens=10")))
        await asyncio.sleep(DELIVERED_SECONDS)
        claims.append(proxy.counts["rpc/bridge_claim"] - before)
    detail = {"workers": WORKERS, "each": claims, "what": "the most of all"}
    return Figure("claims_for_one_insert", max(claims), "claims", detail=detail)
