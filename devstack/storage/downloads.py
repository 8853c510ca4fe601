"""Responses with the bytes of an object."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, BinaryIO
from urllib.parse import quote

from aiohttp import web

from devstack.storage import errors
from devstack.storage.files import Files
from devstack.storage.objects import Row

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_PIECE_BYTES = 256 * 1024
# encodeURIComponent escapes what is not among these
_UNESCAPED = "!'()*~"


async def open_object(files: Files, look: Callable[[], Awaitable[Row]]) -> tuple[Row, BinaryIO]:
    """Return an object's row, as `look` finds it, and its open file. Raises StorageError if its bytes are gone."""
    tried: set[object] = set()
    while True:  # an upload or a removal may come between the look and the opening
        row = await look()
        try:
            return row, files.open(row["version"] or "")
        except FileNotFoundError as error:
            if row["version"] in tried:
                raise errors.bytes_not_found() from error
            tried.add(row["version"])


async def send(request: web.Request, row: Row, file: BinaryIO, *, expires: float | None = None) -> web.StreamResponse:
    """Send an object, or the range of it that the request asks for. The caller closes `file`.

    `expires` is the Unix time until which the response may be kept. Raises StorageError if the range is not in it.
    """
    size = os.fstat(file.fileno()).st_size
    headers = object_headers(request, row, expires=expires)
    if _is_known(request, headers["ETag"], row):
        return web.Response(status=304, headers=headers)
    first, last, status = 0, size - 1, 200
    if (wanted := request.headers.get("Range")) is not None:
        first, last = parse_range(wanted, size)
        status = 206
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = left = last - first + 1
    await response.prepare(request)
    file.seek(first)
    while left > 0 and (piece := await asyncio.to_thread(file.read, min(left, _PIECE_BYTES))):
        await response.write(piece)
        left -= len(piece)
    await response.write_eof()
    return response


def object_headers(request: web.Request, row: Row, *, expires: float | None = None) -> dict[str, str]:
    """The headers of a response with an object, or of one that describes it."""
    metadata: Mapping[str, Any] = row["metadata"] or {}
    mime_type = str(metadata.get("mimetype") or "application/octet-stream")
    headers = {
        "Accept-Ranges": "bytes",
        # A page that was uploaded is not to be run in the project's domain.
        "Content-Type": "text/plain" if "text/html" in mime_type else mime_type,
        "ETag": str(metadata.get("eTag", "")),
        "Last-Modified": format_datetime(row["updated_at"].astimezone(UTC), usegmt=True),
        "X-Robots-Tag": "none",
    }
    if expires is None:
        headers["Cache-Control"] = str(metadata.get("cacheControl", "no-cache"))
    else:
        headers["Expires"] = format_datetime(datetime.fromtimestamp(expires, UTC), usegmt=True)
    if (name := request.query.get("download")) is not None:
        encoded = quote(name, safe=_UNESCAPED)
        headers["Content-Disposition"] = (
            f"attachment; filename={encoded}; filename*=UTF-8''{encoded}" if name else "attachment;"
        )
    return headers


def parse_range(header: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a range. Raises StorageError if it is not one, or begins after the end."""
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", "") or size == 0:
        raise errors.invalid_range()
    start, end = match.groups()
    if not start:
        first, last = max(size - int(end), 0), size - 1
    else:
        first, last = int(start), min(int(end), size - 1) if end else size - 1
    if not first <= last:
        raise errors.invalid_range()
    return first, last


def _is_known(request: web.Request, tag: str, row: Row) -> bool:
    """Whether the client has the object already."""
    if (known := request.headers.get("If-None-Match")) is not None:
        return known == tag
    try:
        since = parsedate_to_datetime(request.headers.get("If-Modified-Since", ""))
        return bool(row["updated_at"].replace(microsecond=0) <= since)
    except (ValueError, TypeError):  # no date, or one without a time zone
        return False
