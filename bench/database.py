"""Direct access to a project's database: fill it, ask hundreds of questions in one statement, wait for the replies."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from bench.processes import Failed
from tests.support.database import Row

Database = psycopg.AsyncConnection[Row]


async def one_row(db: Database, query: Any, parameters: Any = None) -> Row:
    """The row that a query returns."""
    row = await (await db.execute(query, parameters)).fetchone()
    assert row is not None
    return row


async def create_user(db: Database) -> str:
    """Create a user; returns the id."""
    row = await one_row(db, "insert into auth.users (id) values (gen_random_uuid()) returning id::text")
    return str(row["id"])


async def open_sessions(db: Database, user_id: str, count: int, function: str = "Chat") -> list[str]:
    """Create sessions. They have a title, so workers do not generate one."""
    cursor = await db.execute(
        "insert into public.sessions (user_id, title, function)"
        " select %s, 'bench', %s from generate_series(1, %s) returning id::text",
        (user_id, function, count),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def add_finished(db: Database, user_id: str, messages: int, *, per_session: int = 50) -> list[str]:
    """Insert this many messages of finished exchanges, bypassing the triggers; returns the ids of their sessions."""
    async with bypassing_triggers(db):
        cursor = await db.execute(
            """
            with s as (
                insert into public.sessions (user_id, title, last_ordinal)
                select %(user)s, 'old', %(each)s from generate_series(1, greatest(1, %(count)s / %(each)s)) returning id
            ), q as (
                insert into public.messages (session_id, ordinal, role, content, status)
                select s.id, 2 * n, 'user', 'an old question', 'done' from s, generate_series(1, %(each)s / 2) n
                returning id, session_id, ordinal
            ), r as (
                insert into public.messages (session_id, ordinal, role, content, status, reply_to, attempt, seq)
                select q.session_id, q.ordinal + 1, 'assistant', 'an old reply', 'done', q.id, 1, 1 from q
                returning reply_to
            ), n as (
                insert into bridge.runs (question_id, attempt, worker, outcome, created_at)
                select r.reply_to, 1, 'old', 'done', now() - interval '1 day' from r
            )
            select id::text from s
            """,
            {"user": user_id, "count": messages, "each": per_session},
        )
        return [row["id"] for row in await cursor.fetchall()]


async def add_workers(db: Database, count: int, *, slots: int, holding: int) -> None:
    """Replace the live workers by rows of `count` workers that hear, with so many slots, of which `holding` are taken.

    The jobs that they hold, each of a user of its own, began within the last 12 s. Leases and rows outlast a
    measurement.
    """
    await db.execute("delete from bridge.workers")
    await db.execute(
        "insert into bridge.workers (name, lease, seen_at, functions, capacity, history, hears_until)"
        " select 'other ' || n, interval '30 seconds', now() + interval '1 hour', '{Chat}', %s, 100,"
        " now() + interval '1 hour' from generate_series(1, %s) n",
        (slots, count),
    )
    async with bypassing_triggers(db):
        await db.execute(
            """
            insert into bridge.jobs (question_id, session_id, user_id, ordinal, attempt, run_at, worker, slot,
                                     lease_until, function)
            select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 2, 1,
                   now() - random() * interval '12 seconds', 'other ' || n, slot,
                   now() + interval '1 hour' + random() * interval '7 seconds', 'Chat'
              from generate_series(1, %s) n, generate_series(1, %s) slot
            """,
            (count, holding),
        )
    await db.execute("vacuum analyze bridge.jobs")
    await db.execute("vacuum analyze bridge.workers")


async def let_hear(db: Database, hear: bool) -> None:
    """Let the rows of all workers say that these hear for an hour, or that they do not."""
    await db.execute("update bridge.workers set hears_until = now() + interval '1 hour' * %s", (1 if hear else -1,))
    await db.execute("vacuum bridge.workers")


async def ask(db: Database, questions: list[tuple[str, str]]) -> list[str]:
    """Insert (session, text) pairs in one transaction; returns the ids in the order of the sorted pairs."""
    ordered = sorted(questions)
    cursor = await db.execute(
        "insert into public.messages (session_id, content)"
        " select q.session_id::uuid, q.content from unnest(%s::text[], %s::text[]) q (session_id, content)"
        " returning id::text",
        ([session for session, _ in ordered], [text for _, text in ordered]),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def queued(db: Database, questions: list[str]) -> int:
    """How many of these questions still have a job."""
    row = await one_row(
        db, "select count(*) as left from bridge.jobs where question_id = any (%s::uuid[])", (questions,)
    )
    return int(row["left"])


async def replies_done(db: Database, questions: list[str], *, within: float = 120) -> float:
    """Wait for all replies; returns the seconds it took. Raises `Failed` on a timeout or if one is not done."""
    began = time.monotonic()
    while left := await queued(db, questions):
        if time.monotonic() - began > within:
            raise Failed(f"{left} of {len(questions)} questions had no reply after {within:g} s")
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - began
    cursor = await db.execute(
        "select status, count(*) from public.messages where reply_to = any (%s::uuid[]) group by 1", (questions,)
    )
    outcomes = {row["status"]: row["count"] for row in await cursor.fetchall()}
    if outcomes != {"done": len(questions)}:
        raise Failed(f"of {len(questions)} replies: {outcomes}")
    return seconds


async def clear_queue(db: Database) -> None:
    """Delete all jobs and vacuum."""
    async with bypassing_triggers(db):
        await db.execute("delete from bridge.jobs")
    await db.execute("vacuum bridge.jobs")
    await db.execute("vacuum public.messages")


async def wal_bytes(db: Database) -> float:
    """The current position in the write-ahead log, in bytes."""
    row = await one_row(db, "select (pg_current_wal_insert_lsn() - '0/0')::float8 as bytes")
    return float(row["bytes"])


async def configure(db: Database, **settings: str | None) -> None:
    """Set configuration parameters of the server (None: back to the default) and reload."""
    for name, value in settings.items():
        await db.execute(f"alter system {f'reset {name}' if value is None else f'set {name} = {value}'}")
    await db.execute("select pg_reload_conf()")


@asynccontextmanager
async def no_autovacuum(db: Database) -> AsyncIterator[None]:
    """Turn autovacuum off: it starts at any time, mostly right after tables were filled."""
    await configure(db, autovacuum="off")
    try:
        yield
    finally:
        await configure(db, autovacuum=None)


@asynccontextmanager
async def bypassing_triggers(db: Database) -> AsyncIterator[None]:
    """A transaction without triggers and foreign keys."""
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")
        yield


@asynccontextmanager
async def service_role(url: str) -> AsyncIterator[Database]:
    """A connection with the service role, as PostgREST opens it."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row) as db:
        await db.execute("set role service_role")
        yield db


@asynccontextmanager
async def signed_in(url: str, user_id: str) -> AsyncIterator[Database]:
    """A connection with a user's role and claims, as PostgREST opens it."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row) as db:
        claims = json.dumps({"sub": user_id, "role": "authenticated"})
        await db.execute("select set_config('request.jwt.claims', %s, false)", (claims,))
        await db.execute("set role authenticated")
        yield db
