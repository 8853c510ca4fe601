"""Steps in the database: what is remembered, waits and is answered, in any order of transactions, and its limits."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from devstack.stack import Stack
from tests.integration.schema.interleaving import connected
from tests.integration.schema.remembering import Remembering
from tests.support.database import Row, set_limits
from tests.support.users import Person

SEEDS = range(int(os.environ.get("DISPATCHES", "30")))
Connection = psycopg.AsyncConnection[Row]


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_order_of_transactions(stack: Stack, seed: int) -> None:
    async with connected(stack.admin_url, 2 + seed % 3) as (db, hands):
        run = Remembering(seed, db, hands)
        await run.prepare()
        await run.go(80)
        await run.finish_all()


async def call(db: Connection, function: str, *arguments: Any, **named: Any) -> Any:
    """Call a function of the schema."""
    given = [json.dumps(a) if isinstance(a, list) else a for a in arguments]
    places = [*["%s"] * len(given), *(f"{name} => %s" for name in named)]
    query = f"select public.{function}({', '.join(places)}) as answer"
    (row,) = await (await db.execute(query.encode(), (*given, *named.values()))).fetchall()
    return row["answer"]


async def claim(db: Connection, worker: str, *, knows_steps: bool = True, capacity: int | None = 0) -> list[Row]:
    """Claim everything."""
    named = {"functions": ["Chat"], "capacity": capacity, "knows_steps": knows_steps}
    claimed = await call(db, "bridge_claim", worker, 8, "{}", 30, 20, **named)
    jobs: list[Row] = claimed["jobs"]
    return jobs


def done(job: Row, name: str, value: Any = 1, **more: Any) -> Row:
    """A step that has ended."""
    place = {"ordinal": 1, "chars": 0, "n_parts": 0, "emitted_before": 0, "emitted": 0}
    about = {"question_id": job["question_id"], "attempt": job["attempt"], "name": name, "kind": "done", "value": value}
    return about | place | more


def asked(job: Row, *names: str) -> Row:
    """The end of an attempt that asks."""
    result = {"question_id": job["question_id"], "attempt": job["attempt"], "outcome": "waiting", "content": ""}
    return result | {"waits": [done(job, name, None, kind="ask", within_ms=60_000) for name in names]}


@pytest.fixture
async def job(db: Connection, user: Person) -> Row:
    """A question that the worker w0 has."""
    await user.ask(await user.open_session("Chat", title="named"), "hello")
    (claimed,) = await claim(db, "w0")
    return claimed


async def remember(db: Connection, worker: str, *steps: Row) -> list[str]:
    """Remember steps; returns what became of each."""
    results = (await call(db, "bridge_step", worker, list(steps)))["results"]
    return [results[f"{step['question_id']} {step['name']}"] for step in steps]


async def status(db: Connection, job: Row) -> str:
    query = "select status from public.messages where id = %s"
    (row,) = await (await db.execute(query, (job["question_id"],))).fetchall()
    return str(row["status"])


# limits ---------------------------------------------------------------------------------------------


async def test_limits_of_a_new_project(db: Connection) -> None:
    query = "select name, value from bridge.limits where user_id is null and name in ('step_bytes', 'steps_bytes')"
    rows = await (await db.execute(query)).fetchall()
    assert {row["name"]: row["value"] for row in rows} == {"step_bytes": 262_144, "steps_bytes": 8_388_608}


async def test_number_of_steps_is_limited(db: Connection, user: Person, job: Row) -> None:
    await set_limits(db, user.id, steps_per_message=500)
    assert set(await remember(db, "w0", *(done(job, f"s{n}") for n in range(500)))) == {"ok"}
    assert await remember(db, "w0", done(job, "s500"), done(job, "s0")) == ["too_many_steps", "ok"]  # one is sent again
    finished = await call(db, "bridge_finish", "w0", [asked(job, "a")], True)
    assert finished["results"] == {job["question_id"]: "refused"}
    assert await status(db, job) == "failed"


@pytest.mark.parametrize(("bytes_", "state"), [(262_144, "ok"), (262_145, "step_too_large")])
async def test_size_of_a_step_is_limited(db: Connection, job: Row, bytes_: int, state: str) -> None:
    assert await remember(db, "w0", done(job, "a", ["x" * (bytes_ - 4)]), done(job, "b")) == [state, "ok"]


async def test_size_of_all_steps_is_limited(db: Connection, job: Row) -> None:
    for n in range(32):
        assert await remember(db, "w0", done(job, f"s{n}", ["x" * 262_140])) == ["ok"]
    assert await remember(db, "w0", done(job, "more", "x")) == ["step_too_large"]


@pytest.mark.parametrize(("count", "state"), [(16, "ok"), (17, "refused")])
async def test_number_of_open_questions_is_limited(db: Connection, job: Row, count: int, state: str) -> None:
    finished = await call(db, "bridge_finish", "w0", [asked(job, *(f"a{n}" for n in range(count)))], True)
    assert finished["results"] == {job["question_id"]: state}
    assert await status(db, job) == ("waiting" if state == "ok" else "failed")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (nested(32), None),
        (nested(33), "PT400"),
        ({"a": "x" * (32_768 - 9)}, None),
        ({"a": "x" * (32_768 - 8)}, "PT413"),
        ([], "PT400"),
        ("yes", "PT400"),
        ({"a": 1e300}, None),
    ],
    ids=["32 levels", "33 levels", "32 KiB", "more", "list", "text", "number"],
)
async def test_answer_is_checked(db: Connection, user: Person, job: Row, answer: Any, refusal: str | None) -> None:
    await call(db, "bridge_finish", "w0", [asked(job, "a")], True)
    given = {"message_id": job["question_id"], "ask": "a", "answer": answer}
    if refusal is None:
        assert (await user.client.rpc("answer_message", given).execute()).data == "taken"
        return
    with pytest.raises(APIError) as refused:
        await user.client.rpc("answer_message", given).execute()
    assert refused.value.code == refusal
    assert await status(db, job) == "waiting"


async def test_nobody_else_may_answer(
    db: Connection, user: Person, job: Row, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    await call(db, "bridge_finish", "w0", [asked(job, "a")], True)
    stranger = await sign_up()
    for person, ask in ((stranger, "a"), (user, "b")):
        with pytest.raises(APIError) as refused:
            await person.client.rpc("answer_message", {"message_id": job["question_id"], "ask": ask}).execute()
        assert refused.value.code == "PT404"
    for expected in ("taken", "answered"):
        given = {"message_id": job["question_id"], "ask": "a"}
        assert (await user.client.rpc("answer_message", given).execute()).data == expected


# older workers --------------------------------------------------------------------------------------


async def test_older_worker_claims_nothing_with_steps(db: Connection, user: Person, job: Row) -> None:
    await remember(db, "w0", done(job, "a"))
    released = {"question_id": job["question_id"], "attempt": job["attempt"], "outcome": "released"}
    await call(db, "bridge_finish", "w0", [released], True)
    for capacity in (None, 0, 4):
        assert await claim(db, "older", knows_steps=False, capacity=capacity) == []
    anything = await call(db, "bridge_claim", "oldest", 8, "{}", 30, 20)
    assert anything["jobs"] == []
    (claimed,) = await claim(db, "w0")
    assert (claimed["question_id"], claimed["steps"]) == (job["question_id"], 1)


async def test_older_worker_takes_over_nothing_with_steps(db: Connection, job: Row) -> None:
    await remember(db, "w0", done(job, "a"))
    await db.execute("update bridge.jobs set lease_until = now() - interval '1 minute'")
    assert await claim(db, "older", knows_steps=False) == []
    (claimed,) = await claim(db, "w1")
    assert claimed["taken_over"]
    assert await remember(db, "w0", done(job, "b")) == ["lost"]


@pytest.mark.parametrize("knows_steps", [True, False])
async def test_older_worker_is_sent_nothing_with_steps(
    db: Connection, user: Person, job: Row, knows_steps: bool
) -> None:
    await call(db, "bridge_finish", "w0", [asked(job, "a")], True)
    assert await claim(db, "w1", knows_steps=knows_steps, capacity=4) == []
    given = {"message_id": job["question_id"], "ask": "a"}
    assert (await user.client.rpc("answer_message", given).execute()).data == "taken"
    (row,) = await (await db.execute("select worker from bridge.jobs")).fetchall()
    assert row["worker"] == ("w1" if knows_steps else None)
