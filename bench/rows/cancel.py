"""From `cancel_message` to the end of the provider's connection."""

from __future__ import annotations

import time

from bench.report import Measured, slowest
from bench.world import World, first_delta, mark, reply_ended, unique


async def run(world: World) -> Measured:
    """Cancel running replies; the slowest counts."""
    project, model = await world.project(), await world.model()
    waits: list[float] = []
    async with world.person(project) as person, world.worker(project, model):
        session = await person.open_session(title="cancel")
        ear = await person.listen(f"session:{session}")
        for number in range(world.pick(6, 20) + 1):
            text = unique("tokens=2000 delay=0.02")
            question = await person.ask(session, text)
            await first_delta(ear, question)
            began = time.monotonic()
            await person.client.rpc("cancel_message", {"message_id": question}).execute()
            (exchange,) = await model.exchange(mark(text), ended=True)
            if exchange["outcome"] != "dropped":
                raise AssertionError(f"the provider's connection ended as {exchange['outcome']}")
            if number:
                waits.append((exchange["ended_at"] - began) * 1000)
            await reply_ended(ear, question, "cancelled")
    return Measured([slowest("cancel", waits, "ms", "the slowest of all")], {"cancel to the end": {"bridge": waits}})
