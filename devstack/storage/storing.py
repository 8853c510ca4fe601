"""What changes objects: rows and bytes together.

A row is the truth: bytes are written before their row is committed, and removed after it is gone. What a crash leaves
in between is bytes without a row, which the next start removes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from devstack.storage import buckets, errors, objects
from devstack.storage.access import STORAGE, Caller, Database
from devstack.storage.errors import StorageError
from devstack.storage.files import Files, Stored
from devstack.storage.limits import MAX_BYTES, check_mime_type
from devstack.storage.names import checked_key, is_empty_folder
from devstack.storage.objects import NewObject, Row
from devstack.storage.receiving import Incoming


class Store:
    """Every method raises StorageError. `operation` is what policies read from `storage.operation()`."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    async def bucket(self, bucket: str) -> Row:
        """Return a bucket, whether or not the caller may see it."""
        return await self._database.run(STORAGE, "", lambda c: buckets.find(c, bucket))

    async def may_upload(self, caller: Caller, operation: str, new: NewObject, *, upsert: bool) -> None:
        """Return if the caller may write this object."""
        work = partial(objects.may_write, new=new, upsert=upsert)
        await self._database.run(caller, operation, work, commit=False)

    async def upload(
        self,
        caller: Caller,
        operation: str,
        *,
        bucket: Row,
        key: str,
        owner: str | None,
        incoming: Incoming,
        upsert: bool,
    ) -> Row:
        """Store a file that is being sent; return its row."""
        limit = MAX_BYTES if bucket["file_size_limit"] is None else min(MAX_BYTES, bucket["file_size_limit"])
        if is_empty_folder(key):
            limit = 0
        elif bucket["allowed_mime_types"]:
            check_mime_type(incoming.mime_type, bucket["allowed_mime_types"])
        if incoming.size is not None and incoming.size > limit:
            raise errors.too_large()
        claimed = {"mimetype": incoming.mime_type, "contentLength": incoming.declared}
        new = NewObject(bucket["id"], checked_key(key), owner, claimed, incoming.user_metadata)
        await self.may_upload(caller, operation, new, upsert=upsert)
        stored = await self._files.write(incoming.body, limit)
        metadata = _metadata(stored, incoming.mime_type, incoming.cache_control)
        new = NewObject(bucket["id"], key, owner, metadata, incoming.user_metadata or {}, stored.version)
        return await self._write(operation, new, upsert=upsert)

    async def copy(
        self,
        caller: Caller,
        operation: str,
        *,
        source: tuple[str, str],
        target: tuple[str, str],
        metadata: Mapping[str, Any],
        user_metadata: Mapping[str, Any] | None,
        upsert: bool,
    ) -> Row:
        """Copy an object to another (bucket, key), with other values for keys of its metadata; return the new row.

        `user_metadata` None copies that of the object.
        """
        bucket, key = target[0], checked_key(target[1])
        row = await self._database.run(caller, operation, lambda c: objects.find(c, *source))
        values = {**(row["metadata"] or {}), **metadata}
        custom = row["user_metadata"] if user_metadata is None else user_metadata
        new = NewObject(bucket, key, caller.id, values, custom)
        await self.may_upload(caller, operation, new, upsert=upsert)
        if row["version"] is None:
            raise errors.bytes_not_found()
        version = await self._files.copy(row["version"])
        new = NewObject(bucket, key, caller.id, values | {"lastModified": _now()}, custom, version)
        return await self._write(operation, new, upsert=upsert)

    async def move(self, caller: Caller, operation: str, source: tuple[str, str], target: tuple[str, str]) -> Row:
        """Move an object to another (bucket, key); return its row. The bytes stay where they are."""
        checked_key(target[1])
        work = partial(objects.rename, source=source, target=target, owner=caller.id)
        await self._database.run(caller, operation, work, commit=False)
        return await self._database.run(STORAGE, operation, work)

    async def remove(self, caller: Caller, operation: str, bucket: str, keys: Sequence[str] | None) -> list[Row]:
        """Remove those of these objects (None: of all in the bucket) that the caller may delete; return their rows."""
        rows = await self._database.run(caller, operation, lambda c: objects.delete(c, bucket, keys))
        self._files.remove(row["version"] for row in rows)
        return rows

    async def _write(self, operation: str, new: NewObject, *, upsert: bool) -> Row:
        work = partial(objects.write, new=new, upsert=upsert)
        try:
            row, replaced = await self._database.run(STORAGE, operation, work)
        except StorageError as error:
            if error.status < 500:  # otherwise it is not known whether the row was committed
                self._files.remove([new.version])
            raise
        self._files.remove([replaced])
        return row


def _metadata(stored: Stored, mime_type: str, cache_control: str) -> dict[str, Any]:
    return {
        "eTag": f'"{stored.md5}"',
        "size": stored.size,
        "mimetype": mime_type,
        "cacheControl": cache_control,
        "lastModified": _now(),
        "contentLength": stored.size,
        "httpStatusCode": 200,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
