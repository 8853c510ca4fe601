"""Many claimers and sessions at once: one reply at a time in a session, in order, without deadlocks."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from devstack.stack import Stack
from tests.support.database import Row, database
from tests.support.users import Person
from tests.support.waiting import until

CLAIMERS = 4
SESSIONS = 60
MESSAGES = 5_000
SLOTS = 12
WITHIN_SECONDS = 240  # it takes 20 on an idle machine


class Watch:
    """Which claimer holds which question: from the response to the claim until just before the finish.

    The database holds a question for longer, so every overlap found here is a fault.
    """

    def __init__(self) -> None:
        self.held: dict[str, str] = {}  # session: question
        self.ordinals: dict[str, tuple[str, int]] = {}  # question: session, ordinal
        self.unended: dict[str, set[int]] = {}  # session: ordinals that never ended
        self.wrong: list[str] = []
        self.attempts: Counter[str] = Counter()

    def asked(self, message_id: str, session_id: str, ordinal: int) -> None:
        self.ordinals[message_id] = (session_id, ordinal)
        self.unended.setdefault(session_id, set()).add(ordinal)

    def begins(self, message_id: str, session_id: str, ordinal: int) -> None:
        if session_id in self.held:
            self.wrong.append(f"two at once in {session_id}: {self.held[session_id]} and {message_id}")
        self.held[session_id] = message_id
        self.attempts[message_id] += 1
        if earlier := [other for other in self.unended.get(session_id, ()) if other < ordinal]:
            self.wrong.append(f"{ordinal} of {session_id} begins before {earlier}")

    def lets_go(self, message_id: str, session_id: str, ordinal: int, *, ends: bool) -> None:
        self.held.pop(session_id, None)
        if ends:
            self.unended[session_id].discard(ordinal)


@pytest.fixture
async def quiet(stack: Stack) -> AsyncIterator[None]:
    """Stop Realtime: announcements would only slow the test down."""
    await stack.realtime.stop()
    yield
    await stack.realtime.start()


async def test_concurrent_claims_keep_each_session_in_order(
    stack: Stack, user: Person, db: psycopg.AsyncConnection[Row], quiet: None
) -> None:
    rng = random.Random(20261123)
    watch = Watch()
    sessions = [str(uuid.uuid4()) for _ in range(SESSIONS)]
    await db.execute(
        "insert into public.sessions (id, user_id, title) select id, %s, 'named' from unnest(%s::uuid[]) id",
        [user.id, sessions],
    )
    asked: list[str] = []
    retried: list[str] = []
    all_asked = asyncio.Event()

    async def connect(opened: AsyncExitStack, role: str) -> psycopg.AsyncConnection[Row]:
        connection = await opened.enter_async_context(database(stack.admin_url))
        claims = Jsonb({"sub": user.id, "role": role})
        await connection.execute("select set_config('request.jwt.claims', %s::text, false)", [claims])
        await connection.execute(f"set role {role}".encode())
        return connection

    async def inserts(connection: psycopg.AsyncConnection[Row], count: int) -> None:
        """A user asks one question, or several at once, in one or in several sessions."""
        while count > 0:
            many = min(count, rng.choice((1, 1, 4, 12)))
            count -= many
            cursor = await connection.execute(
                "insert into public.messages (session_id, content) select s, 'q' from unnest(%s::uuid[]) s"
                " returning id::text, session_id::text, ordinal",
                [sorted(rng.choices(sessions, k=many)) if rng.random() < 0.3 else [rng.choice(sessions)] * many],
            )
            for row in await cursor.fetchall():
                watch.asked(row["id"], row["session_id"], row["ordinal"])
                asked.append(row["id"])

    async def cancels_and_retries(connection: psycopg.AsyncConnection[Row]) -> None:
        """A user cancels and retries at random."""
        while not all_asked.is_set():
            await asyncio.sleep(0.01)
            if not asked:
                continue
            message_id = rng.choice(asked)
            session_id, ordinal = watch.ordinals[message_id]
            if rng.random() < 0.5:
                watch.unended[session_id].discard(ordinal)  # it may end here
                await connection.execute("select public.cancel_message(%s)", [message_id])
            else:
                await connection.execute("select public.retry_message(%s)", [message_id])
                retried.append(message_id)

    async def claims(connection: psycopg.AsyncConnection[Row], worker: str) -> None:
        """A worker claims, beats and finishes. Some attempts fail and are retried, some are released."""
        while True:
            cursor = await connection.execute(
                "select public.bridge_claim(%s, %s, '{}', 30, 3) as answer", [worker, SLOTS]
            )
            jobs: list[dict[str, Any]] = (await cursor.fetchall())[0]["answer"]["jobs"]
            if not jobs:
                if all_asked.is_set() and not await has_open_jobs(connection):
                    return
                await asyncio.sleep(0.01)
                continue
            for job in jobs:
                assert "broken" not in job, job["broken"]
                await until(partial(watch.ordinals.get, job["question_id"]), 5, 0)  # its insert's answer is on its way
                watch.begins(job["question_id"], *watch.ordinals[job["question_id"]])
            beats = [{"question_id": j["question_id"], "attempt": j["attempt"], "seq": 1, "content": "a"} for j in jobs]
            cursor = await connection.execute("select public.bridge_beat(%s, %s) as answer", [worker, Jsonb(beats)])
            assert "lost" not in (await cursor.fetchall())[0]["answer"]["results"].values()
            results = []
            for job in jobs:
                result = {"question_id": job["question_id"], "attempt": job["attempt"], "content": "answer", "seq": 2}
                outcome = rng.choices(("done", "failed", "released"), (90, 6, 4))[0]
                again = outcome == "released" or (outcome == "failed" and watch.attempts[job["question_id"]] < 4)
                if outcome == "failed":
                    result["error"] = {"code": "c", "message": "m"}
                    if again:
                        result["retry_in_ms"] = rng.randrange(20)
                results.append(result | {"outcome": outcome})
                watch.lets_go(job["question_id"], *watch.ordinals[job["question_id"]], ends=not again)
            cursor = await connection.execute("select public.bridge_finish(%s, %s) as answer", [worker, Jsonb(results)])
            states = (await cursor.fetchall())[0]["answer"]["results"]
            assert set(states.values()) == {"ok"}, states

    async def has_open_jobs(connection: psycopg.AsyncConnection[Row]) -> bool:
        cursor = await connection.execute("select public.bridge_status() as status")
        status = (await cursor.fetchall())[0]["status"]
        return bool(status["queued"] + status["waiting"] + status["retrying"] + status["running"])

    async with AsyncExitStack() as opened:
        async with asyncio.timeout(WITHIN_SECONDS):
            async with asyncio.TaskGroup() as group:
                for n in range(CLAIMERS):
                    group.create_task(claims(await connect(opened, "service_role"), f"claimer-{n}"))
                for _ in range(2):
                    group.create_task(cancels_and_retries(await connect(opened, "authenticated")))
                async with asyncio.TaskGroup() as askers:
                    for _ in range(3):
                        askers.create_task(inserts(await connect(opened, "authenticated"), MESSAGES // 3 + 1))
                all_asked.set()

    assert watch.wrong == []
    assert len(asked) >= MESSAGES
    assert len(retried) > 10
    cursor = await db.execute(
        "select status, count(*) from public.messages where role = 'user' and session_id = any (%s::uuid[]) group by 1",
        [sessions],
    )
    statuses = {row["status"]: row["count"] for row in await cursor.fetchall()}
    assert set(statuses) <= {"done", "failed", "cancelled"}
    assert sum(statuses.values()) == len(asked)
    cursor = await db.execute(
        "select count(*) from public.messages q left join public.messages r on r.reply_to = q.id"
        " where q.role = 'user' and q.session_id = any (%s::uuid[]) and (q.status <> 'cancelled' or r.id is not null)"
        " and (r.status is distinct from q.status or r.ordinal <> q.ordinal + 1)",
        [sessions],
    )
    assert await cursor.fetchall() == [{"count": 0}], "a question has no reply, or one with another status"


async def test_insert_into_several_sessions_blocks_no_finish(
    stack: Stack, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """A finish locks sessions in the order of their ids; an insert in the opposite order must not stop it."""
    low, high = sorted([await user.open_session(title="named"), await user.open_session(title="named")])
    lock = "select from public.sessions where id = %s for no key update"
    async with database(stack.admin_url) as asking, db.transaction():
        await db.execute(lock, [low])  # as a finish does

        async def ask() -> None:
            await asking.execute("select set_config('request.jwt.claims', %s::text, false)", [Jsonb({"sub": user.id})])
            await asking.execute("set role authenticated")
            insert = "insert into public.messages (session_id, content) values (%s, 'q'), (%s, 'q')"
            try:
                await asking.execute(insert, [high, low])
            except psycopg.Error as error:
                if error.sqlstate != "PT409":  # the schema may refuse the order, without waiting
                    raise

        waiting = asyncio.create_task(ask())

        async def is_blocked_or_done() -> bool:
            return waiting.done() or await blocked(stack, asking.info.backend_pid)

        await until(is_blocked_or_done, 5)
        await db.execute(lock, [high])
    await waiting  # neither raises DeadlockDetected


async def blocked(stack: Stack, pid: int) -> bool:
    """Whether a connection waits for a lock."""
    async with database(stack.admin_url) as watching:
        cursor = await watching.execute("select cardinality(pg_blocking_pids(%s)) > 0 as waits", [pid])
        return bool((await cursor.fetchall())[0]["waits"])
