"""Waiting by polling, for conditions that send no notification: of a process, a file, a row."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import psycopg

from tests.support.database import Row


async def until(
    reached: Callable[[], object] | Callable[[], Awaitable[object]], within: float, pause: float = 0.02
) -> None:
    """Poll until `reached()` is true; it may be async. Raises TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while True:
            result = reached()
            if await result if inspect.isawaitable(result) else result:
                return
            await asyncio.sleep(pause)


async def waits_for_a_lock(db: psycopg.AsyncConnection[Row]) -> bool:
    """Whether any connection to the database is waiting for a lock."""
    return bool(await (await db.execute("select from pg_locks where not granted")).fetchall())
