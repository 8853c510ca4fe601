"""Replies a second and CPU a reply, against the same BAML calls with no Supabase at all."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from bench import backlog, processes
from bench.backlog import Database
from bench.report import Figure, Measured, ratio
from bench.world import Model, Project, World, unique

TOKENS = 100
RAW = {"BAML": "official", "BAML, the bridge's driver": "bridge"}


async def run(world: World) -> Measured:
    """A backlog with so many at once, in turns with the same calls raw; the model at no delay."""
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    cpus: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    shares: dict[str, float] = {}
    project, model = await world.project(), await world.model()
    levels = (64,) if world.quick else (1, 8, 64)
    async with world.person(project) as person, project.database() as db:
        for at_once in levels:
            replies = max(32, min(world.pick(192, 320), at_once * 4))
            for _ in range(world.pick(1, 3)):
                rate, cpu, shares = await _bridge(world, project, model, db, person.id, at_once, replies)
                rates["bridge"][at_once].append(rate)
                cpus["bridge"][at_once].append(cpu)
                for name, driver in RAW.items():
                    rate, cpu = await _raw(world, project, model, driver, at_once, replies)
                    rates[name][at_once].append(rate)
                    cpus[name][at_once].append(cpu)
    top = levels[-1]
    figures: list[Figure] = []
    for name, suffix in (("BAML", ""), ("BAML, the bridge's driver", "_own_driver")):
        figures.append(
            ratio(
                f"replies_a_second{suffix}", rates["bridge"][top], rates[name][top], 0.5 if not suffix else None,
                sense="at least", unit="replies/s", at_once=top, tokens=TOKENS, project_cpu_ms_a_reply=shares,
                worker_cpu_ms_a_reply=median(cpus["bridge"][top]), against=name,
            )
        )  # fmt: skip
        figures.append(
            ratio(
                f"cpu_a_reply{suffix}", cpus["bridge"][top], cpus[name][top], 2.0 if not suffix else None,
                unit="ms", at_once=top, tokens=TOKENS, against=name,
            )
        )  # fmt: skip
    series = {
        "replies a second": {name: {str(k): v for k, v in by.items()} for name, by in rates.items()},
        "CPU a reply": {name: {str(k): v for k, v in by.items()} for name, by in cpus.items()},
    }
    return Measured(figures, series)


async def _bridge(
    world: World, project: Project, model: Model, db: Database, user_id: str, at_once: int, replies: int
) -> tuple[float, float, dict[str, float]]:
    """Replies a second, the worker's CPU a reply (ms), and the project's by part."""
    async with world.worker(project, model, concurrency=at_once) as worker:
        warm = await backlog.open_sessions(db, user_id, at_once)
        await backlog.only_done(db, await backlog.ask(db, [(one, unique("tokens=4")) for one in warm]))
        sessions = await backlog.open_sessions(db, user_id, replies)
        cpu, parts = worker.cpu(), project.cpu()
        asked = await backlog.ask(db, [(one, unique(f"tokens={TOKENS}")) for one in sessions])
        seconds = await backlog.only_done(db, asked)
        used = worker.cpu() - cpu
        shares = {part: (now - parts[part]) / replies * 1000 for part, now in project.cpu().items()}
    return replies / seconds, used / replies * 1000, shares


async def _raw(
    world: World, project: Project, model: Model, driver: str, at_once: int, replies: int
) -> tuple[float, float]:
    arguments: list[Any] = ["--driver", driver, "--replies", replies, "--at-once", at_once]
    program = await processes.start(
        f"raw-{driver}", "bench.baselines.raw_baml", *arguments, "--message", f"[[tokens={TOKENS}]]",
        env={**project.environment, **model.environment}, logs=world.logs,
    )  # fmt: skip
    await program.process.wait()
    return replies / program.hello["seconds"], program.hello["cpu"] / replies * 1000
