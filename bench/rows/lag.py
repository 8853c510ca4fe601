"""Event loop lag with 256 streams, against a process that only has the streams."""

from __future__ import annotations

import time

from bench import database
from bench.report import Figure, Measured, Spread, percentile
from bench.world import Model, Project, World, unique

STREAMS = 256
# 256 streams at 80 tokens a second are more than the demo model can send from the other core.
DELAY = 0.1


async def run(world: World) -> Measured:
    """A worker with 256 streams and a probe in its loop, alternating with BAML's own driver."""
    project, model = await world.project(), await world.model("realistic")
    directive = f"tokens={world.pick(30, 90)} delay={DELAY}"

    async def raw(driver: str) -> list[float]:
        found = await world.raw_baml(project, model, driver, replies=STREAMS, at_once=STREAMS, directive=directive)
        return [float(lag) for lag in found["lags"]]

    ours: list[float] = []
    theirs: list[float] = []
    direct: list[float] = []
    each: list[float] = []
    for _ in range(world.pick(1, 2)):
        ours += (now := await _bridge(world, project, model, directive))
        theirs += await raw("official")
        each.append(percentile(now, 0.99) * 1000)
        if not world.quick:
            direct += await raw("bridge")
    value, base = percentile(ours, 0.99) * 1000, percentile(theirs, 0.99) * 1000
    spread = Spread.of(each)
    figure = Figure(
        "loop_lag_p99", value / base, "×", base, (spread.first / base, spread.third / base),
        {
            "ours": value, "unit": "ms", "streams": STREAMS, "ours_p50": percentile(ours, 0.5) * 1000,
            "baseline_p50": percentile(theirs, 0.5) * 1000, "ours_max": max(ours) * 1000,
            "baseline_max": max(theirs) * 1000, "own_driver_p99": percentile(direct, 0.99) * 1000 if direct else None,
            "tokens_a_second_each": 1 / DELAY,
        },
    )  # fmt: skip
    lags = {"bridge": ours, "BAML": theirs, **({"BAML, the bridge's driver": direct} if direct else {})}
    return Measured([figure], {"event loop lag": {name: [lag * 1000 for lag in all_] for name, all_ in lags.items()}})


async def _bridge(world: World, project: Project, model: Model, directive: str) -> list[float]:
    """The worker's lags in seconds, from the claim to the end."""
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model, concurrency=STREAMS, handlers="bench.lag_probe") as worker,
    ):
        sessions = await database.open_sessions(db, person.id, STREAMS)
        await database.replies_done(db, await database.ask(db, [(sessions[0], unique("tokens=4"))]))
        began = time.monotonic()
        asked = await database.ask(db, [(session, unique(directive)) for session in sessions])
        await database.replies_done(db, asked)
        ended = time.monotonic()
        lines = [line for line in worker.lines() if "lags" in line and began < line["at"] - 1 < ended]
        return [lag for line in lines for lag in line["lags"]]
