"""From the end of a reply to the model's request for the next question of its session, against the claim path."""

from __future__ import annotations

import uuid
from datetime import datetime

from bench.claim_path import claim_path
from bench.database import Database
from bench.report import Measured, Spread, ratio
from bench.world import Model, World, conversation, mark, unique
from tests.support.users import Person

# The end as its row says, and as the model saw it: some deltas and a call earlier.
Waits = tuple[float, float]


async def run(world: World) -> Measured:
    """Ask two questions at once in one session; the next pair, in a new one, when both are answered."""
    project, model = await world.project(), await world.model()
    waits: dict[str, list[Waits]] = {"dispatch": [], "claim path": []}
    async with (
        world.person(project) as person,
        project.database() as db,
        world.worker(project, model),
        claim_path(project) as take_claim_path,
    ):
        for number in range(world.pick(6, 24) + 2):
            for name, taken in waits.items():
                await take_claim_path(name == "claim path")
                waited = await _once(db, model, person)
                if number >= 2:  # the first ones fill caches
                    taken.append(waited)
    ended = {name: Spread.of([since_model for _, since_model in each]).median for name, each in waits.items()}
    ours, theirs = ([since_done for since_done, _ in each] for each in waits.values())
    return Measured([ratio("next_question", ours, theirs, unit="ms", from_the_end_of_the_models_stream=ended)])


async def _once(db: Database, model: Model, person: Person) -> Waits:
    session = await conversation(db, person.id)
    first, second = ({"id": str(uuid.uuid4()), "session_id": session, "content": unique("tokens=4")} for _ in range(2))
    await person.client.table("messages").insert([first, second]).execute()
    (later,) = await model.exchange(mark(second["content"]), ended=True)
    (earlier,) = await model.exchange(mark(first["content"]), ended=True)
    await person.reply(second["id"])
    (row,) = await person.rows("messages", reply_to=first["id"])
    done = datetime.fromisoformat(row["updated_at"]).timestamp()
    return (later["started_wall"] - done) * 1000, (later["started_at"] - earlier["ended_at"]) * 1000
