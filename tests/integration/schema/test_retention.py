"""Retention: what `bridge_trim` deletes, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import working


@pytest.fixture
async def server(environment: dict[str, str]) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_SECRET_KEY"], options)


async def trim(server: AsyncClient, **limits: int | None) -> dict[str, Any]:
    answer: Any = await server.rpc("bridge_trim", limits).execute()
    return dict(answer.data)


async def count(db: psycopg.AsyncConnection[Row], table: str, question_id: str) -> int:
    query = f"select count(*) as count from bridge.{table} where question_id = %s"
    return int((await (await db.execute(query.encode(), (question_id,))).fetchall())[0]["count"])


async def age(db: psycopg.AsyncConnection[Row], table: str, days: int, question_id: str) -> None:
    query = f"update {table} set created_at = now() - make_interval(days => %s) where question_id = %s"
    await db.execute(query.encode(), (days, question_id))


async def test_only_old_attempts_are_deleted(
    environment: dict[str, str], server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    async with working(environment):
        old, young = [await user.ask(session, f"[[text={n}]]") for n in range(2)]
        await user.reply(young)
    await age(db, "bridge.runs", 31, old)
    await age(db, "bridge.runs", 29, young)
    assert await trim(server) == {
        "runs": 1,
        "dead_letters": 0,
        "versions": 0,
        "steps": 0,
        "attachments": 0,
        "broadcasts": 0,
        "more": False,
    }
    assert [await count(db, "runs", id_) for id_ in (old, young)] == [0, 1]
    assert (await user.rows("messages", id=old))[0]["content"] == "[[text=0]]"
    async with working(environment):  # a question without runs can still be retried
        await user.client.rpc("retry_message", {"message_id": old}).execute()
        await user.reply(old, lambda row: row["attempt"] == 2 and row["status"] == "done")


async def test_dead_letter_keeps_its_attempts(
    environment: dict[str, str], server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session = await user.open_session(title="named")
    async with working(environment, max_failures=1):
        given_up = await user.ask(session, "[[error=500]]")
        assert (await user.reply(given_up))["status"] == "failed"
    assert await count(db, "dead_letters", given_up) == 1
    await age(db, "bridge.runs", 400, given_up)
    assert (await trim(server))["runs"] == 0
    await age(db, "bridge.dead_letters", 91, given_up)
    assert await trim(server) == {
        "runs": 1,
        "dead_letters": 1,
        "versions": 0,
        "steps": 0,
        "attachments": 0,
        "broadcasts": 0,
        "more": False,
    }
    assert (await user.rows("messages", reply_to=given_up))[0]["status"] == "failed"
    async with working(environment):
        await user.client.rpc("retry_message", {"message_id": given_up}).execute()
        assert (await user.reply(given_up, lambda row: row["attempt"] == 2))["attempt"] == 2


async def test_unanswered_question_keeps_its_attempts(
    server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    waiting = await user.ask(await user.open_session(), "no worker runs")
    ended = await user.ask(await user.open_session(), "without a reply")
    await db.execute("delete from bridge.jobs where question_id = %s", (ended,))
    for message_id in (waiting, ended):
        await db.execute(
            "insert into bridge.runs (question_id, attempt, worker, outcome, created_at) "
            "values (%s, 3, 'w', 'lost', now() - interval '1 year')",
            (message_id,),
        )
    assert (await trim(server, runs_days=1))["runs"] == 0


async def test_earlier_versions_are_deleted_only_on_request(
    server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session()
    files = user.client.table("code_files")
    await files.insert({"session_id": session_id, "path": "a.py", "content": "1"}).execute()
    for content in ("2", "3"):
        await files.update({"content": content}).eq("session_id", session_id).execute()
    await db.execute(
        "update public.code_file_versions set created_at = now() - interval '50 days' "
        "where session_id = %s and content = '1'",
        (session_id,),
    )
    assert (await trim(server))["versions"] == 0
    assert (await trim(server, versions_days=49))["versions"] == 1
    left = await user.rows("code_file_versions", session_id=session_id)
    assert [version["content"] for version in left] == ["2"]


async def old_runs(user: Person, db: psycopg.AsyncConnection[Row], number: int) -> None:
    """Add attempts that are two years old."""
    session = await user.open_session()
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")  # no question is enqueued
        await db.execute(
            "with q as (insert into public.messages (session_id, ordinal, role, status, content) "
            "select %s, 1000 + 2 * n, 'user', 'done', 'x' from generate_series(1, %s) n returning id, ordinal), "
            "a as (insert into public.messages (session_id, ordinal, role, status, reply_to, attempt) "
            "select %s, q.ordinal + 1, 'assistant', 'done', q.id, 1 from q) "
            "insert into bridge.runs (question_id, attempt, worker, outcome, created_at) "
            "select q.id, 1, 'w', 'done', now() - interval '2 years' from q",
            (session, number, session),
        )


async def test_call_deletes_up_to_max_rows_and_returns_more(
    server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await old_runs(user, db, 25)
    taken = [await trim(server, runs_days=700, max_rows=10) for _ in range(3)]
    assert [(one["runs"], one["more"]) for one in taken] == [(10, True), (10, True), (5, False)]


async def test_call_deletes_up_to_max_rows_with_stale_statistics(
    user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Postgres assumes a single attempt and plans a nested loop."""
    async with db.transaction(force_rollback=True):
        await db.execute("delete from bridge.runs")
        await old_runs(user, db, 1)
        await db.execute("analyze bridge.runs")
        await old_runs(user, db, 24)
        cursor = await db.execute("select public.bridge_trim(runs_days => 700, max_rows => 10) as answer")
        assert (await cursor.fetchall())[0]["answer"]["runs"] == 10


async def test_trimming_does_not_disturb_a_worker(
    environment: dict[str, str], server: AsyncClient, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    done = asyncio.Event()

    async def keep_trimming() -> int:
        trimmed = 0
        while not done.is_set():
            await db.execute("update bridge.runs set created_at = now() - interval '2 days'")
            trimmed += (await trim(server, runs_days=1, dead_letters_days=1, max_rows=3))["runs"]
        return trimmed

    session = [await user.open_session(title="named") for _ in range(4)]
    async with working(environment), asyncio.TaskGroup() as group:
        trimming = group.create_task(keep_trimming())
        asked = [await user.ask(session[n % 4], f"[[text={n} error=503 times=1]]") for n in range(12)]
        for number, message_id in enumerate(asked):
            assert (await user.reply(message_id))["content"] == str(number)
        done.set()
    assert trimming.result() > 0


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        ({"runs_days": 0}, "days must be at least 1; null keeps all"),
        ({"max_rows": 0}, "max_rows must be from 1 to 50000"),
        ({"max_rows": 50_001}, "max_rows must be from 1 to 50000"),
    ],
)
async def test_invalid_argument_is_refused(server: AsyncClient, limits: dict[str, int | None], remedy: str) -> None:
    with pytest.raises(APIError) as error:
        await trim(server, **limits)
    assert error.value.message == remedy


async def test_users_cannot_trim(user: Person) -> None:
    with pytest.raises(APIError) as error:
        await user.client.rpc("bridge_trim", {}).execute()
    assert error.value.code == "42501"
