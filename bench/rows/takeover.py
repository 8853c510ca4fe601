"""From `kill -9` of a worker during a reply to another worker's model request for the same reply."""

from __future__ import annotations

import time

from bench.report import Measured, slowest
from bench.world import Model, Project, World, holder_of, mark, unique


async def run(world: World) -> Measured:
    """Two workers; the one that holds the lease is killed."""
    project, model = await world.project(), await world.model()
    lease = world.pick(3, 5)
    waits = [await _once(world, project, model, lease) for _ in range(world.pick(2, 3))]
    what = "the slowest of all; no baseline has one"
    return Measured([slowest("takeover", waits, "s", what, bound=lease + 2, lease_seconds=lease)])


async def _once(world: World, project: Project, model: Model, lease: int) -> float:
    async with (
        world.person(project) as person,
        world.worker(project, model, lease_seconds=lease) as one,
        world.worker(project, model, lease_seconds=lease) as other,
    ):
        session = await person.open_session(title="takeover")
        text = unique("tokens=1000 delay=0.02")
        question = await person.ask(session, text)
        await person.reply(question, lambda row: row["seq"] > 0)
        holder = await holder_of(project, question, (one, other))
        began = time.monotonic()
        await holder.kill()
        second, _ = await model.exchange(mark(text), count=2, within=lease + 30)
        await person.client.rpc("cancel_message", {"message_id": question}).execute()
        await person.reply(question)
        return float(second["started_at"] - began)
