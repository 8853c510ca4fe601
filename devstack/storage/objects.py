"""The rows of `storage.objects`. Each function is work for `Database.run`, whose caller the policies judge."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from devstack.pool import Connection
from devstack.storage import errors

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewObject:
    """A row to be: whose it is (a user's ID), and what the client and Storage say about it."""

    bucket: str
    key: str
    owner: str | None
    metadata: Mapping[str, Any] | None
    user_metadata: Mapping[str, Any] | None
    version: str = "1"


async def rows(
    connection: Connection, query: str, parameters: Sequence[object] | Mapping[str, object] = ()
) -> list[Row]:
    """Run a query and return its rows by column."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(query.encode(), parameters)
    return await cursor.fetchall()


async def find(connection: Connection, bucket: str, key: str, *, lock: bool = False) -> Row:
    """Return an object's row. Raises StorageError if there is none that the caller may see."""
    query = "select * from storage.objects where bucket_id = %s and name = %s" + (" for update" if lock else "")
    found = await rows(connection, query, (bucket, key))
    if not found:
        raise errors.no_such_key()
    return found[0]


async def find_names(connection: Connection, bucket: str, keys: Sequence[str]) -> set[str]:
    """Return which of these objects the caller may see."""
    query = "select name from storage.objects where bucket_id = %s and name = any(%s)"
    return {row["name"] for row in await rows(connection, query, (bucket, list(keys)))}


async def may_write(connection: Connection, new: NewObject, *, upsert: bool) -> None:
    """Write a row, for a transaction that is rolled back. Raises StorageError if the object exists.

    An upsert needs the right to select and update as well, even if there is no object yet.
    """
    if upsert:
        await _upsert(connection, new)
        return
    try:
        await connection.execute(
            "insert into storage.objects (bucket_id, name, owner, owner_id, metadata, user_metadata, version)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            _values(new),
        )
    except psycopg.errors.UniqueViolation as error:
        raise errors.key_already_exists() from error


async def write(connection: Connection, new: NewObject, *, upsert: bool) -> tuple[Row, str | None]:
    """Write the row of an object whose bytes are stored; return it, and the version that it replaces.

    Raises StorageError if the object exists and this is no upsert. (The hosted service does not ask again here: of
    several uploads that began together, the last one stays.)
    """
    lock = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
    await connection.execute(lock, (f"{new.bucket}/{new.key}",))
    query = "select version from storage.objects where bucket_id = %s and name = %s for update"
    before = await rows(connection, query, (new.bucket, new.key))
    old = before[0]["version"] if before else None
    if before and not upsert and old != new.version:
        raise errors.key_already_exists()
    return await _upsert(connection, new), old if old != new.version else None


async def _upsert(connection: Connection, new: NewObject) -> Row:
    found = await rows(
        connection,
        "insert into storage.objects (bucket_id, name, owner, owner_id, metadata, user_metadata, version)"
        " values (%s, %s, %s, %s, %s, %s, %s) on conflict (name, bucket_id) do update set"
        " owner = coalesce(excluded.owner, objects.owner), owner_id = coalesce(excluded.owner_id, objects.owner_id),"
        " metadata = excluded.metadata, user_metadata = excluded.user_metadata, version = excluded.version"
        " returning *",
        _values(new),
    )
    return found[0]


def _values(new: NewObject) -> tuple[object, ...]:
    user_metadata = None if new.user_metadata is None else Jsonb(new.user_metadata)
    metadata = None if new.metadata is None else Jsonb(new.metadata)
    return (new.bucket, new.key, as_uuid(new.owner), new.owner, metadata, user_metadata, new.version)


def as_uuid(owner: str | None) -> uuid.UUID | None:
    """Return a user's ID for the deprecated column `owner`, which only holds UUIDs."""
    try:
        return uuid.UUID(owner) if owner else None
    except ValueError:
        return None


async def rename(connection: Connection, source: tuple[str, str], target: tuple[str, str], owner: str | None) -> Row:
    """Move an object from one (bucket, key) to another. Raises StorageError if the caller may not see or change it."""
    await find(connection, *source)
    found = await rows(
        connection,
        "update storage.objects set bucket_id = %s, name = %s, owner = coalesce(%s, owner),"
        " owner_id = coalesce(%s, owner_id) where bucket_id = %s and name = %s returning *",
        (*target, as_uuid(owner), owner, *source),
    )
    if not found:
        raise errors.no_such_key()
    return found[0]


async def delete(connection: Connection, bucket: str, keys: Sequence[str] | None) -> list[Row]:
    """Delete those of these objects (None: of all in the bucket) that the caller may delete; return their rows."""
    if keys is None:
        return await rows(connection, "delete from storage.objects where bucket_id = %s returning *", (bucket,))
    query = "delete from storage.objects where bucket_id = %s and name = any(%s) returning *"
    return await rows(connection, query, (bucket, list(keys)))


async def versions(connection: Connection) -> set[str]:
    """Return the version of every object."""
    found = await rows(connection, "select version from storage.objects where version is not null")
    return {row["version"] for row in found}
