"""The real Storage in tests: what users upload, what the bucket holds, and time that passes there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from devstack.stack import Stack
from tests.support.database import Row
from tests.support.objects import PNG
from tests.support.users import Person

BUCKET = "attachments"
_AT_ONCE = 16


async def upload(
    client: AsyncClient, session_id: str, data: bytes = PNG, type: str = "image/png", extension: str = "png"
) -> str:
    """Upload an object of a session; returns its path."""
    path = f"{session_id}/{uuid.uuid4()}.{extension}"
    await client.storage.from_(BUCKET).upload(path, data, {"content-type": type})
    return path


async def upload_each(client: AsyncClient, session_ids: Sequence[str]) -> list[str]:
    """Upload an object for each of these, some at once; returns the paths."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(session_id: str) -> str:
        async with turn:
            return await upload(client, session_id)

    return await asyncio.gather(*map(one, session_ids))


def named(path: str, name: str = "a.png") -> dict[str, str]:
    """An item of `messages.attachments`."""
    return {"path": path, "name": name}


async def ask_about(user: Person, session_id: str, *paths: str) -> str:
    """Ask a question that names these objects; returns its id."""
    items = [named(path, f"{number}.{path.rpartition('.')[2]}") for number, path in enumerate(paths)]
    return await user.ask(session_id, "look", attachments=items)


async def objects_of(db: psycopg.AsyncConnection[Row], session_id: str) -> list[str]:
    """The paths of a session's objects."""
    cursor = await db.execute(
        "select name from storage.objects where bucket_id = %s and name ^@ %s order by name", (BUCKET, f"{session_id}/")
    )
    return [row["name"] for row in await cursor.fetchall()]


async def files_of(stack: Stack, db: psycopg.AsyncConnection[Row], paths: Sequence[str]) -> list[Path]:
    """The files that hold the bytes of these objects."""
    cursor = await db.execute(
        "select version from storage.objects where bucket_id = 'attachments' and name = any (%s)", (list(paths),)
    )
    return [stack.storage.folder / row["version"] for row in await cursor.fetchall()]


async def make_older(db: psycopg.AsyncConnection[Row], paths: Sequence[str], hours: float) -> None:
    """Let objects be older by some hours."""
    await db.execute(
        "update storage.objects set created_at = created_at - make_interval(hours => %s)"
        " where bucket_id = 'attachments' and name = any (%s)",
        (hours, list(paths)),
    )


async def let_time_pass(db: psycopg.AsyncConnection[Row]) -> None:
    """Let the time pass that a worker has to remove what it was given, and the next search be due."""
    await db.execute("update bridge.orphans set taken_until = now()")
    await db.execute("update bridge.orphan_search set position = '', next_at = now()")


@asynccontextmanager
async def server_client(environment: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
    """A client with the secret key."""
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_SECRET_KEY"], options)
