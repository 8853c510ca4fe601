"""The insert of a question by SQL as a signed-up user, dispatched to a worker, against an insert that is to be claimed.

Every question comes in a session of its own with HISTORY messages. The workers are only rows: they hear, or they do
not, and half of their slots are taken. The time includes the commit.
"""

from __future__ import annotations

import time

from bench import database
from bench.baselines.conversation import HISTORY
from bench.database import Database, one_row
from bench.processes import Failed
from bench.report import Measured, ratio
from bench.world import World

SIZES = {"1 worker": 1, "100 workers": 100}
SLOTS = 32
OLD_MESSAGES = 20_000
BLOCK = 10  # inserts in a row, before the workers stop hearing or hear again


async def run(world: World) -> Measured:
    """Insert in blocks, in turn with workers that hear and workers that do not."""
    project = await world.project(realtime=False)
    figures = []
    url = project.environment["SUPABASE_DB_URL"]
    async with project.database() as db, database.no_autovacuum(db):
        user_id = await database.create_user(db)
        # as in a project that has been in use: in tables that are nearly empty, every foreign key is planned anew
        await database.add_finished(db, user_id, OLD_MESSAGES, per_session=HISTORY)
        await db.execute("analyze public.sessions, public.messages")
        async with database.signed_in(url, user_id) as user:
            for name, workers in SIZES.items():
                await database.add_workers(db, workers, slots=SLOTS, holding=SLOTS // 2)
                waits: dict[bool, list[float]] = {True: [], False: []}
                for number in range(world.pick(4, 12) + 1):
                    for hear, taken in waits.items():
                        found = await _block(db, user, user_id, hear=hear)
                        taken += found if number else []  # the first ones fill caches
                figures.append(ratio(f"insert, {name}", waits[True], waits[False], unit="ms", history=HISTORY))
                await database.clear_queue(db)
        await db.execute("truncate public.sessions cascade")
        await db.execute("delete from bridge.workers")
    return Measured(figures)


async def _block(db: Database, user: Database, user_id: str, *, hear: bool) -> list[float]:
    """Milliseconds of each insert. Raises `Failed` if questions were not given to workers as they should be."""
    sessions = await database.add_finished(db, user_id, BLOCK * HISTORY, per_session=HISTORY)
    await database.let_hear(db, hear)
    await db.execute("vacuum bridge.jobs")
    taken = []
    for session in sessions:
        began = time.perf_counter()
        await user.execute("insert into public.messages (session_id, content) values (%s, %s)", (session, "a question"))
        taken.append((time.perf_counter() - began) * 1000)
    row = await one_row(
        db,
        "select count(*) as asked, count(worker) as given from bridge.jobs where session_id = any (%s::uuid[])",
        (sessions,),
    )
    if row != {"asked": BLOCK, "given": BLOCK if hear else 0}:
        raise Failed(f"of {row['asked']} questions, workers were given {row['given']}")
    async with database.bypassing_triggers(db):
        await db.execute("delete from bridge.jobs where session_id = any (%s::uuid[])", (sessions,))
    return taken
