"""The daily partitions of `realtime.messages`, created ahead and dropped after three days as on the hosted service."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta
from typing import cast

import psycopg
from psycopg import sql

from devstack.pool import Connection, Pool

logger = logging.getLogger(__name__)

DAYS_AHEAD = 3
DAYS_KEPT = 3
CHECK_SECONDS = 3600.0


async def make_partitions(connection: Connection) -> None:
    """Create the partitions from yesterday to three days ahead, and drop those older than three days."""
    today = datetime.now(UTC).date()
    cursor = await connection.execute(
        "select c.relname::text from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'realtime.messages'::regclass"
    )
    present = {cast(str, row[0]) for row in await cursor.fetchall()}
    for ahead in range(-1, DAYS_AHEAD + 1):
        day = today + timedelta(days=ahead)
        if _name(day) not in present:
            await connection.execute(
                sql.SQL(
                    "create table if not exists {} partition of realtime.messages for values from ({}) to ({})"
                ).format(sql.Identifier("realtime", _name(day)), day.isoformat(), (day + timedelta(1)).isoformat())
            )
    oldest = _name(today - timedelta(days=DAYS_KEPT))
    for name in sorted(present):
        if name < oldest:
            await connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier("realtime", name)))


async def keep_partitions(pool: Pool) -> None:
    """Create and drop partitions once an hour, until cancelled."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        try:
            await pool.run(make_partitions)
        except (psycopg.Error, TimeoutError, OSError) as error:
            logger.warning("could not update the partitions of realtime.messages: %s", str(error).strip())


def _name(day: date) -> str:
    return f"messages_{day:%Y_%m_%d}"
