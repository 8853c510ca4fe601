"""A direct connection to Postgres, without REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]


@asynccontextmanager
async def database(url: str) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """Connect to `url`. Rows are dicts, and every statement commits."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with connection:
        yield connection


async def set_limits(db: psycopg.AsyncConnection[Row], user_id: str, **values: int) -> None:
    """Give a user limits of their own, by their names in `bridge.limits`."""
    for name, value in values.items():
        await db.execute("insert into bridge.limits (name, user_id, value) values (%s, %s, %s)", (name, user_id, value))


async def delete_all_users(url: str) -> None:
    """Delete all users and their data, and all workers with what they know: a killed one would count as live for 30 s.

    Sessions are locked first, as every writer does, because a page's last request may still be running.
    """
    async with database(url) as connection, connection.transaction():
        await connection.execute("select from public.sessions for update")
        await connection.execute("delete from auth.users")
        await connection.execute("delete from bridge.workers")
        await connection.execute("delete from bridge.functions")


async def jobs_read(db: psycopg.AsyncConnection[Row]) -> int:
    """How many rows and index entries of `bridge.jobs` this transaction has read so far."""
    cursor = await db.execute(
        "select sum(pg_stat_get_xact_tuples_returned(c.oid))::int as read from pg_class c"
        " where c.oid = 'bridge.jobs'::regclass"
        " or c.oid in (select i.indexrelid from pg_index i where i.indrelid = 'bridge.jobs'::regclass)"
    )
    (row,) = await cursor.fetchall()
    return int(row["read"])
