"""CPU of a structured reply of 4,000 tokens, against as many tokens of text, at 400 tokens a second."""

from __future__ import annotations

from bench import backlog
from bench.report import Measured, ratio
from bench.world import World, unique


async def run(world: World) -> Measured:
    """One reply at a time, in turns; the worker's CPU."""
    project, model = await world.project(), await world.model()
    directive = f"tokens={world.pick(1200, 4000)} delay=0.0025"
    used: dict[str, list[float]] = {"Code": [], "Chat": []}
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model) as worker,
    ):
        for function in used:
            (session,) = await backlog.open_sessions(db, person.id, 1, function)
            await backlog.only_done(db, await backlog.ask(db, [(session, unique("tokens=8"))]))
        for _ in range(world.pick(1, 2)):
            for function, samples in used.items():
                (session,) = await backlog.open_sessions(db, person.id, 1, function)
                cpu = worker.cpu()
                await backlog.only_done(db, await backlog.ask(db, [(session, unique(directive))]))
                samples.append((worker.cpu() - cpu) * 1000)
    return Measured([ratio("structured_cpu", used["Code"], used["Chat"], 2.0, unit="ms", directive=directive)])
