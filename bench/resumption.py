"""Replies that go on: when their user has answered, or when their worker was killed. For `resume` and `ask`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench import database
from bench.database import Database, one_row
from bench.handlers import FUNCTIONS
from bench.processes import Failed
from bench.world import Model, Project, World, holder_of
from tests.support.database import Row
from tests.support.waiting import until


@dataclass(frozen=True)
class Asker:
    """A user of the handler `Ask`, and a superuser's connection."""

    db: Database
    user: Database
    session: str

    async def ask(self, steps: int) -> str:
        """Ask a question whose handler takes so many steps; returns its id once it waits for the answer."""
        question = await _ask(self.user, self.session, steps)
        await _reply(self.db, question, "waiting")
        return question

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


async def killed(world: World, project: Project, model: Model, steps: int, *, lease: int) -> float:
    """Kill a worker once its handler has taken so many steps; returns the seconds until the next step begins."""
    settings: dict[str, Any] = {"functions": FUNCTIONS, "handlers": "bench.handlers", "lease_seconds": lease}
    async with (
        project.database() as db,
        world.worker(project, model, **settings) as one,
        world.worker(project, model, **settings) as other,
    ):
        user_id = await database.create_user(db)
        (session,) = await database.open_sessions(db, user_id, 1, "Killed")
        async with database.signed_in(project.environment["SUPABASE_DB_URL"], user_id) as user:
            question = await _ask(user, session, steps)
        asked = time.monotonic()

        async def are_taken() -> bool:
            row = await one_row(db, "select count(*) as n from bridge.steps where question_id = %s", (question,))
            return bool(row["n"] >= steps)

        await until(are_taken, within=60)
        await asyncio.sleep(asked + lease - time.monotonic())  # many steps take longer than few, and renew the lease
        holder = await holder_of(project, question, (one, other))
        began = time.time()
        await holder.kill()
        return float((await gone_on(db, question))["next"]) - began


async def _ask(user: Database, session: str, steps: int) -> str:
    """Ask a handler that takes so many steps; returns the question's id."""
    row = await one_row(
        user,
        "insert into public.messages (session_id, content) values (%s, %s) returning id::text",
        (session, json.dumps({"steps": steps})),
    )
    return str(row["id"])


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
