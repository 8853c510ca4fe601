"""CPU of a structured reply of 4,000 tokens, against as many tokens of text, at 400 tokens a second."""

from __future__ import annotations

from bench import database
from bench.report import Measured, ratio
from bench.world import World, unique


async def run(world: World) -> Measured:
    """One reply at a time, the two kinds alternating; the worker's CPU."""
    project, model = await world.project(), await world.model()
    directive = f"tokens={world.pick(1200, 4000)} delay=0.0025"
    used: dict[str, list[float]] = {"Code": [], "Chat": []}
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model) as worker,
    ):

        async def reply(function: str, text: str) -> float:
            (session,) = await database.open_sessions(db, person.id, 1, function)
            cpu = worker.cpu()
            await database.replies_done(db, await database.ask(db, [(session, unique(text))]))
            return (worker.cpu() - cpu) * 1000

        for function in used:
            await reply(function, "tokens=8")
        for _ in range(world.pick(1, 2)):
            for function, samples in used.items():
                samples.append(await reply(function, directive))
    return Measured([ratio("structured_cpu", used["Code"], used["Chat"], unit="ms", directive=directive)])
