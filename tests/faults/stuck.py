"""Looks, while chaos goes on, for questions that nobody will ever end."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg

from tests.faults.checker import Violation
from tests.support.database import Row, database

PAUSE_SECONDS = 1.0
# A question without a job, or one that waits though a worker holds it, or though nothing is open.
_STUCK = """
select m.id::text, case when j.id is null then m.status || ' without a job' else 'waits for nothing' end as problem
  from public.messages m left join bridge.jobs j on j.question_id = m.id
 where m.role = 'user' and case
       when j.id is null then m.status in ('queued', 'running', 'waiting')
       when m.status = 'waiting' then j.worker is not null or j.run_at is null or not exists (
           select from bridge.steps s where s.question_id = m.id and not s.is_done and s.due_at is not null) end
"""


async def watch(url: str, found: set[Violation]) -> None:
    """Add what is stuck at any moment to `found`, until cancelled. It looks again when Postgres is back."""
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        with contextlib.suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(10), database(url) as db:
                found |= await stuck(db)


async def stuck(db: psycopg.AsyncConnection[Row]) -> set[Violation]:
    """What is stuck now."""
    rows = await (await db.execute(_STUCK.encode())).fetchall()
    return {Violation("stuck", row["id"], row["problem"]) for row in rows}
