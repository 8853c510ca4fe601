"""What tests of steps share: questions for `Walk` of tests/support/agents.py, and what its steps note."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until

LEASE_SECONDS = 2
AGENTS: dict[str, Any] = {"handlers": "tests.support.agents", "functions": "Walk,Chat"}
# A process that is killed or frozen, and another one that takes over as soon as its lease has ended.
SHORT: dict[str, Any] = {**AGENTS, "lease_seconds": LEASE_SECONDS, "sweep_seconds": 1, "concurrency": 4}


class Notes:
    """The tries of steps, as they note them themselves."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path

    def environment(self, environment: dict[str, str]) -> dict[str, str]:
        """The environment of a process whose steps note their tries here."""
        return environment | {"AGENT_LEDGER": str(self.path)}

    @property
    def tried(self) -> list[str]:
        """The names of the steps, a try each."""
        return [json.loads(line)[2] for line in self.path.read_text().splitlines()]

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Names and keys."""
        return {(json.loads(line)[2], json.loads(line)[3]) for line in self.path.read_text().splitlines()}

    async def begun(self, name: str, times: int = 1) -> None:
        """Wait until a step was tried so often."""
        await until(lambda: self.tried.count(name) >= times, 30)

    def let_go(self, name: str) -> None:
        """Let a step go on that waits, or that would end its process."""
        Path(f"{self.path}.{name}").touch()


async def walk(user: Person, *operations: Any, **session: Any) -> str:
    """Ask for operations in a session of their own; returns the question's id."""
    return await user.ask(await user.open_session("Walk", title="named", **session), json.dumps(operations))


async def answer(user: Person, message_id: str, ask: str, **value: Any) -> str:
    """Answer what a reply asks, with yes by default; returns what became of the answer."""
    arguments = {"message_id": message_id, "ask": ask, "answer": value or {"approved": True}}
    return str((await user.client.rpc("answer_message", arguments).execute()).data)


async def cancel(user: Person, message_id: str) -> str:
    return str((await user.client.rpc("cancel_message", {"message_id": message_id}).execute()).data)


async def delete_session_of(user: Person, message_id: str) -> None:
    """Delete a question's session, as its user."""
    ((row),) = await user.rows("messages", id=message_id)
    await user.client.table("sessions").delete().eq("id", row["session_id"]).execute()


def is_waiting(row: Row) -> bool:
    return bool(row["status"] == "waiting")


def with_text(text: str) -> Callable[[Row], bool]:
    """Whether a reply has begun with this text."""
    return lambda row: str(row["content"]).startswith(text)


async def remembered(db: psycopg.AsyncConnection[Row], question: str) -> list[str]:
    """The names of the steps that are remembered of a question, in their order."""
    cursor = await db.execute("select name from bridge.steps where question_id = %s order by ordinal", (question,))
    return [row["name"] for row in await cursor.fetchall()]


async def outcomes(db: psycopg.AsyncConnection[Row], question: str) -> list[str]:
    """How the attempts at a question ended."""
    cursor = await db.execute("select outcome from bridge.runs where question_id = %s order by attempt", (question,))
    return [row["outcome"] for row in await cursor.fetchall()]


async def job(db: psycopg.AsyncConnection[Row], question: str) -> Row | None:
    """The job of a question."""
    cursor = await db.execute("select * from bridge.jobs where question_id = %s", (question,))
    return await cursor.fetchone()
