"""What a question's history contains: questions with their replies, as a model can read them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.database import Row
from tests.support.users import Person


class Reply(NamedTuple):
    """How an earlier question ended; its text is its place."""

    status: str = "done"
    content: str = "fine"
    data: Any = None


class Conversation:
    """A session with earlier questions, written directly."""

    def __init__(self, db: psycopg.AsyncConnection[Row], session_id: str) -> None:
        self._db = db
        self._session_id = session_id
        self._count = 0

    async def add(self, reply: Reply | None, question: str | None = None) -> str:
        """Add a question with its reply (None: it was cancelled before any attempt); returns its text."""
        self._count += 1
        question = question or f"question {self._count}"
        async with self._db.transaction():
            await self._db.execute("set local session_replication_role = replica")  # no triggers
            row = await self._db.execute(
                "insert into public.messages (session_id, ordinal, content, status)"
                " values (%s, %s, %s, %s) returning id",
                (self._session_id, 2 * self._count, question, reply.status if reply else "cancelled"),
            )
            if reply is not None:
                (question_row,) = await row.fetchall()
                data = None if reply.data is None else Jsonb(reply.data)
                await self._db.execute(
                    "insert into public.messages (session_id, ordinal, role, content, data, status, reply_to)"
                    " values (%s, %s, 'assistant', %s, %s, %s, %s)",
                    (self._session_id, 2 * self._count + 1, reply.content, data, reply.status, question_row["id"]),
                )
        return question

    async def history(self, most: int = 100) -> list[dict[str, Any]]:
        """The history of a question that is asked next."""
        async with self._db.transaction(force_rollback=True):
            await self._db.execute("set local session_replication_role = replica")
            cursor = await self._db.execute(
                "insert into public.messages (session_id, ordinal, content) values (%s, %s, 'next')"
                " returning bridge.history_of(messages, %s) as history",
                (self._session_id, 2 * self._count + 2, most),
            )
            (row,) = await cursor.fetchall()
        history: list[dict[str, Any]] = row["history"]
        assert [message["role"] for message in history] == ["user", "assistant"] * (len(history) // 2)
        assert all(set(message) == {"role", "content"} for message in history[::2])
        assert all(set(message) == {"role", "content", "data"} for message in history[1::2])
        return history

    async def asked(self, most: int = 100) -> list[str]:
        """The questions in the history."""
        return [message["content"] for message in (await self.history(most))[::2]]


@pytest.fixture
async def conversation(user: Person, db: psycopg.AsyncConnection[Row]) -> Conversation:
    return Conversation(db, await user.open_session())


async def test_history_is_pairs_oldest_first(conversation: Conversation) -> None:
    for text in ("one", "two"):
        await conversation.add(Reply(content=text))
    assert await conversation.history() == [
        {"role": "user", "content": "question 1"},
        {"role": "assistant", "content": "one", "data": None},
        {"role": "user", "content": "question 2"},
        {"role": "assistant", "content": "two", "data": None},
    ]


@pytest.mark.parametrize(
    "reply",
    [
        Reply("failed", "cut off in the mid"),
        Reply("failed", "", {"rows": [1]}),
        Reply("cancelled", ""),
        Reply("cancelled", "", {"reply": ""}),
        Reply("done", ""),
        Reply("done", "", {"reply": "", "files": []}),
        Reply("done", "", {}),
        Reply("queued", "so far"),
        Reply("running", "so far"),
        None,
    ],
)
async def test_question_without_a_reply_is_left_out(conversation: Conversation, reply: Reply | None) -> None:
    await conversation.add(Reply())
    await conversation.add(reply, "[[refused]]")
    await conversation.add(Reply())
    assert await conversation.asked() == ["question 1", "question 3"]


async def test_cancelled_reply_with_text_stays(conversation: Conversation) -> None:
    await conversation.add(Reply("cancelled", "as far as it c"))
    assert [message["content"] for message in await conversation.history()] == ["question 1", "as far as it c"]


@pytest.mark.parametrize(
    ("reply", "content", "data"),
    [
        (Reply(content="hi", data={"reply": "hi", "options": [{"n": 1}]}), "hi", {"options": [{"n": 1}]}),
        (
            Reply(content="hi", data={"reply": "hi", "files": [{"path": "a", "content": "x", "language": None}]}),
            "hi",
            None,
        ),
        (Reply(content="", data={"rows": [1, 2]}), "", {"rows": [1, 2]}),
        (Reply(content="", data=[{"name": "é"}, 2]), "", [{"name": "é"}, 2]),
        (Reply(content="", data=[]), "", []),
        (Reply(content="", data=0), "", 0),
        (Reply(content="hi", data=None), "hi", None),
        (Reply("cancelled", "", {"rows": [1]}), "", {"rows": [1]}),
        # these are not the reply's text and files, so nothing else has them
        (Reply(content="", data={"reply": {"to": "you"}}), "", {"reply": {"to": "you"}}),
        (Reply(content="", data={"files": ["a.py"]}), "", {"files": ["a.py"]}),
    ],
)
async def test_reply_carries_its_data(conversation: Conversation, reply: Reply, content: str, data: Any) -> None:
    await conversation.add(reply)
    (_, replied) = await conversation.history()
    assert (replied["content"], replied["data"]) == (content, data)


async def test_null_as_data_is_none(conversation: Conversation, db: psycopg.AsyncConnection[Row]) -> None:
    await conversation.add(Reply())
    await conversation.add(Reply(content=""))
    await db.execute("update public.messages set data = 'null' where role = 'assistant'")
    assert await conversation.history() == [
        {"role": "user", "content": "question 1"},
        {"role": "assistant", "content": "fine", "data": None},
    ]


@pytest.mark.parametrize(("most", "asked"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (100, 3)])
async def test_limit_cuts_whole_pairs(conversation: Conversation, most: int, asked: int) -> None:
    texts = []
    for n in range(3):
        texts.append(await conversation.add(Reply()))
        await conversation.add(Reply("failed"), f"failed {n}")  # counts for nothing
    assert await conversation.asked(most) == texts[len(texts) - asked :]


@pytest.mark.parametrize("spare", [0, 1])
async def test_byte_limit_counts_data_and_cuts_whole_pairs(conversation: Conversation, spare: int) -> None:
    """The older pair fits to the byte, or its question does not."""
    newest = await conversation_size(Reply(content="é" * 1000, data={"n": 1}), "question 2")
    data = {"text": "x" * 200_000}
    rest = 262_144 - newest - len(json.dumps(data)) - len("question 1")
    await conversation.add(Reply(content="y" * (rest + spare), data=data))
    await conversation.add(Reply(content="é" * 1000, data={"n": 1}))
    assert await conversation.asked() == (["question 2"] if spare else ["question 1", "question 2"])


async def conversation_size(reply: Reply, question: str) -> int:
    return len(question) + len(reply.content.encode()) + len(json.dumps(reply.data))


async def test_pair_beyond_the_byte_limit_ends_the_history(conversation: Conversation) -> None:
    await conversation.add(Reply())
    await conversation.add(Reply(content="", data=["x" * 262_144]))
    await conversation.add(Reply())
    assert await conversation.asked() == ["question 3"]


async def test_unreadable_data_does_not_break_the_claim(
    conversation: Conversation, db: psycopg.AsyncConnection[Row]
) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    await conversation.add(Reply(data=deep))
    await conversation.add(Reply(content="", data=deep))
    assert await conversation.history() == [
        {"role": "user", "content": "question 1"},
        {"role": "assistant", "content": "fine", "data": None},
    ]


async def test_older_worker_gets_no_empty_message(
    conversation: Conversation, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """It does not know `data`, and some models refuse an empty message."""
    await conversation.add(Reply(content="", data={"rows": [1]}))
    await conversation.add(Reply())
    await db.execute("update public.sessions set last_ordinal = 4")
    (session,) = await user.rows("sessions")
    for functions, count in ((None, 2), (["Chat"], 4)):
        await user.ask(session["id"], "next")
        call = "select public.bridge_claim('w', 1, '{}', 30, 100, %s) as answer"
        (row,) = await (await db.execute(call, (functions,))).fetchall()
        (job,) = row["answer"]["jobs"]
        assert len(job["history"]) == count
        result = {"question_id": job["question_id"], "attempt": 1, "outcome": "failed", "error": {"code": "x"}}
        await db.execute("select public.bridge_finish('w', %s)", (Jsonb([result]),))
