"""Events a second on Realtime's own counter, when the replies would need more than the quota allows."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack

from bench.report import BOUNDS, Figure, Measured
from bench.world import World, unique

EVENTS_PER_SECOND = int(BOUNDS["events_a_second"][1])
# The hosted server averages over up to a minute, with a sample every 5 s.
TICK_SECONDS = 5.0
TICKS = 12
SETTLE_SECONDS = 1.0
ARRIVALS_PER_SECOND = 3.0


async def run(world: World) -> Measured:
    """Streams with a subscriber each, started one after the other; the highest average the server would have seen.

    64 questions at the same moment exceed it before any delta, which no worker can prevent: that is in `detail`.
    """
    cases = [(1, 8, 10), (4, 24, 12)] if world.quick else [(1, 16, 15), (4, 64, 30)]
    averages = {
        f"{workers} workers, {streams} streams": await _events(world, workers, streams, seconds, ARRIVALS_PER_SECOND)
        for workers, streams, seconds in cases
    }
    crowd = world.pick(24, 64)
    _, burst = await _events(world, 2, crowd, world.pick(10, 15), None)
    detail = {
        "highest_average": {name: pair[0] for name, pair in averages.items()},
        "highest_5_seconds": {name: pair[1] for name, pair in averages.items()},
        "questions_in_one_moment": {"streams": crowd, "highest_5_seconds": burst},
    }
    worst = max(average for average, _ in averages.values())
    return Measured([Figure("events_a_second", worst, "a second", detail=detail)])


async def _events(
    world: World, workers: int, streams: int, seconds: int, arrivals: float | None
) -> tuple[float, float]:
    """The highest average and the highest 5 s, in events a second. `arrivals`: questions a second (None: at once)."""
    project, model = await world.project(), await world.model("realistic")
    begun = time.monotonic()  # the server starts counting with the first event, which a worker sends
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        limited = (
            world.worker(project, model, events_per_second=EVENTS_PER_SECOND, concurrency=64) for _ in range(workers)
        )
        await world.enter(opened, *limited)
        sessions = [await person.open_session(title="quota") for _ in range(streams)]
        for session in sessions:
            await person.listen(f"session:{session}")
        await asyncio.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        asked = []
        for number, session in enumerate(sessions):
            if arrivals is not None:
                await asyncio.sleep(max(0.0, began + number / arrivals - time.monotonic()))
            asked.append(await person.ask(session, unique(f"tokens={seconds * 80}")))
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        samples = await project.events(begun)
        for question in asked:
            await person.client.rpc("cancel_message", {"message_id": question}).execute()
        for question in asked:
            await person.reply(question)
    return _averages(samples)


def _averages(samples: list[tuple[float, int]]) -> tuple[float, float]:
    start, last = samples[0]
    averages: list[float] = []
    parts: list[float] = []
    due = start + TICK_SECONDS
    for at, count in samples:
        if at >= due:
            parts.append((count - last) / TICK_SECONDS)
            averages.append(statistics.fmean(parts[-TICKS:]))
            last, due = count, due + TICK_SECONDS
    return max(averages), max(parts)
