"""Dispatch: whatever becomes ready is handed to one worker, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from supabase import acreate_client

from bridge.realtime.connection import close
from devstack.stack import Stack
from tests.integration.schema.interleaving import interleaving
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until, waits_for_a_lock

# 128: an insert that ends a job whose lease is over, and a retry of its question, in one transaction
SEEDS = sorted({*range(int(os.environ.get("DISPATCHES", "30"))), 128})
Connection = psycopg.AsyncConnection[Row]


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_order_of_transactions(stack: Stack, seed: int) -> None:
    async with interleaving(stack.admin_url, seed) as run:
        await run.prepare()
        await run.go(60)
        await run.finish_all()


class Caller:
    """A worker: what it calls, and what its topic has heard."""

    def __init__(self, db: Connection, name: str) -> None:
        self.db = db
        self.name = name

    async def claim(
        self, slots: int = 0, *, holding: list[str] | None = None, capacity: int | None = 8, **plan: Any
    ) -> Row:
        plan = {"functions": ["Chat"], "reserve": 0, "probing": [], "paused": [], "failing": []} | plan
        query = (
            "select public.bridge_claim(%(worker)s, %(slots)s, %(holding)s::uuid[], 30, 20, %(functions)s::text[],"
            " %(reserve)s, %(probing)s::text[], %(paused)s::text[], %(failing)s::text[], %(capacity)s) as answer"
        )
        parameters = {"worker": self.name, "slots": slots, "holding": holding or [], "capacity": capacity, **plan}
        answered: Row = await answer(self.db, query, parameters)
        return answered

    async def beat(self, *jobs: Row) -> Row:
        query = "select public.bridge_beat(%s, %s) as answer"
        answered: Row = await answer(self.db, query, (self.name, json.dumps(jobs)))
        return answered

    async def finish(self, *results: Mapping[str, Any]) -> Row:
        query = "select public.bridge_finish(%s, %s, true) as answer"
        answered: Row = await answer(self.db, query, (self.name, json.dumps(results)))
        return answered

    async def heard(self, event: str = "job") -> list[Row]:
        return await broadcasts(self.db, f"worker:{self.name}", event)


async def answer(db: Connection, query: str, parameters: Any) -> Any:
    """The only value of the only row."""
    (row,) = await (await db.execute(query.encode(), parameters)).fetchall()
    return row["answer"]


async def broadcasts(db: Connection, topic: str, event: str) -> list[Row]:
    query = "select payload from realtime.messages where topic = %s and event = %s order by inserted_at, id"
    return [row["payload"] for row in await (await db.execute(query, (topic, event))).fetchall()]


async def open_session(db: Connection, user: Person, **columns: Any) -> str:
    columns = {"function": "Chat", "on_new_message": "enqueue"} | columns
    query = (
        "insert into public.sessions (user_id, title, function, on_new_message)"
        " values (%(user)s, 'named', %(function)s, %(on_new_message)s) returning id::text as answer"
    )
    return str(await answer(db, query, {"user": user.id, **columns}))


async def ask(db: Connection, session: str | Person, text: str = "hello") -> str:
    """Ask in a session, or in a new one of a user."""
    if isinstance(session, Person):
        session = await open_session(db, session)
    query = "insert into public.messages (session_id, content) values (%s, %s) returning id::text as answer"
    return str(await answer(db, query, (session, text)))


async def job(db: Connection, question: str) -> Row:
    query = "select to_jsonb(j) as answer from bridge.jobs j where question_id = %s"
    row: Row = await answer(db, query, (question,))
    return row


async def holder(db: Connection, question: str) -> str | None:
    worker: str | None = (await job(db, question))["worker"]
    return worker


async def called(db: Connection, question: str) -> bool:
    """Whether `work` was announced for a question."""
    work = await broadcasts(db, "bridge:inbox", "work")
    return any(question in payload["question_ids"] for payload in work)


def ended(job: Mapping[str, Any], outcome: str = "done", **more: Any) -> Row:
    result = {"question_id": job["question_id"], "attempt": job["attempt"], "outcome": outcome, "content": "answer"}
    return result | {"error": {"code": "x", "message": "X."} if outcome == "failed" else None} | more


@pytest.fixture
async def workers(stack: Stack, db: Connection, user: Person) -> AsyncIterator[list[Caller]]:
    """Three workers, which have not called yet. Their rows end with the user."""
    await db.execute("delete from realtime.messages where topic ^@ 'worker:' or topic = 'bridge:inbox'")
    yield [Caller(db, f"w{n}") for n in range(3)]
    await db.execute("update bridge.limits set value = null where name = 'running_replies'")


# what is sent ---------------------------------------------------------------------------------------


async def test_question_is_sent_to_one_worker(workers: list[Caller], db: Connection, user: Person) -> None:
    for worker in workers:
        await worker.claim()
    question = await ask(db, user)
    held = await job(db, question)
    assert (held["attempt"], held["slot"], held["is_confirmed"]) == (1, 1, False)
    for worker in workers:
        told = [payload["message"] for payload in await worker.heard()]
        assert told == (["hello"] if worker.name == held["worker"] else [])
    assert not await called(db, question)
    rows = await user.rows("messages")
    assert {(row["role"], row["status"], row["attempt"]) for row in rows} == {
        ("user", "running", 0),
        ("assistant", "running", 1),
    }


@pytest.mark.parametrize(
    ("text", "bytes_"),
    # characters that take six bytes each in JSON
    [("x", 30_000), ("x", 40_000), ("\x01", 5_000), ("\x01", 30_000)],
)
async def test_large_payload_is_claimed(
    workers: list[Caller], db: Connection, user: Person, text: str, bytes_: int
) -> None:
    await workers[0].claim()
    session = await open_session(db, user)
    await db.execute(
        "insert into public.code_files (session_id, path, content) values (%s, 'a.py', repeat(%s, %s))",
        (session, text, bytes_),
    )
    question = await ask(db, session)
    (told,) = await workers[0].heard()
    assert (told["question_id"], told["attempt"]) == (question, 1)
    assert len(json.dumps(told)) <= 33_000
    if len(json.dumps(text * bytes_)) < 32_768:
        assert told["message"] == "hello"
        return
    assert set(told) == {"id", "question_id", "attempt", "at_ms"}
    (claimed,) = (await workers[0].claim())["jobs"]
    assert (claimed["question_id"], claimed["attempt"], claimed["message"]) == (question, 1, "hello")
    assert (await job(db, question))["is_confirmed"]


async def test_next_question_of_the_session_comes_in_the_answer(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    await workers[0].claim(capacity=1)
    session = await open_session(db, user)
    first, second = await ask(db, session), await ask(db, session, "second")
    assert await holder(db, second) is None
    (told,) = await workers[0].heard()
    finished = await workers[0].finish(ended(told))
    (following,) = finished["jobs"]
    assert (following["question_id"], following["attempt"], following["message"]) == (second, 1, "second")
    assert [item["content"] for item in following["history"]] == ["hello", "answer"]
    assert [payload["question_id"] for payload in await workers[0].heard()] == [first]  # nothing was sent
    assert not await called(db, second)
    assert (await workers[0].beat(following))["results"] == {second: "ok"}


# who gets it ----------------------------------------------------------------------------------------


async def test_without_room_the_question_is_announced(workers: list[Caller], db: Connection, user: Person) -> None:
    for worker in workers[:2]:
        await worker.claim(capacity=1)
    for _ in range(2):
        assert await holder(db, await ask(db, user))
    third = await ask(db, user)
    assert await holder(db, third) is None
    assert await called(db, third)
    assert [len(await worker.heard()) for worker in workers] == [1, 1, 0]
    statuses = [row["status"] for row in await user.rows("messages", id=third)]
    assert statuses == ["queued"]


@pytest.mark.parametrize(
    "claim",
    [
        {"capacity": 0},
        {"capacity": None},
        {"functions": ["Code"]},
        {"failing": ["Chat"]},
        {"functions": None, "capacity": None},
    ],
)
async def test_only_who_hears_and_answers_well_gets_it(
    workers: list[Caller], db: Connection, user: Person, claim: dict[str, Any]
) -> None:
    await workers[0].claim(**claim)
    question = await ask(db, user)
    assert await holder(db, question) is None
    assert await called(db, question)


async def test_backlog_is_not_overtaken(
    workers: list[Caller], db: Connection, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    waiting = await ask(db, user)
    assert (await workers[0].claim())["ready"]  # so it claims
    other = await sign_up()
    question = await ask(db, other)
    assert await holder(db, question) is None
    claimed = (await workers[0].claim(8))["jobs"]
    assert [item["question_id"] for item in claimed] == [waiting, question]
    assert await holder(db, await ask(db, other))


async def test_backlog_of_who_has_enough_running_keeps_nobody_from_dispatch(
    workers: list[Caller], db: Connection, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    await db.execute("update bridge.limits set value = 2 where name = 'running_replies'")
    await workers[0].claim()
    asked = [await ask(db, user) for _ in range(10)]
    assert [await holder(db, question) for question in asked] == ["w0"] * 2 + [None] * 8
    assert await holder(db, await ask(db, await sign_up())) == "w0"


async def test_last_slots_are_for_who_asks_little(
    workers: list[Caller], db: Connection, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    """Nothing is running of them, and no more than two of their questions wait: those of the same statement, too."""
    await db.execute("update bridge.limits set value = 8 where name = 'running_replies'")
    await workers[0].claim(capacity=8)
    asked = [await ask(db, user) for _ in range(7)]
    assert [await holder(db, question) for question in asked] == ["w0"] * 6 + [None]
    question = await ask(db, await sign_up())
    assert await holder(db, question) == "w0"
    told = (await workers[0].heard())[-1]
    assert (told["question_id"], told["message"]) == (question, "hello")
    crowd = await sign_up()
    sessions = [await open_session(db, crowd) for _ in range(3)]
    await db.execute(
        "insert into public.messages (session_id, content) select s, 'hello' from unnest(%s::uuid[]) s", (sessions,)
    )
    rows = await db.execute("select worker from bridge.jobs where session_id = any (%s::uuid[])", (sessions,))
    assert await rows.fetchall() == [{"worker": None}] * 3


async def test_session_stays_with_its_worker(workers: list[Caller], db: Connection, user: Person) -> None:
    for worker in workers:
        await worker.claim(capacity=64)
    sessions = [await open_session(db, user) for _ in range(24)]

    async def places() -> dict[str, str]:
        asked = {session: await ask(db, session) for session in sessions}
        found = {session: await holder(db, question) or "" for session, question in asked.items()}
        for worker in workers:
            held = [await job(db, asked[session]) for session in sessions if found[session] == worker.name]
            await worker.finish(*(ended(item) for item in held))
        return found

    before = await places()
    assert set(before.values()) == {worker.name for worker in workers}
    assert await places() == before
    await db.execute("select public.bridge_leave('w1')")
    after = await places()
    assert "w1" not in after.values()
    assert {session: place for session, place in after.items() if before[session] != "w1"} == {
        session: place for session, place in before.items() if place != "w1"
    }


async def test_worker_without_room_gives_its_session_to_another(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    for worker in workers[:2]:
        await worker.claim(capacity=1)
    session = await open_session(db, user)
    asked = await ask(db, session)
    first = await holder(db, asked)
    mine, other = (workers[0], workers[1]) if first == "w0" else (workers[1], workers[0])
    await mine.finish(ended(await job(db, asked)))
    # another session takes its only slot
    await other.claim(capacity=0)
    await ask(db, user)
    await other.claim(capacity=1)
    assert await holder(db, await ask(db, session)) == other.name


async def test_model_that_has_not_answered_gets_three(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    await workers[0].claim(probing=["Chat"])
    asked = [await ask(db, user) for _ in range(4)]
    assert [await holder(db, question) for question in asked] == ["w0"] * 3 + [None]
    assert await called(db, asked[-1])


async def test_ended_jobs_that_a_snapshot_sees_are_not_read(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    """While any transaction is open, all indexes keep their entries; and plans are made when the queue is short."""
    await db.execute("truncate bridge.jobs")
    await workers[0].claim(capacity=4)
    async with database.database(stack.admin_url) as other, other.transaction():
        await other.execute("set transaction isolation level repeatable read")
        await other.execute("select count(*) from bridge.jobs")
        async with db.transaction():
            await db.execute("set local session_replication_role = replica")
            await db.execute(
                "insert into bridge.jobs (question_id, session_id, user_id, ordinal, run_at, function, slot)"
                " select gen_random_uuid(), gen_random_uuid(), %s, 2, now() - n * interval '1 second', 'Chat', 1"
                " from generate_series(60, 3000) n",
                (user.id,),
            )
            await db.execute("update bridge.jobs set worker = 'w0', lease_until = now()")
            await db.execute("delete from bridge.jobs")
        read: dict[str, int] = {}

        @asynccontextmanager
        async def reading(what: str) -> AsyncIterator[None]:
            async with db.transaction():
                before = await database.jobs_read(db)
                yield
                await db.execute("set constraints all immediate")
                read[what] = await database.jobs_read(db) - before

        sessions = [await open_session(db, user) for _ in range(2)]
        async with reading("insert"):
            first = await ask(db, sessions[0])
        assert await holder(db, first) == "w0"
        await ask(db, sessions[0], "next")
        async with reading("beat"):
            await workers[0].beat(await job(db, first))
        async with reading("finish"):
            finished = await workers[0].finish(ended(await job(db, first)))
        assert len(finished["jobs"]) == 1
        async with reading("release"):
            await workers[0].finish(ended(finished["jobs"][0], "released"))
        async with reading("claim"):
            claimed = await workers[0].claim(1, capacity=4)
        assert len(claimed["jobs"]) == 1
    assert max(read.values()) < 300, read


async def test_insert_waits_for_no_other(
    stack: Stack, workers: list[Caller], db: Connection, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    """A user's transaction that stays open keeps one slot from the others."""
    await workers[0].claim(capacity=2)
    other = await sign_up()
    async with (
        database.database(stack.admin_url) as busy,
        busy.transaction(force_rollback=True),
        asyncio.timeout(4),
    ):
        assert await holder(busy, await ask(busy, user)) == "w0"
        theirs = await job(db, await ask(db, other))
        assert (theirs["worker"], theirs["slot"]) == ("w0", 2)
        third = await ask(db, other)
        assert await holder(db, third) is None
        assert await called(db, third)
    assert [payload["question_id"] for payload in await workers[0].heard()] == [theirs["question_id"]]
    assert len((await workers[0].claim(8, capacity=2))["jobs"]) == 2


