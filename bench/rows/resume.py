"""The beginning of the next step of a reply that goes on: with few steps remembered, and with many.

From `kill -9` of its worker, when another one goes on; and from the moment that a worker gets it. For the latter, a
handler takes its steps and asks the user, whose answer lets it go on. A trigger of the benchmark notes when a worker
gets the job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.database import Database, one_row
from bench.report import Measured, ratio
from bench.resumption import asking, gone_on, killed
from bench.world import World

FEW, MANY = 10, 200
CREATE = """
    create table bridge.bench_given (question_id uuid, attempt int, at timestamptz);
    create function bridge.bench_note_given() returns trigger
    language plpgsql security definer set search_path = ''
    as $$
    begin
        insert into bridge.bench_given values (new.question_id, new.attempt, clock_timestamp());
        return null;
    end
    $$;
    create trigger bench_note_given after update of worker on bridge.jobs
        for each row when (new.worker is not null) execute function bridge.bench_note_given();
"""
DROP = """
    drop trigger if exists bench_note_given on bridge.jobs;
    drop function if exists bridge.bench_note_given();
    drop table if exists bridge.bench_given;
"""


async def run(world: World) -> Measured:
    """Go on in turn with few steps and with many."""
    project, model = await world.project(), await world.model()
    waits: dict[int, list[float]] = {FEW: [], MANY: []}
    async with asking(world, project, model) as asker, _given_noted(asker.db):
        for number in range(world.pick(5, 20) + 1):
            for steps, taken in waits.items():
                question = await asker.ask(steps)
                await asker.answer(question)
                told = await gone_on(asker.db, question)
                given = await one_row(
                    asker.db,
                    "select extract(epoch from at)::float8 as at from bridge.bench_given"
                    " where question_id = %s order by attempt desc, at desc limit 1",
                    (question,),
                )
                if number:  # the first ones fill caches
                    taken.append((told["next"] - given["at"]) * 1000)
    lease = world.pick(3, 5)
    takeovers: dict[int, list[float]] = {FEW: [], MANY: []}
    for _ in range(world.pick(2, 5)):
        for steps, seconds in takeovers.items():
            seconds.append(await killed(world, project, model, steps, lease=lease))
    return Measured(
        [
            ratio("resume", waits[MANY], waits[FEW], unit="ms", steps=[FEW, MANY]),
            ratio(
                "resume_after_kill", takeovers[MANY], takeovers[FEW], unit="s", steps=[FEW, MANY], lease_seconds=lease
            ),
        ]
    )


@asynccontextmanager
async def _given_noted(db: Database) -> AsyncIterator[None]:
    await db.execute(DROP + CREATE)
    try:
        yield
    finally:
        await db.execute(DROP)
