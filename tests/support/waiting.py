"""Waiting for what tells nobody when it is so: a process, a file, a row."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import psycopg

from tests.support.database import Row


async def until(
    reached: Callable[[], object] | Callable[[], Awaitable[object]], within: float, pause: float = 0.02
) -> None:
    """Wait until `reached()`, which may be a coroutine. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while True:
            answer = reached()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(pause)


async def waits_for_a_lock(db: psycopg.AsyncConnection[Row]) -> bool:
    """Whether anybody in the database does, at this moment."""
    return bool(await (await db.execute("select from pg_locks where not granted")).fetchall())
