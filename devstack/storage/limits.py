"""What a bucket allows: sizes and media types."""

from __future__ import annotations

import re
from collections.abc import Iterable

from devstack.storage import errors

MAX_BYTES = 50 * 1024 * 1024  # an object's, whatever its bucket allows; the hosted service's default
MAX_METADATA_BYTES = 1024 * 1024
MAX_OBJECTS_A_REQUEST = 1000

_MIME = re.compile(r"[a-zA-Z0-9\-+.]+/[a-zA-Z0-9\-+.]+(;\s*charset=[a-zA-Z0-9\-]+)?|.*\*", re.DOTALL)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(gb|mb|kb|b)", re.IGNORECASE)
_UNITS = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}


def check_mime_type(mime_type: str, allowed: Iterable[str]) -> None:
    """Raise StorageError if a bucket that allows these types does not allow this one.

    They are compared as they are written: `text/plain;charset=UTF-8` is not `text/plain`.
    """
    kind, slash, subtype = mime_type.partition("/")
    subtype = subtype.partition("/")[0]
    if not slash or not {(kind, "*"), (kind, subtype)} & {tuple(one.split("/")[:2]) for one in allowed}:
        raise errors.invalid_mime_type(mime_type)


def checked_mime_types(types: list[str]) -> list[str]:
    """Return the types that a bucket is to allow. Raises StorageError if one is not a type."""
    for one in types:
        if len(one) > 1000 or not _MIME.fullmatch(one):
            raise errors.invalid_mime_type(one)
    return types


def checked_size(limit: int | str) -> int:
    """Return the size limit of a bucket in bytes; `20MB` is 20,000,000. Raises StorageError if it is not one."""
    if isinstance(limit, str):
        match = _SIZE.fullmatch(limit)
        if match is None:
            raise errors.no_content("Invalid file size format, hint: use 20GB / 20MB / 30KB / 3B")
        limit = int(float(match[1]) * _UNITS[match[2].lower()])
    if limit > MAX_BYTES:
        raise errors.too_large()
    return limit
