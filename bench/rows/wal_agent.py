"""Write-ahead log of a reply of 20 steps that give 2 kB each, against a checkpoint of the whole state with every step.

The bridge's is all that the reply writes: question, claim, steps with the text, events, end. The other's is only its
checkpoints, in LangGraph's manner: a row with all that the steps have given so far. As tools, steps are shown in the
reply, with what they gave.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable

from psycopg.types.json import Jsonb

from bench import database, waldump
from bench.database import Database
from bench.handlers import FUNCTIONS, prose
from bench.report import Figure, Measured, ratio
from bench.world import World

STEPS = 20
BYTES = 2000
CHECKPOINT = "insert into peers.checkpoints (thread, step, state) values (%s, %s, %s)"


async def run(world: World) -> Measured:
    """Measure each a few times, in turn."""
    project, model = await world.project(), await world.model()
    found: dict[str, list[float]] = {"steps": [], "tools": [], "whole state": []}
    async with (
        project.database() as db,
        database.no_autovacuum(db),
        world.person(project) as person,
        world.worker(project, model, functions=FUNCTIONS, handlers="bench.handlers"),
    ):
        (session,) = await database.open_sessions(db, person.id, 1, "Steps")

        async def reply(*, tool: bool) -> None:
            question = json.dumps({"count": STEPS, "size": BYTES, "tool": tool})
            await database.replies_done(db, await database.ask(db, [(session, question)]))

        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "steps": lambda: reply(tool=False),
            "tools": lambda: reply(tool=True),
            "whole state": lambda: _checkpoints(db),
        }
        for number in range(world.pick(2, 6) + 1):
            for name, take in ways.items():
                begin = await waldump.position(db)
                await take()
                written = await waldump.written(project, begin, await waldump.position(db))
                if number:  # the first ones fill caches
                    found[name].append(written.records)
    theirs = found["whole state"]
    return Measured([_figure("wal_agent", found["steps"], theirs), _figure("wal_agent, tools", found["tools"], theirs)])


def _figure(name: str, ours: list[float], theirs: list[float]) -> Figure:
    return ratio(name, ours, theirs, unit="kB", steps=STEPS, bytes_a_step=BYTES)


async def _checkpoints(db: Database) -> None:
    """What another agent stores of as many steps."""
    thread, messages = uuid.uuid4(), []
    for number in range(STEPS):
        messages.append({"role": "tool", "name": "give", "content": prose(BYTES, number)})
        await db.execute(CHECKPOINT, (thread, number, Jsonb({"messages": messages, "next": "give"})))
