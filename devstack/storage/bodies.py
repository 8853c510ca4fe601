"""Rows as clients read them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from devstack.storage.objects import Row

_BUCKET = (
    *("id", "name", "owner", "public", "type", "file_size_limit", "allowed_mime_types"),
    *("created_at", "updated_at"),
)
_OBJECT = (
    *("name", "bucket_id", "owner", "owner_id", "version", "id", "updated_at", "created_at"),
    *("last_accessed_at", "metadata", "user_metadata"),
)
_LISTED = ("name", "id", "updated_at", "created_at", "last_accessed_at", "metadata")
# The hosted service writes these as text even if they are null.
_NEVER_NULL = frozenset(("owner", "owner_id", "version", "bucket_id"))


def bucket_body(row: Row) -> dict[str, Any]:
    """A bucket."""
    return _body(row, _BUCKET)


def object_body(row: Row) -> dict[str, Any]:
    """An object that was removed or copied."""
    return _body(row, _OBJECT)


def listed_body(row: Row) -> dict[str, Any]:
    """An object or folder of a listing."""
    return _body(row, (*_LISTED, "key") if "key" in row else _LISTED)


def info_body(row: Row) -> dict[str, Any]:
    """What is known of an object."""
    metadata: Mapping[str, Any] = row["metadata"] or {}
    return {
        **_body(row, ("id", "name", "version", "bucket_id")),
        "size": metadata.get("size"),
        "content_type": metadata.get("mimetype"),
        "cache_control": metadata.get("cacheControl"),
        "etag": metadata.get("eTag"),
        "metadata": row["user_metadata"],
        "last_modified": _plain(row["updated_at"]),
        "created_at": _plain(row["created_at"]),
    }


def _body(row: Row, columns: tuple[str, ...]) -> dict[str, Any]:
    return {column: "" if row[column] is None and column in _NEVER_NULL else _plain(row[column]) for column in columns}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, uuid.UUID) else value
