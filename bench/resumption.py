"""Replies that ask their user and go on when they are answered, for the rows `resume` and `ask`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import database
from bench.database import Database, one_row
from bench.handlers import FUNCTIONS
from bench.processes import Failed
from bench.world import Model, Project, World
from tests.support.database import Row


@dataclass(frozen=True)
class Asker:
    """A user of the handler `Ask`, and a superuser's connection."""

    db: Database
    user: Database
    session: str

    async def ask(self, steps: int) -> str:
        """Ask a question whose handler takes so many steps; returns its id once it waits for the answer."""
        row = await one_row(
            self.user,
            "insert into public.messages (session_id, content) values (%s, %s) returning id::text",
            (self.session, json.dumps({"steps": steps})),
        )
        await _reply(self.db, row["id"], "waiting")
        return str(row["id"])

    async def answer(self, question: str) -> float:
        """Answer it; returns when, as its transaction says (Unix time). Raises `Failed` if somebody else did."""
        row = await one_row(
            self.user,
            "select public.answer_message(%s, 'go') as state, extract(epoch from now())::float8 as at",
            (question,),
        )
        if row["state"] != "taken":
            raise Failed(f"the answer was {row['state']}")
        return float(row["at"])


@asynccontextmanager
async def asking(world: World, project: Project, model: Model) -> AsyncIterator[Asker]:
    """A worker with the handlers, and a user with a session."""
    async with (
        project.database() as db,
        world.worker(project, model, functions=FUNCTIONS, handlers="bench.handlers"),
    ):
        user_id = await database.create_user(db)
        (session,) = await database.open_sessions(db, user_id, 1, "Ask")
        async with database.signed_in(project.environment["SUPABASE_DB_URL"], user_id) as user:
            yield Asker(db, user, session)


async def gone_on(db: Database, question: str) -> Row:
    """Wait for the end of the reply; returns the times that its handler tells."""
    told: Row = (await _reply(db, question, "done"))["data"]
    return told


async def _reply(db: Database, question: str, status: str, *, within: float = 60) -> Row:
    """Wait until the reply has this status. Raises `Failed`."""
    deadline = time.monotonic() + within
    row: Row | None = None
    while time.monotonic() < deadline:
        cursor = await db.execute("select status, data, error from public.messages where reply_to = %s", (question,))
        row = await cursor.fetchone()
        if row is not None and row["status"] == status:
            return row
        if row is not None and row["status"] == "failed":
            break
        await asyncio.sleep(0.01)
    raise Failed(f"the reply is not {status}: {row}")
