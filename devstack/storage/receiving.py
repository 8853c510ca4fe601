"""Uploads as they arrive: a form with the file among its fields, or the file as the body."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web

from devstack.storage import errors
from devstack.storage.limits import MAX_METADATA_BYTES

_PIECE_BYTES = 64 * 1024
_MAX_FIELDS = 10


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file that is being sent. Nothing of `body` is read yet.

    `size` is the number of bytes if the client says it beforehand, and `declared` the length of the whole request.
    """

    body: AsyncIterator[bytes]
    mime_type: str
    cache_control: str
    user_metadata: dict[str, Any] | None
    size: int | None
    declared: int | None


async def receive(request: web.Request) -> Incoming:
    """Read a request up to the file. Raises StorageError if there is none, or a field is too large."""
    content_type = request.headers.get("Content-Type", "application/octet-stream")
    if content_type.startswith("multipart/form-data"):
        return await _receive_form(request)
    return Incoming(
        body=request.content.iter_chunked(_PIECE_BYTES),
        mime_type=content_type,
        cache_control=request.headers.get("Cache-Control", "no-cache"),
        user_metadata=decoded_metadata(request.headers.get("x-metadata")),
        size=request.content_length,
        declared=request.content_length,
    )


def decoded_metadata(header: str | None) -> dict[str, Any] | None:
    """Return the object in the header `x-metadata`, JSON in base64. What is none is ignored."""
    try:
        return _metadata(base64.b64decode(header or ""))
    except ValueError:
        return None


async def _receive_form(request: web.Request) -> Incoming:
    fields: dict[str, bytes] = {}
    try:
        form = await request.multipart()
        while (part := await form.next()) is not None:
            if not isinstance(part, BodyPartReader) or len(fields) == _MAX_FIELDS:
                break
            mime_type = part.headers.get("Content-Type", "text/plain").partition(";")[0].strip().lower()
            # The official JavaScript client sends the file under the empty name, the Python client as `file`.
            if part.filename is not None or mime_type == "application/octet-stream":
                cache_seconds = _header(fields, "cacheControl")
                return Incoming(
                    body=_file(form, part),
                    mime_type=_header(fields, "contentType") or mime_type,
                    cache_control=f"max-age={cache_seconds}" if cache_seconds else "no-cache",
                    user_metadata=_metadata(fields.get("metadata", fields.get("userMetadata", b""))),
                    size=None,
                    declared=request.content_length,
                )
            fields[part.name or ""] = await _field(part)
    except (ValueError, AssertionError, LookupError) as error:  # what the parser raises for a broken form
        raise errors.no_content(str(error)) from error
    raise errors.no_content()


async def _file(form: MultipartReader, part: BodyPartReader) -> AsyncIterator[bytes]:
    async for piece in _pieces(part):
        yield piece
    try:
        await form.next()  # the parser takes a form that is cut off for one that ends here
    except (ValueError, AssertionError) as error:
        raise errors.no_content("Unexpected end of form") from error


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    try:
        while piece := await part.read_chunk(_PIECE_BYTES):
            yield piece
    except (ValueError, AssertionError) as error:
        raise errors.no_content(str(error)) from error


async def _field(part: BodyPartReader) -> bytes:
    text = b""
    async for piece in _pieces(part):
        text += piece
        if len(text) > MAX_METADATA_BYTES:
            raise errors.too_large("user_metadata")
    return text


def _header(fields: dict[str, bytes], name: str) -> str:
    """Return a field that becomes a header of every download."""
    text = fields.get(name, b"").decode()
    if not text.isprintable():
        raise errors.no_content(f"Invalid field {name}")
    return text


def _metadata(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
