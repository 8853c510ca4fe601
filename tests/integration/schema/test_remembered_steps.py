"""Steps in the database: how many there may be, what they do to a job, and where the next attempt gets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from bridge.model import Job
from bridge.store import Store
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings

WORKER = "steps-test"


@pytest.fixture
async def store(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Store]:
    await db.execute("delete from bridge.workers")
    store = await Store.open(worker_settings(environment, lease_seconds=200), WORKER)
    yield store
    await store.close()


@pytest.fixture
async def job(store: Store, user: Person) -> Job:
    """A question that the worker holds."""
    await user.ask(await user.open_session(), "hello")
    (job,) = (await store.claim(1, [])).jobs
    return job


async def remember(db: psycopg.AsyncConnection[Row], job: Job, *steps: dict[str, Any]) -> list[str]:
    """Write these steps in one call; returns the state of each."""
    key = {"question_id": job.question_id, "attempt": job.attempt}
    usual = {"kind": "done", "chars": 0, "n_parts": 0, "emitted_before": 0, "emitted": 0}
    sent = [{**key, **usual, "ordinal": n, **step} for n, step in enumerate(steps, 1)]
    cursor = await db.execute("select public.bridge_step(%s, %s) as ack", (WORKER, Jsonb(sent)))
    (row,) = await cursor.fetchall()
    return [row["ack"]["results"][f"{job.question_id} {step['name']}"] for step in steps]


async def of_job(db: psycopg.AsyncConnection[Row], job: Job) -> Row:
    cursor = await db.execute(
        "select xmin::text, steps, failures, is_confirmed, lease_until > now() + interval '190 seconds' as is_long"
        " from bridge.jobs where question_id = %s",
        (job.question_id,),
    )
    (row,) = await cursor.fetchall()
    return row


async def test_steps_are_counted_by_name(db: psycopg.AsyncConnection[Row], user: Person, job: Job) -> None:
    limits = "insert into bridge.limits (name, user_id, value) values ('steps_per_message', %s, 3)"
    await db.execute(limits, (user.id,))
    begun = {"name": "a", "kind": "begun"}
    assert await remember(db, job, begun, {"name": "a", "value": 1}, {"name": "b"}) == ["ok", "ok", "ok"]
    assert await remember(db, job, {"name": "c"}, {"name": "d"}) == ["ok", "too_many_steps"]
    # the answer was lost
    assert await remember(db, job, {"name": "c"}, {"name": "a", "value": 2}) == ["ok", "ok"]
    cursor = await db.execute("select name, value, is_done from bridge.steps order by name")
    assert [tuple(row.values()) for row in await cursor.fetchall()] == [
        ("a", 1, True),
        ("b", None, True),
        ("c", None, True),
    ]


async def test_bytes_of_all_steps_are_counted(db: psycopg.AsyncConnection[Row], user: Person, job: Job) -> None:
    limits = "insert into bridge.limits (name, user_id, value) values ('steps_bytes', %s, 25), ('step_bytes', %s, 15)"
    await db.execute(limits, (user.id, user.id))
    ten, sixteen = "x" * 10, "x" * 16
    assert await remember(db, job, {"name": "a", "value": ten}, {"name": "b", "value": sixteen}) == [
        "ok",
        "step_too_large",
    ]
    assert await remember(db, job, {"name": "b", "value": ten}, {"name": "c", "value": ten}) == ["ok", "step_too_large"]
    assert await remember(db, job, {"name": "b", "value": ten}, {"name": "d", "value": "xxxxx"}) == ["ok", "ok"]


async def test_job_is_written_only_if_it_changes(db: psycopg.AsyncConnection[Row], job: Job) -> None:
    await remember(db, job, {"name": "first"})
    first = await of_job(db, job)
    assert first["steps"] == 1  # so that only workers that know steps get it
    await remember(db, job, {"name": "second"}, {"name": "third"})
    assert await of_job(db, job) == first

    for change in ("failures = 1", "is_confirmed = false", "lease_until = now() + interval '140 seconds'"):
        await db.execute(f"update bridge.jobs set {change}")
        await remember(db, job, {"name": change})
        written = await of_job(db, job)
        assert (written["failures"], written["is_confirmed"], written["is_long"]) == (0, True, True), change

    await db.execute("update bridge.jobs set failures = 1")
    await remember(db, job, {"name": "begins", "kind": "begun"})
    assert (await of_job(db, job))["failures"] == 1  # it may be what kills the worker


@pytest.mark.parametrize(("count", "size", "are_few"), [(2, 10, True), (31, 10, True), (2, 4100, False)])
async def test_few_steps_come_with_the_question(
    db: psycopg.AsyncConnection[Row], store: Store, job: Job, count: int, size: int, are_few: bool
) -> None:
    await remember(db, job, *({"name": f"step {n}", "value": "x" * size} for n in range(count)))
    await db.execute("update bridge.jobs set worker = null, slot = null, lease_until = null, run_at = now()")
    (again,) = (await store.claim(1, [], ["Chat"])).jobs
    steps = await store.steps(again.question_id, again.attempt)
    assert steps is not None
    assert [step.value for step in steps] == ["x" * size] * count
    assert again.known == (tuple(steps) if are_few else None)
