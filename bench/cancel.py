"""From `cancel_message` to the end of the provider's connection."""

from __future__ import annotations

import time

from bench.report import Figure, Measured, Spread
from bench.world import World, heard_of, mark, unique


async def run(world: World) -> Measured:
    """Cancel replies in the middle; the slowest counts."""
    project, model = await world.project(), await world.model()
    waits: list[float] = []
    async with world.person(project) as person, world.worker(project, model):
        session = await person.open_session(title="cancel")
        ear = await person.listen(f"session:{session}")
        for number in range(world.pick(6, 20) + 1):
            text = unique("tokens=2000 delay=0.02")
            message_id = await person.ask(session, text)
            await heard_of(ear, "delta", reply_to=message_id)
            began = time.monotonic()
            await person.client.rpc("cancel_message", {"message_id": message_id}).execute()
            (exchange,) = await model.exchange(mark(text), ended=True)
            if exchange["outcome"] != "dropped":
                raise AssertionError(f"the provider's connection ended as {exchange['outcome']}")
            if number:
                waits.append((exchange["ended_at"] - began) * 1000)
            await heard_of(ear, "message", reply_to=message_id, status="cancelled")
    spread = Spread.of(waits)
    return Measured(
        [
            Figure(
                "cancel", spread.high, "ms", 200, spread=(spread.first, spread.third),
                detail={"median": spread.median, "samples": spread.count, "what": "the slowest of all"},
            )
        ],
        {"cancel to the end": {"bridge": waits}},
    )  # fmt: skip
