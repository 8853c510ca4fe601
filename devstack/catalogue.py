"""Keeps the catalogue to the functions that `make dev` answers: one that was renamed would stay there for a day."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import psycopg


async def keep(url: str, names: Sequence[str]) -> None:
    """Remove all other functions from `public.functions` of the database at `url`, if it can be reached."""
    with suppress(psycopg.Error):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("delete from public.functions where name <> all (%s)", (list(names),))
