"""10,000 replies that wait for their users: a claim by SQL, and the calls of an idle worker, against without them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bench import database
from bench.counting import CountingProxy
from bench.database import Database
from bench.report import Figure, Measured, ratio
from bench.rows.claim import claims
from bench.world import World

WAITING = 10_000
SETTLE_SECONDS = 3.0
# Sessions whose reply waits for an answer, due in one to 25 hours.
WAIT = """
    with s as (
        insert into public.sessions (user_id, title, last_ordinal)
        select %(user)s, 'waits', 2 from generate_series(1, %(count)s) returning id
    ), q as (
        insert into public.messages (session_id, ordinal, role, content, status)
        select s.id, 2, 'user', 'a question', 'waiting' from s returning id, session_id
    ), r as (
        insert into public.messages (session_id, ordinal, role, content, status, reply_to, attempt, seq)
        select q.session_id, 3, 'assistant', 'Go on?', 'waiting', q.id, 1, 1 from q
    ), j as (
        insert into bridge.jobs (question_id, session_id, user_id, ordinal, attempt, run_at, function, steps)
        select q.id, q.session_id, %(user)s, 2, 1, now() + interval '1 hour' * (1 + 24 * random()), 'Chat', 1 from q
        returning question_id, run_at
    )
    insert into bridge.steps (question_id, name, ordinal, kind, value, is_done, attempt, chars, parts, due_at)
    select j.question_id, 'go', 1, 'ask', null, false, 1, 6, 1, j.run_at from j
"""


async def run(world: World) -> Measured:
    """Claims in one project, calls in another, each without them first."""
    return Measured([await _claims(world), await _calls(world)])


async def _claims(world: World) -> Figure:
    project = await world.project(realtime=False)
    plain: list[float] = []
    behind: list[float] = []
    url = project.environment["SUPABASE_DB_URL"]
    async with project.database() as db, database.service_role(url) as service, database.no_autovacuum(db):
        user_id = await database.create_user(db)
        await database.add_finished(db, user_id, 1_000)
        await claims(db, service, user_id, 20)
        for _ in range(world.pick(2, 5)):
            await claims(db, service, user_id, 5)
            plain += await claims(db, service, user_id, 30)
            await _wait(db, user_id)
            await claims(db, service, user_id, 5)
            behind += await claims(db, service, user_id, 30)
            await db.execute("delete from public.sessions where title = 'waits'")
            await database.clear_queue(db)
        await db.execute("truncate public.sessions cascade")
    return ratio("claim_beside_waiting", behind, plain, unit="ms", waiting=WAITING)


async def _wait(db: Database, user_id: str) -> None:
    async with database.bypassing_triggers(db):
        await db.execute(WAIT, {"user": user_id, "count": WAITING})
    await db.execute("analyze")


async def _calls(world: World) -> Figure:
    project, model = await world.project(), await world.model()
    seconds = world.pick(12, 60)
    async with (
        project.database() as db,
        world.counted(project) as proxy,
        world.worker(project, model, url=proxy.url),
    ):
        user_id = await database.create_user(db)
        plain = await _counted(proxy, seconds)
        await _wait(db, user_id)
        behind = await _counted(proxy, seconds)
        await db.execute("delete from public.sessions where title = 'waits'")
    more = (behind.total() - plain.total()) * 60 / seconds
    detail = {"seconds": seconds, "waiting": WAITING, "calls": dict(behind), "calls_without": dict(plain)}
    return Figure("calls_of_waiting", more, "more a minute", detail=detail)


async def _counted(proxy: CountingProxy, seconds: float) -> Counter[str]:
    """A worker's calls by path, after it has settled."""
    await asyncio.sleep(SETTLE_SECONDS)
    calls, until = proxy.counts.copy(), time.monotonic() + seconds
    await asyncio.sleep(until - time.monotonic())
    return proxy.counts - calls
