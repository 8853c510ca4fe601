"""Jobs that wait: whatever comes of what they wait for, they go on, and no other job is late because of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from bridge.model import Job, Outcome, Result, Wait
from bridge.store import Store
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings


@pytest.fixture
async def store(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment, lease_seconds=200), "waits-test")
    yield store
    await store.close()


async def claimed(store: Store, user: Person) -> Job:
    session_id = await user.open_session()
    message_id = await user.ask(session_id, "hello")
    return next(job for job in (await store.claim(9, [], ["Chat"])).jobs if job.question_id == message_id)


async def again(store: Store, question_id: str) -> Job:
    return next(job for job in (await store.claim(9, [], ["Chat"])).jobs if job.question_id == question_id)


def asks(name: str, seconds: float, ordinal: int = 1) -> Wait:
    return Wait(name, ordinal, "ask", None, 0, 0, seconds * 1000)


def runs(name: str, ordinal: int = 1, seconds: float = 3600) -> Wait:
    ids = {"session_id": str(uuid.uuid4()), "question_id": str(uuid.uuid4())}
    return Wait(name, ordinal, "run", {**ids, "function": "Chat", "message": "hi", "data": None}, 0, 0, seconds * 1000)


def ended(job: Job, outcome: Outcome, *waits: Wait, **changes: Any) -> Result:
    assert job.turn is not None
    result = Result(job.question_id, job.attempt, "waiting", job.turn.user_id, "so far", None, 1)
    return replace(result, outcome=outcome, waits=waits, **changes)


async def finish(store: Store, result: Result) -> str:
    return (await store.finish([result])).states[result.question_id]


async def child_of(store: Store, parent: Job, wait: Wait) -> Job:
    return await again(store, wait.value["question_id"])


async def test_long_reply_of_another_function_is_handed_on(store: Store, user: Person) -> None:
    parent, wait = await claimed(store, user), runs("Chat")
    assert await finish(store, ended(parent, "waiting", wait)) == "ok"
    child = await child_of(store, parent, wait)
    assert await finish(store, ended(child, "done", text='"\n' * 450_000)) == "ok"
    resumed = await again(store, parent.question_id)
    steps = await store.steps(resumed.question_id, resumed.attempt)
    assert steps is not None
    assert steps[0].is_done


async def test_trigger_that_refuses_a_parent_stops_no_claim(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    parent, wait = await claimed(store, user), runs("Chat")
    assert await finish(store, ended(parent, "waiting", wait)) == "ok"
    child = await child_of(store, parent, wait)
    assert await finish(store, ended(child, "done")) == "ok"
    await db.execute(
        "create function public.refuse_test() returns trigger language plpgsql as"
        " $$ begin raise exception 'no' using errcode = 'P0001'; end $$"
    )
    await db.execute(
        "create trigger zz_refuse before update on public.messages for each row"
        f" when (new.id = '{parent.question_id}') execute function public.refuse_test()"
    )
    try:
        await claimed(store, user)
    finally:
        await db.execute("drop trigger zz_refuse on public.messages")
        await db.execute("drop function public.refuse_test")


async def test_deadline_of_what_nobody_waits_for_any_more_wakes_nobody(store: Store, user: Person) -> None:
    job = await claimed(store, user)
    assert await finish(store, ended(job, "waiting", asks("a", 0), Wait("s", 2, "sleep", None, 0, 0, 0))) == "ok"
    second = await again(store, job.question_id)
    assert await finish(store, ended(second, "waiting", asks("b", 3600, 3))) == "ok"
    assert (await store.claim(9, [], ["Chat"])).jobs == ()


async def test_reply_that_comes_after_the_failure_is_there_at_the_retry(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    parent, wait = await claimed(store, user), runs("Chat")
    pause = Wait("s", 2, "sleep", None, 0, 0, 0)
    assert await finish(store, ended(parent, "waiting", wait, pause)) == "ok"
    jobs = {job.question_id: job for job in (await store.claim(9, [], ["Chat"])).jobs}
    second, child = jobs[parent.question_id], jobs[wait.value["question_id"]]
    assert await finish(store, ended(second, "failed", error={"code": "x", "message": ""})) == "ok"
    assert await finish(store, ended(child, "done")) == "ok"
    await store.claim(9, [], ["Chat"])
    assert (await user.client.rpc("retry_message", {"message_id": parent.question_id}).execute()).data
    third = await again(store, parent.question_id)
    steps = await store.steps(third.question_id, third.attempt)
    assert steps is not None
    assert [step.is_done for step in steps if step.kind == "run"] == [True]


@pytest.mark.parametrize("lock", ["select from bridge.rates where user_id = %s for update"])
async def test_question_of_a_handler_waits_for_no_user(
    stack: Stack, store: Store, user: Person, db: psycopg.AsyncConnection[Row], lock: str
) -> None:
    parent, wait = await claimed(store, user), runs("Chat")
    async with database.database(stack.admin_url) as other, other.transaction(force_rollback=True):
        await other.execute(lock.encode(), (user.id,))
        async with asyncio.timeout(4):
            state = await finish(store, ended(parent, "waiting", wait))
    if state == "busy":
        assert await finish(store, ended(parent, "waiting", wait)) == "ok"
    await child_of(store, parent, wait)


async def test_session_of_the_same_id_is_not_taken_for_a_handlers(store: Store, user: Person) -> None:
    """A user can compute the id."""
    parent, wait = await claimed(store, user), runs("Chat")
    await user.open_session("Own", id=wait.value["session_id"])
    assert await finish(store, ended(parent, "waiting", wait)) == "ok"
    resumed = await again(store, parent.question_id)
    steps = await store.steps(resumed.question_id, resumed.attempt)
    assert steps is not None
    assert steps[0].value["status"] == "failed"
