"""Conversations written straight to the database, for tests of how the page shows them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from playwright.async_api import expect

from tests.e2e.tab import Tab
from tests.support.database import Row


@dataclass(frozen=True)
class Turn:
    """A question and its reply. `data` is the reply's structured result; `parts` are its parts, if it has any."""

    question: str
    reply: str
    data: Any = None
    status: str = "done"
    error: dict[str, str] | None = None
    parts: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class File:
    """A code file."""

    path: str
    content: str
    language: str | None = "python"


@dataclass(frozen=True)
class Conversation:
    """A session with its messages and files."""

    title: str
    turns: Sequence[Turn] = ()
    files: Sequence[File] = ()
    function: str = "Chat"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


async def user_id(db: psycopg.AsyncConnection[Row], email: str) -> str:
    """The id of a signed-up user."""
    row = await (await db.execute("select id from auth.users where email = %s", (email,))).fetchone()
    assert row is not None, email
    return str(row["id"])


async def write(db: psycopg.AsyncConnection[Row], user: str, conversation: Conversation) -> str:
    """Write a session with its messages and files, without jobs and events. Returns its id."""
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")  # no triggers
        await db.execute(
            "insert into public.sessions (id, user_id, title, function, last_ordinal) values (%s, %s, %s, %s, %s)",
            (conversation.id, user, conversation.title, conversation.function, 2 * len(conversation.turns)),
        )
        for number, turn in enumerate(conversation.turns, 1):
            await _write_turn(db, conversation.id, 2 * number, turn)
        for file in conversation.files:
            await db.execute(
                "insert into public.code_files (session_id, path, content, language) values (%s, %s, %s, %s)",
                (conversation.id, file.path, file.content, file.language),
            )
    return conversation.id


async def show(tab: Tab, db: psycopg.AsyncConnection[Row], conversation: Conversation) -> str:
    """Sign up a new user in the tab and open this conversation as theirs. Returns the session's id."""
    user = await user_id(db, await tab.sign_up())
    session_id = await write(db, user, conversation)
    await tab.page.goto(f"{tab.address}#{session_id}")
    await tab.page.reload()
    await expect(tab.box).to_be_visible()
    return session_id


async def _write_turn(db: psycopg.AsyncConnection[Row], session_id: str, ordinal: int, turn: Turn) -> None:
    question = uuid.uuid4()
    error = json.dumps(turn.error) if turn.error else None
    await db.execute(
        "insert into public.messages (id, session_id, ordinal, role, content, status, error)"
        " values (%s, %s, %s, 'user', %s, %s, %s)",
        (question, session_id, ordinal, turn.question, turn.status, error),
    )
    await db.execute(
        "insert into public.messages"
        " (session_id, ordinal, role, content, data, parts, status, error, reply_to, attempt, seq)"
        " values (%s, %s, 'assistant', %s, %s, %s, %s, %s, %s, 1, 1)",
        (
            session_id,
            ordinal + 1,
            turn.reply,
            None if turn.data is None else json.dumps(turn.data),
            None if turn.parts is None else json.dumps(turn.parts),
            turn.status,
            error,
            question,
        ),
    )
