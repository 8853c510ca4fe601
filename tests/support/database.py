"""A connection of the test's own to Postgres, past REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]


@asynccontextmanager
async def database(url: str) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """Connect to `url`; rows are dicts, and every statement commits by itself."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with connection:
        yield connection


async def delete_all_users(url: str) -> None:
    """Delete all users with all they have, and the workers that are counted as live: of one that was killed, for 30 s.

    Sessions are locked first, as everything that writes into one does: a page may still have something on its way.
    """
    async with database(url) as connection, connection.transaction():
        await connection.execute("select from public.sessions for update")
        await connection.execute("delete from auth.users")
        await connection.execute("delete from bridge.workers")
