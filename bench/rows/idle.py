"""The requests of an idle worker, and what a fleet of 100 idle workers asks of a project."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bench.report import Figure, Measured
from bench.world import World

SETTLE_SECONDS = 3.0


async def run(world: World) -> Measured:
    """First one worker, then many, which share a process; nobody asks anything."""
    project, model = await world.project(), await world.model()
    async with world.counted(project) as proxy:

        async def counted(seconds: float) -> tuple[float, Counter[str], Counter[str]]:
            """Seconds, calls by path, and Realtime's messages by topic."""
            await asyncio.sleep(SETTLE_SECONDS)
            calls, messages, began = proxy.counts.copy(), await project.events_by_topic(), time.monotonic()
            await asyncio.sleep(seconds)
            sent, heard = proxy.counts - calls, await project.events_by_topic() - messages
            return time.monotonic() - began, sent, heard

        async with world.worker(project, model, url=proxy.url):
            seconds, calls, _ = await counted(world.pick(12, 40))
        requests = Figure(
            "idle_requests", calls.total() / seconds * 60, "a minute", detail={"calls": dict(calls), "seconds": seconds}
        )
        workers = world.pick(20, 100)
        async with world.crowd(project, model, workers, url=proxy.url):
            seconds, calls, messages = await counted(world.pick(12, 30))
    detail = {"workers": workers, "seconds": seconds}
    unit = f"a second, {workers} workers"
    return Measured(
        [
            requests,
            Figure("idle_fleet_requests", calls.total() / seconds, unit, detail=detail | {"calls": dict(calls)}),
            Figure(
                "idle_fleet_messages", messages.total() / seconds, unit, detail=detail | {"by_topic": dict(messages)}
            ),
        ]
    )
