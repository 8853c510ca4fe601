"""Nothing that a worker writes waits for a lock that a user can hold, with a request that takes long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from bridge.model import Checkpoint, FileWrite, Job, Result, Session, Usage
from bridge.store import Store
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings

# What a user's own request locks, and keeps locked while it goes on.
LOCKS = {
    "a session that is renamed": "update public.sessions set title = 'x' where id = %(session)s",
    "a session that is deleted": "delete from public.sessions where id = %(session)s",
    "a session that another question is added to": "select from public.sessions where id = %(session)s for update",
    "a file that is renamed": "update public.code_files set language = 'x' where session_id = %(session)s",
    "a file that is deleted": "delete from public.code_files where session_id = %(session)s",
    "the user's counters": "select from bridge.rates where user_id = %(user)s for update",
}


@asynccontextmanager
async def locked(stack: Stack, lock: str, user: Person, session_id: str) -> AsyncIterator[None]:
    """Hold a lock in a transaction that is rolled back at the end."""
    async with database.database(stack.admin_url) as other, other.transaction(force_rollback=True):
        await other.execute(LOCKS[lock].encode(), {"session": session_id, "user": user.id})
        yield


@pytest.fixture
async def store(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment, lease_seconds=200), "locks-test")
    yield store
    await store.close()


async def claimed(store: Store, user: Person, path: str = "a.py") -> Job:
    """A question of a new session, with a file, claimed by the store's worker."""
    session_id = await user.open_session()
    await user.client.table("code_files").insert({"session_id": session_id, "path": path, "content": "1"}).execute()
    message_id = await user.ask(session_id, "hello")
    jobs = (await store.claim(9, [])).jobs
    return next(job for job in jobs if job.question_id == message_id)


def done(job: Job) -> Result:
    user_id = job.turn.user_id if job.turn is not None else None
    files = (FileWrite("a.py", "2"),)
    return Result(job.question_id, job.attempt, "done", user_id, "answer", None, 1, files, job.revisions)


@pytest.mark.parametrize("lock", LOCKS)
async def test_finish_and_beat_wait_for_no_user(
    stack: Stack, store: Store, user: Person, sign_up: Callable[[], Awaitable[Person]], lock: str
) -> None:
    other = await sign_up()
    mine, theirs = await claimed(store, user), await claimed(store, other)
    assert mine.turn is not None
    async with locked(stack, lock, user, mine.turn.session.id):
        async with asyncio.timeout(4):  # the lock is held for ever
            beaten = await store.beat([Checkpoint(job.question_id, job.attempt, 1, "so far") for job in (mine, theirs)])
            ack = await store.finish([done(mine), done(theirs)])
        assert beaten.states[theirs.question_id] == "ok"
        assert beaten.states[mine.question_id] in ("ok", "busy")
        assert ack.states[theirs.question_id] == "ok"
        # the counters and the file's lock are not all that a reply needs
        assert ack.states[mine.question_id] == ("ok" if lock == "the user's counters" else "busy")
    if ack.states[mine.question_id] == "busy":  # nothing was written, and nothing is lost
        assert (await store.finish([done(mine)])).states[mine.question_id] == "ok"
    (file,) = await user.rows("code_files")
    assert file["content"] == "2"


async def test_worker_of_before_waits(stack: Stack, store: Store, user: Person) -> None:
    """It knows no `busy`, and a state that it does not know would be the end of the reply."""
    job = await claimed(store, user)
    assert job.turn is not None
    item = {"question_id": job.question_id, "attempt": job.attempt, "outcome": "done", "content": "answer", "seq": 1}
    arguments: Any = {"worker": "locks-test", "results": [item]}
    async with locked(stack, "a session that is renamed", user, job.turn.session.id):
        call = asyncio.create_task(store._rpc.call("bridge_finish", arguments))
        assert (await store.finish([done(job)])).states == {job.question_id: "busy"}
        assert not call.done()
    assert (await call)["results"] == {job.question_id: "ok"}


async def test_claim_waits_for_no_user(stack: Stack, store: Store, user: Person) -> None:
    """Neither for a new job, nor for one whose claim was lost."""
    held = await claimed(store, user)
    session_id = await user.open_session()
    waiting = await user.ask(session_id, "hello")
    assert held.turn is not None
    async with (
        locked(stack, "a session that is deleted", user, held.turn.session.id),
        locked(stack, "a session that is deleted", user, session_id),
    ):
        async with asyncio.timeout(4):
            assert (await store.claim(9, [])).jobs == ()
    assert {job.question_id for job in (await store.claim(9, [])).jobs} == {held.question_id, waiting}


async def test_title_waits_for_no_user(stack: Stack, store: Store, user: Person) -> None:
    job = await claimed(store, user)
    assert job.turn is not None
    session: Session = job.turn.session
    async with locked(stack, "a session that is renamed", user, session.id):
        async with asyncio.timeout(4):
            assert not await store.title(session, "Title", Usage(input_tokens=7))
    assert await store.title(session, "Title", Usage(input_tokens=7))
    assert await store.title(session, "Other", Usage(input_tokens=7))  # it has one
    (row,) = await user.rows("sessions", id=session.id)
    assert row["title"] == "Title"


async def test_operators_wait_for_no_user(
    stack: Stack, store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    jobs = [await claimed(store, user), await claimed(store, user)]
    error = {"code": "x", "message": "X."}
    await store.finish([Result(job.question_id, job.attempt, "failed", error=error) for job in jobs])
    assert jobs[0].turn is not None
    async with locked(stack, "a session that is deleted", user, jobs[0].turn.session.id):
        async with asyncio.timeout(4):
            assert await store.retry_dead(None) == 1
            assert await store.drop_dead(None) == 0
    assert await store.drop_dead(None) == 1


async def test_user_who_is_being_deleted_pays_nothing_and_stops_nobody(
    stack: Stack, store: Store, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    other = await sign_up()
    jobs = [await claimed(store, user), await claimed(store, other)]
    async with database.database(stack.admin_url) as admin, admin.transaction(force_rollback=True):
        await admin.execute("select from auth.users where id = %s for update", (user.id,))
        async with asyncio.timeout(4):
            ack = await store.finish([done(job) for job in jobs])
        assert set(ack.states.values()) == {"ok"}


@pytest.mark.parametrize("seed", range(20))
async def test_any_calls_under_any_locks_are_answered(stack: Stack, store: Store, user: Person, seed: int) -> None:
    """Whatever is locked meanwhile, each call is answered, and at the end the reply is whole."""
    draw = random.Random(seed)
    job = await claimed(store, user)
    assert job.turn is not None
    session = job.turn.session
    for _ in range(draw.randint(1, 6)):
        call, lock = draw.choice(["beat", "finish", "title", "claim"]), draw.choice(sorted(LOCKS))
        async with locked(stack, lock, user, session.id), asyncio.timeout(4):
            if call == "beat":
                await store.beat([Checkpoint(job.question_id, job.attempt, 1, "so far")])
            elif call == "finish":
                assert (await store.finish([done(job)])).states[job.question_id] in ("ok", "busy")
            elif call == "title":
                await store.title(session, "Title", Usage())
            else:
                await store.claim(9, [job.question_id])
    assert (await store.finish([done(job)])).states[job.question_id] == "ok"
    (reply,) = await user.rows("messages", reply_to=job.question_id)
    assert (reply["status"], reply["content"]) == ("done", "answer")
