"""How late the event loop is with 256 streams, against the same streams raw."""

from __future__ import annotations

import time

from bench import backlog, processes
from bench.processes import Program
from bench.report import Figure, Measured, Spread, percentile
from bench.world import Model, Project, World, unique

STREAMS = 256
# 256 streams at 80 tokens a second are more than the demo model can say on the other core.
DELAY = 0.1


async def run(world: World) -> Measured:
    """A worker with 256 streams and a probe in its loop, in turns with a process that has the streams alone."""
    project, model = await world.project(), await world.model("realistic")
    directive = f"tokens={world.pick(30, 90)} delay={DELAY}"
    ours: list[float] = []
    theirs: list[float] = []
    direct: list[float] = []
    each: list[float] = []
    for _ in range(world.pick(1, 2)):
        ours += (now := await _bridge(world, project, model, directive))
        theirs += await _raw(world, project, model, directive, "official")
        each.append(percentile(now, 0.99) * 1000)
        if not world.quick:
            direct += await _raw(world, project, model, directive, "bridge")
    value, base = percentile(ours, 0.99) * 1000, percentile(theirs, 0.99) * 1000
    spread = Spread.of(each)
    figure = Figure(
        "loop_lag_p99", value / base, "×", 2.0, baseline=base, spread=(spread.first / base, spread.third / base),
        detail={
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
        sessions = await backlog.open_sessions(db, person.id, STREAMS)
        await backlog.only_done(db, await backlog.ask(db, [(sessions[0], unique("tokens=4"))]))
        began = time.monotonic()
        asked = await backlog.ask(db, [(session, unique(directive)) for session in sessions])
        await backlog.only_done(db, asked)
        ended = time.monotonic()
        return _lags(worker, began, ended)


def _lags(worker: Program, began: float, ended: float) -> list[float]:
    return [lag for line in worker.lines() if "lags" in line and began < line["at"] - 1 < ended for lag in line["lags"]]


async def _raw(world: World, project: Project, model: Model, directive: str, driver: str) -> list[float]:
    program = await processes.start(
        f"raw-{driver}", "bench.baselines.raw_baml", "--driver", driver, "--replies", STREAMS, "--at-once", STREAMS,
        "--message", f"[[{directive}]]", env={**project.environment, **model.environment}, logs=world.logs,
    )  # fmt: skip
    await program.process.wait()
    return [float(lag) for lag in program.hello["lags"]]
