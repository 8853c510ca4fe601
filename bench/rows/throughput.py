"""Replies a second and CPU per reply, against the same BAML calls without Supabase."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from bench import database
from bench.database import Database
from bench.report import Figure, Measured, ratio
from bench.world import Model, Project, World, unique

TOKENS = 100
# Each baseline by its name, with the driver and the suffix of its figures.
RAW = {"BAML": ("official", ""), "BAML, the bridge's driver": ("bridge", "_own_driver")}
Samples = dict[str, dict[int, list[float]]]


async def run(world: World) -> Measured:
    """A backlog at each concurrency, alternating with the same calls without Supabase; a model without delay."""
    rates: Samples = defaultdict(lambda: defaultdict(list))
    cpus: Samples = defaultdict(lambda: defaultdict(list))
    shares: dict[str, float] = {}
    project, model = await world.project(), await world.model()
    levels = (64,) if world.quick else (1, 8, 64)
    async with world.person(project) as person, project.database() as db:
        for at_once in levels:
            replies = max(32, min(world.pick(192, 320), at_once * 4))
            for _ in range(world.pick(1, 3)):
                seconds, cpu, shares = await _bridge(world, project, model, db, person.id, at_once, replies)
                rates["bridge"][at_once].append(replies / seconds)
                cpus["bridge"][at_once].append(cpu / replies * 1000)
                for name, (driver, _) in RAW.items():
                    raw = await world.raw_baml(
                        project, model, driver, replies=replies, at_once=at_once, directive=f"tokens={TOKENS}"
                    )
                    rates[name][at_once].append(replies / raw["seconds"])
                    cpus[name][at_once].append(raw["cpu"] / replies * 1000)
    top = levels[-1]
    figures: list[Figure] = []
    for name, (_, suffix) in RAW.items():
        detail = {"at_once": top, "tokens": TOKENS, "against": name}
        figures += [
            ratio(
                f"replies_a_second{suffix}", rates["bridge"][top], rates[name][top], unit="replies/s",
                project_cpu_ms_a_reply=shares, worker_cpu_ms_a_reply=median(cpus["bridge"][top]), **detail,
            ),
            ratio(f"cpu_a_reply{suffix}", cpus["bridge"][top], cpus[name][top], unit="ms", **detail),
        ]  # fmt: skip
    series = {
        title: {name: {str(level): each for level, each in by.items()} for name, by in samples.items()}
        for title, samples in (("replies a second", rates), ("CPU a reply", cpus))
    }
    return Measured(figures, series)


async def _bridge(
    world: World, project: Project, model: Model, db: Database, user_id: str, at_once: int, replies: int
) -> tuple[float, float, dict[str, float]]:
    """Seconds for all replies, the worker's seconds of CPU, and the project's CPU per reply (ms) by part."""
    async with world.worker(project, model, concurrency=at_once) as worker:
        warm = await database.open_sessions(db, user_id, at_once)
        await database.replies_done(db, await database.ask(db, [(one, unique("tokens=4")) for one in warm]))
        sessions = await database.open_sessions(db, user_id, replies)
        cpu, parts = worker.cpu(), project.cpu()
        asked = await database.ask(db, [(one, unique(f"tokens={TOKENS}")) for one in sessions])
        seconds = await database.replies_done(db, asked)
        used = worker.cpu() - cpu
        shares = {part: (now - parts[part]) / replies * 1000 for part, now in project.cpu().items()}
    return seconds, used, shares
