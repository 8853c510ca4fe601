"""From `kill -9` of a worker in mid-reply to another's asking the model for the same reply."""

from __future__ import annotations

import time

from bench.processes import Failed, Program
from bench.report import Figure, Measured, Spread
from bench.world import Model, Project, World, mark, unique


async def run(world: World) -> Measured:
    """Two workers; the one that holds the reply is killed."""
    project, model = await world.project(), await world.model()
    lease = world.pick(3, 5)
    waits = [await _once(world, project, model, lease) for _ in range(world.pick(2, 3))]
    spread = Spread.of(waits)
    return Measured(
        [
            Figure(
                "takeover", spread.high, "s", lease + 2, spread=(spread.first, spread.third),
                detail={"lease_seconds": lease, "median": spread.median, "samples": spread.count,
                        "what": "the slowest of all; no baseline has one"},
            )
        ]
    )  # fmt: skip


async def _once(world: World, project: Project, model: Model, lease: int) -> float:
    async with (
        world.person(project) as person,
        world.worker(project, model, lease_seconds=lease) as one,
        world.worker(project, model, lease_seconds=lease) as other,
    ):
        session = await person.open_session(title="takeover")
        text = unique("tokens=1000 delay=0.02")
        message_id = await person.ask(session, text)
        await person.reply(message_id, lambda row: row["seq"] > 0)
        holder = await _holder(project, message_id, (one, other))
        began = time.monotonic()
        await holder.kill()
        second, _ = await model.exchange(mark(text), count=2, within=lease + 30)
        await person.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await person.reply(message_id)
        return float(second["started_at"] - began)


async def _holder(project: Project, message_id: str, workers: tuple[Program, ...]) -> Program:
    async with project.database() as db:
        cursor = await db.execute("select worker from bridge.jobs where question_id = %s", (message_id,))
        row = await cursor.fetchone()
    for worker in workers:
        if row is not None and f"-{worker.pid}-" in row["worker"]:
            return worker
    raise Failed(f"nobody holds the reply: {row}")
