"""Waiting by polling, for conditions that send no notification: of a process, a file, a row."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def turns_of_the_loop() -> Iterator[Callable[[], int]]:
    """Count the turns of the event loop; the block gets a function that returns how many there were."""
    loop = asyncio.get_running_loop()
    next_count: asyncio.Handle
    number = 0

    def count() -> None:
        nonlocal number, next_count
        number += 1
        next_count = loop.call_soon(count)

    next_count = loop.call_soon(count)
    try:
        yield lambda: number
    finally:
        next_count.cancel()


async def waits_for_a_lock(db: psycopg.AsyncConnection[Row]) -> bool:
    """Whether any connection to the database is waiting for a lock."""
    return bool(await (await db.execute("select from pg_locks where not granted")).fetchall())