async def test_worker_is_chosen_as_of_now_and_not_of_the_transactions_begin(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    await workers[0].claim()
    async with database.database(stack.admin_url) as late:
        async with late.transaction():
            question = await ask(late, user)
        async with late.transaction(force_rollback=True):
            await late.execute("select now()")
            await db.execute("update bridge.workers set hears_until = now()")
            assert await holder(late, await ask(late, user)) is None
    (row,) = await (
        await db.execute("select lease_until - queued_at > interval '3 seconds' as is_whole from bridge.jobs")
    ).fetchall()
    assert row == {"is_whole": True}, question


async def test_only_the_first_row_of_a_statement_is_chosen_for(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    """Room that others make meanwhile must not let the second question of a session run before the first."""
    await workers[0].claim(capacity=1)
    held = await job(db, await ask(db, user))
    session = await open_session(db, user)
    await db.execute(
        "create function public.slow_second() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(77); return new; end $$;"
        " create trigger a before insert on public.messages for each row when (new.content = 'second')"
        " execute function public.slow_second()"
    )
    try:
        async with database.database(stack.admin_url) as inserting:
            query = "insert into public.messages (session_id, content) values (%(s)s, 'first'), (%(s)s, 'second')"
            async with db.transaction():
                await db.execute("select pg_advisory_xact_lock(77)")
                statement = asyncio.create_task(inserting.execute(query, {"s": session}))
                await until(lambda: waits_for_a_lock(db), 10)
                async with database.database(stack.admin_url) as other:
                    await Caller(other, "w0").finish(ended(held))
            await statement
        rows = await user.rows("messages", session_id=session)
        order = sorted((row["ordinal"], row["role"], row["status"]) for row in rows)
        assert [status for _, role, status in order if role == "user"] == ["running", "queued"]
        assert [told["message"] for told in await workers[0].heard()] == ["hello", "first"]
    finally:
        await db.execute("drop function public.slow_second cascade")


async def test_trigger_that_asks_something_takes_the_worker(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    await workers[0].claim(capacity=1)
    session, other = await open_session(db, user), await open_session(db, user)
    await db.execute(
        "create function public.ask_more() returns trigger language plpgsql as"
        " $$ begin insert into public.messages (session_id, content) values (tg_argv[0]::uuid, 'more');"
        " return null; end $$;"
        " create trigger a after insert on public.messages for each row when (new.content = 'hello')"
        f" execute function public.ask_more('{other}')"
    )
    try:
        await ask(db, session)
        rows = await user.rows("messages", role="user")
        assert {row["content"]: row["status"] for row in rows} == {"hello": "queued", "more": "running"}
        assert [told["message"] for told in await workers[0].heard()] == ["more"]
    finally:
        await db.execute("drop function public.ask_more cascade")


async def test_room_is_not_exceeded_by_transactions_at_the_same_time(
    stack: Stack, workers: list[Caller], db: Connection, user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    """Neither that of a model that has not answered, nor of a worker that has claimed without hearing its topic."""
    people = [user, *[await sign_up() for _ in range(4)]]
    await workers[0].claim(probing=["Chat"])
    assert await together(stack, db, people) == ["w0", "w0", "w0", None, None]
    await db.execute("delete from public.sessions")
    await db.execute("delete from bridge.workers")
    held = [await ask(db, user) for _ in range(2)]
    assert len((await workers[1].claim(8, capacity=0))["jobs"]) == 2
    await workers[1].claim(capacity=4, holding=held)
    assert await together(stack, db, people) == ["w1", "w1", None, None, None]


async def together(stack: Stack, db: Connection, people: list[Person]) -> list[str | None]:
    """Ask with a transaction of each, which all stay open until the last has asked."""
    async with AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(database.database(stack.admin_url)) for _ in people]
        for connection in connections:
            await opened.enter_async_context(connection.transaction())
        asked = [await ask(one, person) for one, person in zip(connections, people, strict=True)]
    return [await holder(db, question) for question in asked]


async def test_long_data_in_the_history_is_not_read(workers: list[Caller], db: Connection, user: Person) -> None:
    """Not even what a claim leaves out: an insert after fifty such replies would take long."""
    await workers[0].claim()
    session = await open_session(db, user)
    await workers[0].finish(
        ended(await job(db, await ask(db, session)), data={"reply": "fine", "files": long_file(40_000)})
    )
    question = await ask(db, session)
    assert set((await workers[0].heard())[-1]) == {"id", "question_id", "attempt", "at_ms"}
    (claimed,) = (await workers[0].claim())["jobs"]
    assert claimed["question_id"] == question
    assert [message.get("data") for message in claimed["history"]] == [None, None]


def long_file(size: int) -> list[Row]:
    """One file as a reply has it, which compression does not make small."""
    return [{"path": "a.py", "content": random.Random(1).randbytes(size // 2).hex()}]


async def test_payload_is_of_what_the_project_has_made_of_its_rows(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    """Triggers may change a question when its reply is opened, and keep a reply from being opened again."""
    await workers[0].claim()
    await db.execute(
        "create function public.redact() returns trigger language plpgsql as $$ begin"
        " update public.messages set content = 'redacted' where id = new.reply_to; return null; end $$;"
        " create function public.keep() returns trigger language plpgsql as $$ begin return null; end $$;"
        " create trigger redact after insert on public.messages for each row"
        " when (new.role = 'assistant') execute function public.redact();"
        " create trigger keep before update on public.messages for each row"
        " when (new.role = 'assistant' and new.status = 'running') execute function public.keep()"
    )
    try:
        question = await ask(db, user)
        (told,) = await workers[0].heard()
        await workers[0].finish(ended(await job(db, question), "failed"))
        await db.execute("select public.bridge_dead_retry(null)")
        again = (await workers[0].heard())[-1]
    finally:
        await db.execute("drop function public.redact cascade; drop function public.keep cascade")
    assert [told["message"], again["message"]] == ["redacted"] * 2
    assert (again["attempt"], again["reply_id"]) == (2, told["reply_id"])


async def test_next_question_sees_what_the_last_reply_cost(workers: list[Caller], db: Connection, user: Person) -> None:
    """Whether its payload comes in the answer or by a claim."""
    await db.execute("insert into bridge.limits (name, user_id, value) values ('tokens_per_day', %s, 10)", (user.id,))
    await workers[0].claim()
    session = await open_session(db, user)
    first = await ask(db, session)
    asked = [await ask(db, session, text) for text in ("second", "x" * 30_000, "fourth" * 2000)]
    finished = await workers[0].finish(ended(await job(db, first), run={"input_tokens": 10}))
    (following,) = finished["jobs"]
    assert (following["question_id"], following.get("used_up")) == (asked[0], True)
    for question in asked[1:]:
        (following,) = (await workers[0].finish(ended(following)))["jobs"]
        assert following["question_id"] == question
    assert "message" not in following  # it is too large
    (claimed,) = (await workers[0].claim())["jobs"]
    assert (claimed["question_id"], claimed.get("used_up")) == (asked[-1], True)


async def test_question_that_a_trigger_asks_at_the_end_of_a_reply_is_told_once(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    """And sees what that reply cost."""
    await db.execute("insert into bridge.limits (name, user_id, value) values ('tokens_per_day', %s, 10)", (user.id,))
    await workers[0].claim()
    other = await open_session(db, user)
    first = await ask(db, user)
    await db.execute(
        "create function public.ask_more() returns trigger language plpgsql as"
        " $$ begin insert into public.messages (session_id, content) values (tg_argv[0]::uuid, 'more');"
        " return null; end $$;"
        " create trigger a after update on public.messages for each row"
        " when (new.role = 'assistant' and new.status = 'done')"
        f" execute function public.ask_more('{other}')"
    )
    try:
        finished = await workers[0].finish(ended(await job(db, first), run={"input_tokens": 10}))
    finally:
        await db.execute("drop function public.ask_more cascade")
    told = [*finished["jobs"], *(payload for payload in await workers[0].heard() if payload["question_id"] != first)]
    assert [(item["message"], item.get("used_up")) for item in told] == [("more", True)]


# when an attempt does not end well ------------------------------------------------------------------


async def test_released_job_goes_to_another_worker(workers: list[Caller], db: Connection, user: Person) -> None:
    await workers[0].claim()
    question = await ask(db, user)
    released = await workers[0].finish(ended(await job(db, question), "released"))
    assert released["jobs"] == []
    assert await holder(db, question) is None
    assert await called(db, question)
    await workers[1].claim()
    (claimed,) = (await workers[0].claim(1))["jobs"]
    await workers[0].finish(ended(claimed, "released"))
    held = await job(db, question)
    assert (held["worker"], held["attempt"], held["failures"]) == ("w1", 3, 0)
    assert [payload["attempt"] for payload in await workers[1].heard()] == [3]


async def test_later_attempt_is_announced_to_two_others(workers: list[Caller], db: Connection, user: Person) -> None:
    workers.append(Caller(db, "w3"))
    for worker in workers:
        await worker.claim()
    question = await ask(db, user)
    held = await job(db, question)
    (failed,) = [worker for worker in workers if worker.name == held["worker"]]
    await failed.finish(ended(held, "failed", retry_in_ms=60_000))
    told = {worker.name: [payload["in_ms"] for payload in await worker.heard("due")] for worker in workers}
    assert told.pop(failed.name) == []
    assert sorted(told.values()) == [[], *[[pytest.approx(60_000, abs=1_000)]] * 2]


async def test_unconfirmed_job_moves_on(workers: list[Caller], db: Connection, user: Person) -> None:
    """Its attempt costs nothing, and its worker gets no more until it says that it hears again."""
    await workers[0].claim()
    question = await ask(db, user, "x" * 8000)
    await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
    (taken,) = (await workers[1].claim(8))["jobs"]
    assert (taken["question_id"], taken["attempt"], taken["taken_over"]) == (question, 2, True)
    runs = await (await db.execute("select worker, outcome, input_tokens, output_tokens from bridge.runs")).fetchall()
    assert runs == [{"worker": "w0", "outcome": "lost", "input_tokens": None, "output_tokens": None}]
    assert await (await db.execute("select from bridge.usage")).fetchall() == []
    await workers[1].claim(capacity=0, holding=[question])
    assert await holder(db, await ask(db, user)) is None
    assert (await workers[0].beat())["missed"]
    await db.execute("delete from bridge.jobs where worker is null")
    assert await holder(db, await ask(db, user)) is None  # it has to subscribe again, and say so
    await db.execute("delete from bridge.jobs where worker is null")
    assert not (await workers[0].claim())["missed"]
    assert await holder(db, await ask(db, user)) == "w0"


async def test_confirmed_attempt_that_is_lost_is_charged(workers: list[Caller], db: Connection, user: Person) -> None:
    await workers[0].claim()
    question = await ask(db, user, "x" * 8000)
    beaten = await workers[0].beat(await job(db, question))
    assert beaten["results"] == {question: "ok"}
    held = await job(db, question)
    assert held["is_confirmed"]
    assert held["lease_until"] > (await answer(db, "select to_jsonb(now() + interval '20 seconds') as answer", None))
    await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
    await workers[1].claim(8)
    (run,) = await (await db.execute("select outcome, input_tokens from bridge.runs")).fetchall()
    assert run == {"outcome": "lost", "input_tokens": 2000}
    (used,) = await (await db.execute("select tokens from bridge.usage")).fetchall()
    assert used == {"tokens": 2000}
    assert not (await workers[0].beat())["missed"]


@pytest.mark.parametrize(
    "timing", ["deferrable initially deferred", "deferrable initially immediate", "not deferrable"]
)
@pytest.mark.parametrize("way", ["dispatch", "answer", "claim"])
async def test_failing_trigger_on_replies_fails_only_that_question(
    workers: list[Caller], db: Connection, user: Person, timing: str, way: str
) -> None:
    """A dispatched one is given back, and a claim finds out: it may be that only its user may not write the reply."""
    await db.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin"
        " if exists (select from public.messages q where q.id = new.reply_to and q.content = 'bad')"
        " then raise exception 'refused'; end if; return null; end $$;"
        " create constraint trigger refuse after insert on public.messages"
        f" {timing} for each row when (new.role = 'assistant') execute function public.refuse()"
    )
    try:
        session = await open_session(db, user)
        if way == "answer":
            await workers[0].claim()
            before = await ask(db, session)
            bad = await ask(db, session, "bad")
            assert (await workers[0].finish(ended(await job(db, before))))["jobs"] == []
        elif way == "dispatch":
            await workers[0].claim()
            bad = await ask(db, session, "bad")
            assert await workers[0].heard() == []
        else:
            bad = await ask(db, session, "bad")
        assert await holder(db, bad) is None
        assert (await broadcasts(db, "bridge:inbox", "work"))[-1]["question_ids"] == [bad]
        (told,) = (await workers[0].claim(1))["jobs"]
        assert told["attempt"] == 1
        assert (told["question_id"], told["broken"]) == (bad, "P0001 refused")
        assert (await workers[0].finish(ended(told, "failed")))["results"] == {bad: "ok"}
        (row,) = await user.rows("messages", id=bad)
        assert row["status"] == "failed"
        good = await ask(db, session)
        await workers[0].claim(1)
        assert await holder(db, good) == "w0"
    finally:
        await db.execute("drop function public.refuse cascade")


async def test_deferred_trigger_of_the_project_may_wait_for_the_commit(
    workers: list[Caller], db: Connection, user: Person
) -> None:
    """What it demands may come later in the transaction; and the worker is told of that, too."""
    session = await open_session(db, user)
    await workers[0].claim()
    await db.execute(
        "create function public.demand() returns trigger language plpgsql as $$ begin"
        " if not exists (select from public.code_files f where f.session_id = new.session_id)"
        " then raise exception 'a file is missing'; end if; return null; end $$;"
        " create constraint trigger demand after insert on public.messages"
        " deferrable initially deferred for each row execute function public.demand()"
    )
    try:
        async with db.transaction():
            question = await ask(db, session)
            assert await workers[0].heard() == []
            await db.execute("insert into public.code_files (session_id, path) values (%s, 'a.py')", (session,))
        (told,) = await workers[0].heard()
        assert told["question_id"] == question
        assert [file["path"] for file in told["files"]] == ["a.py"]
    finally:
        await db.execute("drop function public.demand cascade")


async def test_repeated_finish_leaves_what_another_is_writing(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    """A worker sends many results at the same time, and each again if its answer was lost."""
    await workers[0].claim()
    first, second = [await ask(db, user) for _ in range(2)]
    result = ended(await job(db, first))
    await workers[0].finish(result)
    async with database.database(stack.admin_url) as mine:
        async with mine.transaction():
            answer_of_second = ended(await job(db, second)) | {"content": "whole"}
            await Caller(mine, "w0").finish(answer_of_second)
            repeated = await asyncio.wait_for(workers[0].finish(result), 5)
        assert [(told["question_id"], "message" in told) for told in repeated["jobs"]] == [(second, False)]
    (row,) = await user.rows("messages", reply_to=second)
    assert (row["status"], row["content"]) == ("done", "whole")


async def test_worker_that_leaves_before_the_commit_is_not_told(
    stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    session = await open_session(db, user)
    await workers[0].claim()
    async with database.database(stack.admin_url) as mine, mine.transaction():
        question = await ask(mine, session)
        await db.execute("select public.bridge_leave('w0')")
    assert await holder(db, question) is None
    assert (await broadcasts(db, "bridge:inbox", "work"))[-1]["question_ids"] == [question]
    assert await workers[0].heard() == []
    (row,) = await user.rows("messages", id=question)
    assert row["status"] == "queued"


# nobody else's business -----------------------------------------------------------------------------


async def test_user_neither_reads_a_workers_topic_nor_writes_to_it(
    environment: dict[str, str], stack: Stack, workers: list[Caller], db: Connection, user: Person
) -> None:
    await workers[0].claim()
    session = await open_session(db, user)
    await ask(db, session)
    with pytest.raises(PermissionError):
        await user.listen("worker:w0", "job")
    async with database.database(stack.admin_url) as mine, mine.transaction(force_rollback=True):
        claims = json.dumps({"sub": user.id, "role": "authenticated"})
        await mine.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        await mine.execute("set local role authenticated")
        for topic, is_mine in ((f"session:{session}", True), ("worker:w0", False)):
            await mine.execute("select set_config('realtime.topic', %s, true)", (topic,))
            cursor = await mine.execute("select from realtime.messages where topic = %s", (topic,))
            assert bool(await cursor.fetchall()) == is_mine
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await mine.execute(
                "insert into realtime.messages (topic, extension, event) values ('worker:w0', 'broadcast', 'job')"
            )


async def test_worker_hears_nothing_from_users(
    environment: dict[str, str], workers: list[Caller], db: Connection, user: Person
) -> None:
    client = await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_SECRET_KEY"])
    worker = dataclasses.replace(user, client=client, token=environment["SUPABASE_SECRET_KEY"])
    ear = await worker.listen("worker:w0", "job")
    try:
        async with httpx.AsyncClient(timeout=20) as http:
            forged = {"topic": "worker:w0", "event": "job", "payload": {"question_id": "forged"}, "private": True}
            await http.post(
                f"{environment['SUPABASE_URL']}/realtime/v1/api/broadcast",
                headers={"apikey": environment["SUPABASE_PUBLISHABLE_KEY"], "Authorization": f"Bearer {user.token}"},
                json={"messages": [forged]},
            )
        await workers[0].claim()
        question = await ask(db, user)
        await ear.until(lambda ear: ear.heard)
        assert [payload["question_id"] for payload in ear.of("job")] == [question]
    finally:
        await close(client.realtime)


async def test_deleted_session_takes_what_was_sent_of_it(workers: list[Caller], db: Connection, user: Person) -> None:
    await workers[0].claim()
    deleted, kept = await open_session(db, user), await open_session(db, user)
    questions = [await ask(db, session, "secret") for session in (deleted, kept)]
    await user.client.table("sessions").delete().eq("id", deleted).execute()
    assert [payload["question_id"] for payload in await workers[0].heard()] == questions[1:]
