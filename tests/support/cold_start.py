"""A Realtime that has just started and does not hear the database yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from devstack.realtime import Realtime
from tests.support.database import Row, database
from tests.support.waiting import until


@asynccontextmanager
async def cold_start(realtime: Realtime, url: str) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """Realtime has just started, and an open write transaction keeps it from hearing the database at `url`.

    The transaction ends with the connection's `rollback`.
    """
    await realtime.stop()
    async with database(url) as writing:
        await writing.execute("begin")
        await writing.execute("select pg_current_xact_id()")
        starting = asyncio.create_task(realtime.start())
        try:
            await until(lambda: realtime._running, within=10)
            yield writing
        finally:
            await writing.rollback()
            await starting
