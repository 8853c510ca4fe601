"""How long one user's question waits behind 10,000 of another, to its model request; against an empty queue.

One worker with its default slots. `running_replies` is as shipped, or lifted: then the other user may fill every slot.
A queue without shares would answer the 10,000 first.
"""

from __future__ import annotations

import time

from bench import database
from bench.database import Database, one_row
from bench.report import Figure, Measured, ratio
from bench.world import Model, World, mark, unique
from tests.support.users import Person

SLOTS = 32
CROWD = "tokens=20 delay=0.1"  # a reply of 2 s


async def run(world: World) -> Measured:
    """Measure with an empty queue, then behind the crowd, as shipped and with the limit lifted."""
    project, model = await world.project(), await world.model()
    count, crowd = world.pick(8, 30), world.pick(2_000, 10_000)
    figures: list[Figure] = []
    async with (
        project.database() as db,
        world.person(project) as person,
        world.worker(project, model, concurrency=SLOTS),
    ):
        alone = await _waits(person, model, count)
        for name, value in (("fairness", 8), ("fairness, running_replies lifted", None)):
            await db.execute("update bridge.limits set value = %s where name = 'running_replies'", (value,))
            await _fill(db, crowd)
            behind = await _waits(person, model, count)
            left = (await one_row(db, "select count(*) as left from bridge.jobs"))["left"]
            figures.append(
                ratio(name, behind, alone, unit="ms", slowest=max(behind), questions_before=crowd, questions_left=left)
            )
            await db.execute("delete from public.sessions where title = 'bench'")
    return Measured(figures)


async def _fill(db: Database, crowd: int) -> None:
    """Let one user ask so many questions, each in a session of its own."""
    user_id = await database.create_user(db)
    sessions = await database.open_sessions(db, user_id, crowd)
    for at in range(0, crowd, 1_000):
        await database.ask(db, [(session, f"[[{CROWD}]]") for session in sessions[at : at + 1_000]])


async def _waits(person: Person, model: Model, count: int) -> list[float]:
    """Milliseconds from the request that inserts a question to the model's request for it, one after the other."""
    waits = []
    for _ in range(count):
        session = await person.open_session(title="fair")
        text = unique("text=hello")
        began = time.monotonic()
        await person.ask(session, text)
        (exchange, *_) = await model.exchange(mark(text))
        waits.append((float(exchange["started_at"]) - began) * 1000)
    return waits
