"""Questions by the hundred, inserted in one statement as many users would, and the wait for their replies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from bench.processes import Failed
from tests.support.database import Row

Database = psycopg.AsyncConnection[Row]


@dataclass(frozen=True)
class Done:
    """What became of a backlog: seconds from its commit to its last reply, and the outcomes by number."""

    seconds: float
    outcomes: dict[str, int]


async def open_sessions(db: Database, user_id: str, count: int, function: str = "Chat") -> list[str]:
    """So many sessions with a title, so that no title is asked for."""
    cursor = await db.execute(
        "insert into public.sessions (user_id, title, function)"
        " select %s, 'bench', %s from generate_series(1, %s) returning id::text",
        (user_id, function, count),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def finished(db: Database, user_id: str, messages: int, *, a_session: int = 50) -> None:
    """Add so many messages of finished exchanges, `a_session` to each session, past the triggers."""
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")
        await db.execute(
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
            )
            insert into bridge.runs (question_id, attempt, worker, outcome, created_at)
            select r.reply_to, 1, 'old', 'done', now() - interval '1 day' from r
            """,
            {"user": user_id, "count": messages, "each": a_session},
        )


async def ask(db: Database, questions: list[tuple[str, str]]) -> list[str]:
    """Insert (session, text) pairs in one transaction; give the messages' ids."""
    ordered = sorted(questions)
    cursor = await db.execute(
        "insert into public.messages (session_id, content)"
        " select q.session_id::uuid, q.content from unnest(%s::text[], %s::text[]) q (session_id, content)"
        " returning id::text",
        ([session for session, _ in ordered], [text for _, text in ordered]),
    )
    return [row["id"] for row in await cursor.fetchall()]


async def answered(db: Database, message_ids: list[str], *, within: float = 120) -> Done:
    """Wait until none of the questions has a job any more. Raises `Failed` if that takes too long."""
    began = time.monotonic()
    while True:
        cursor = await db.execute(
            "select count(*) as left from bridge.jobs where question_id = any (%s::uuid[])", (message_ids,)
        )
        row: Any = await cursor.fetchone()
        if row["left"] == 0:
            break
        if time.monotonic() - began > within:
            raise Failed(f"{row['left']} of {len(message_ids)} questions were not answered within {within:g} s")
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - began
    cursor = await db.execute(
        "select status, count(*) from public.messages where reply_to = any (%s::uuid[]) group by 1", (message_ids,)
    )
    return Done(seconds, {row["status"]: row["count"] for row in await cursor.fetchall()})


async def only_done(db: Database, message_ids: list[str], *, within: float = 120) -> float:
    """Wait for all replies; give the seconds. Raises `Failed` if one of them is anything but done."""
    done = await answered(db, message_ids, within=within)
    if done.outcomes != {"done": len(message_ids)}:
        raise Failed(f"of {len(message_ids)} replies: {done.outcomes}")
    return done.seconds
