"""A small, bounded pool of Postgres connections that survives server restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[object, ...]]


class Pool:
    """At most `size` connections in autocommit mode, opened on demand.

    `name` is what Postgres lists them as. `timeout` is the number of seconds to wait for a free connection, and for a
    new one to open.
    """

    def __init__(self, dsn: str, *, name: str = "realtime", size: int = 4, timeout: float = 5.0) -> None:
        self._dsn = dsn
        self._name = name
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._timeout = timeout
        self._closed = False

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, seconds: float = 10.0) -> T:
        """Run `work` with an exclusive connection for at most `seconds`, and return its result.

        If a pooled connection turns out to be closed (Postgres was restarted), `work` is retried with another one.
        Raises psycopg.Error as `work` does, psycopg.OperationalError if Postgres cannot be reached, TimeoutError.
        """
        async with asyncio.timeout(self._timeout):
            await self._free.acquire()
        try:
            async with asyncio.timeout(seconds):
                while self._idle:
                    connection = self._idle.pop()
                    try:
                        return await self._use(connection, work)
                    except psycopg.OperationalError:
                        if not connection.closed:
                            raise
                return await self._use(await self._open(), work)
        finally:
            self._free.release()

    def open(self) -> None:
        """Reopen the pool after `close`."""
        self._closed = False

    async def close(self) -> None:
        """Close idle connections now, and connections in use when their work is done."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _open(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=max(1, round(self._timeout)),
            application_name=self._name,
            options="-c timezone=UTC",
        )

    async def _use(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        clean = False
        try:
            result = await work(connection)
            clean = True
            return result
        except psycopg.Error:
            # After a failed statement, the connection is usable again once its transaction is rolled back.
            clean = not connection.broken and not connection.closed
            if clean:
                await connection.rollback()
            raise
        finally:
            if clean and not self._closed:
                self._idle.append(connection)
            else:
                await connection.close()
