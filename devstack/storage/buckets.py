"""The rows of `storage.buckets`. Each function is work for `Database.run`, whose caller the policies judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from devstack.pool import Connection
from devstack.storage import errors
from devstack.storage.objects import Row, as_uuid, rows

_COLUMNS = "id, name, owner, public, created_at, updated_at, file_size_limit, allowed_mime_types, type::text"


async def find(connection: Connection, bucket: str) -> Row:
    """Return a bucket. Raises StorageError if there is none that the caller may see."""
    found = await rows(connection, f"select {_COLUMNS} from storage.buckets where id = %s", (bucket,))
    if not found:
        raise errors.no_such_bucket()
    return found[0]


async def listed(
    connection: Connection, *, limit: int | None, offset: int, column: str, descending: bool, search: str
) -> list[Row]:
    """Return the buckets whose name contains `search`, in the order of a column."""
    order = sql.SQL("{} desc" if descending else "{}").format(sql.Identifier(column)).as_string()
    query = f"select {_COLUMNS} from storage.buckets where strpos(lower(name), lower(%s)) > 0 order by {order}"
    return await rows(connection, f"{query} limit %s offset %s", (search, limit, offset))


async def create(connection: Connection, bucket: str, name: str, owner: str | None, values: Mapping[str, Any]) -> None:
    """Create a bucket. Raises StorageError if there is one of that name."""
    try:
        await connection.execute(
            "insert into storage.buckets (id, name, owner, owner_id, public, file_size_limit, allowed_mime_types)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (
                *(bucket, name, as_uuid(owner), owner, values.get("public", False)),
                *(values.get("file_size_limit"), values.get("allowed_mime_types")),
            ),
        )
    except psycopg.errors.UniqueViolation as error:
        raise errors.bucket_already_exists() from error


async def change(connection: Connection, bucket: str, values: Mapping[str, Any]) -> None:
    """Set columns of a bucket. Raises StorageError if there is none that the caller may change."""
    columns = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values).as_string()
    query = f"update storage.buckets set {columns}, updated_at = now() where id = %s returning id"
    if not await rows(connection, query, (*values.values(), bucket)):
        raise errors.no_such_bucket()


async def check_empty(connection: Connection, bucket: str) -> None:
    """Lock a bucket. Raises StorageError if there is none, or an object in it."""
    if not await rows(connection, "select id from storage.buckets where id = %s for update", (bucket,)):
        raise errors.no_such_bucket()
    if await rows(connection, "select id from storage.objects where bucket_id = %s limit 1", (bucket,)):
        raise errors.bucket_not_empty()


async def delete(connection: Connection, bucket: str) -> None:
    """Delete an empty bucket. Raises StorageError if there is none that the caller may delete, or it is not empty."""
    try:
        if not await rows(connection, "delete from storage.buckets where id = %s returning id", (bucket,)):
            raise errors.no_such_bucket()
    except psycopg.errors.ForeignKeyViolation as error:
        raise errors.bucket_not_empty() from error
