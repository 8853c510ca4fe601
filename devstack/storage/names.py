"""Names of buckets and objects."""

from __future__ import annotations

import re

from devstack.storage import errors

# Of ASCII, what needs no or little escaping in a URL. A name in another script is refused, as on the hosted service.
_KEY = re.compile(r"[A-Za-z0-9_/!.*'() &$=@;:+,?-]+")
_BUCKET = re.compile(r"[A-Za-z0-9_!.*'() &$=@;:+,?-]{1,100}")
_MAX_KEY_BYTES = 1024  # of S3, where the hosted service keeps the objects


def checked_key(key: str) -> str:
    """Return an object's name. Raises StorageError if it is not a valid one."""
    is_path = {".", ".."}.isdisjoint(key.split("/"))  # a URL with such a segment never arrives as it was written
    if not _KEY.fullmatch(key) or len(key) > _MAX_KEY_BYTES or not is_path:
        raise errors.invalid_key(key)
    return key


def checked_bucket(name: str) -> str:
    """Return a new bucket's name. Raises StorageError if it is not a valid one."""
    if not _BUCKET.fullmatch(name) or name.strip() != name:
        raise errors.invalid_bucket_name()
    return name


def is_empty_folder(key: str) -> bool:
    """Whether this is the object that stands for an empty folder; it has no bytes and any type."""
    return key.endswith(".emptyFolderPlaceholder")
