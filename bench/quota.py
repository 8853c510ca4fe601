"""Events a second at Realtime's own counter, with more to say than the quota allows."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack

from bench.report import Figure, Measured
from bench.world import World, unique

EVENTS_PER_SECOND = 80
# As the hosted server measures: the average over a minute at most, taken every 5 s.
TICK_SECONDS = 5.0
TICKS = 12
SETTLE_SECONDS = 1.0
ARRIVALS_PER_SECOND = 3.0


async def run(world: World) -> Measured:
    """Streams with a subscriber each, begun one after the other; the highest average that the server would have seen.

    What 64 questions in one moment cost by themselves, before any delta, is told beside it: it is beyond the worker.
    """
    cases = [(1, 8, 10), (4, 24, 12)] if world.quick else [(1, 16, 15), (4, 64, 30)]
    averages = {
        f"{workers} workers, {streams} streams": await _events(world, workers, streams, seconds, ARRIVALS_PER_SECOND)
        for workers, streams, seconds in cases
    }
    crowd = await _events(world, 2, world.pick(24, 64), world.pick(10, 15), None)
    worst = max(averages.values(), key=lambda pair: pair[0])
    return Measured(
        [
            Figure(
                "events_a_second", worst[0], "a second", EVENTS_PER_SECOND,
                detail={
                    "highest_average": {name: pair[0] for name, pair in averages.items()},
                    "highest_5_seconds": {name: pair[1] for name, pair in averages.items()},
                    "questions_in_one_moment": {"streams": world.pick(24, 64), "highest_5_seconds": crowd[1]},
                },
            )
        ]
    )  # fmt: skip


async def _events(
    world: World, workers: int, streams: int, seconds: int, arrivals: float | None
) -> tuple[float, float]:
    """The highest average and the highest 5 s, events a second. `arrivals`: questions a second (None: all at once)."""
    project, model = await world.project(), await world.model("realistic")
    begun = time.monotonic()  # the server's counter begins with the first event, which is a worker's
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
        for message_id in asked:
            await person.client.rpc("cancel_message", {"message_id": message_id}).execute()
        for message_id in asked:
            await person.reply(message_id)
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
