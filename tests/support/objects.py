"""Objects under signed URLs, in place of Supabase Storage; small files of each type; what a provider gets of them."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiohttp import web

from bridge.media_types import EXTENSIONS
from bridge.model import Attachment
from tests.support.users import Person

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89"
    b"\0\0\0\rIDATx\x9cc`\0\x02\0\0\x05\0\x01z^\xabE\0\0\0\0IEND\xaeB`\x82"
)
FILES: Mapping[str, bytes] = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01" + bytes(range(256)),
    "image/gif": b"GIF89a\x01\0\x01\0" + bytes(range(256)),
    "image/webp": b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(range(256)),
    "application/pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)),
    "audio/mpeg": b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\0" + bytes(range(256)),
    "audio/wav": b"RIFF" + struct.pack("<I", 292) + b"WAVEfmt " + bytes(range(256)),
    "text/plain": "Grüße, “Welt” 🌍\r\n\tend".encode(),
}


class Objects:
    """The calls of `bridge.storage.Storage`. What is in `refused` is signed, and then answered with that status."""

    def __init__(self) -> None:
        self.url = ""
        self.kept: dict[str, tuple[bytes, str]] = {}
        self.refused: dict[str, int] = {}
        self.lies: dict[str, bytes] = {}  # what BAML gets instead
        self.signed: list[str] = []
        self.fetched: list[str] = []  # by BAML
        self.uploads: list[str] = []
        self.error: Exception | None = None  # which every call raises

    def add(self, kind: str, data: bytes | None = None, name: str | None = None) -> Attachment:
        """An attachment that a user has uploaded."""
        data = FILES[kind] if data is None else data
        path = f"00000000-0000-4000-8000-000000000000/{uuid4()}.{EXTENSIONS[kind]}"
        self.kept[path] = (data, kind)
        return Attachment(name or f"a.{EXTENSIONS[kind]}", None, kind, path, len(data))

    async def sign(self, paths: Sequence[str], seconds: int) -> Mapping[str, str]:
        self._fail()
        assert seconds >= 600
        self.signed += paths
        return {path: f"{self.url}/{path}?token=secret" for path in paths if path in self.kept}

    async def fetch(self, url: str, most: int) -> bytes | None:
        self._fail()
        found = self.kept.get(url.removeprefix(f"{self.url}/").removesuffix("?token=secret"))
        return None if found is None else found[0][:most]

    async def upload(self, path: str, data: bytes, kind: str) -> None:
        self._fail()
        self.uploads.append(path)
        self.kept[path] = (data, kind)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def answer(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.fetched.append(path)
        if request.query.get("token") != "secret" or path not in self.kept:
            return web.json_response({"statusCode": "404", "error": "not_found", "message": "gone"}, status=400)
        if path in self.refused:
            return web.Response(status=self.refused[path])
        data, kind = self.kept[path]
        return web.Response(body=self.lies.get(path, data), content_type=kind)


@asynccontextmanager
async def objects() -> AsyncIterator[Objects]:
    """Serve on a free port of 127.0.0.1."""
    found = Objects()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield found
    finally:
        await runner.cleanup()


async def upload(user: Person, session: str, kind: str, data: bytes | None = None) -> dict[str, str]:
    """What a question names of an upload."""
    path = f"{session}/{uuid4()}.{EXTENSIONS[kind]}"
    options = {"content-type": kind}
    bucket = user.client.storage.from_("attachments")
    await bucket.upload(path, FILES[kind] if data is None else data, options)  # type: ignore[arg-type]
    return {"path": path, "name": f"a.{EXTENSIONS[kind]}"}


def contents(value: Any) -> Iterator[bytes]:
    """All base64 in the body of a request, decoded; a data URL too."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from contents(item)
    elif isinstance(value, str) and len(value) > 40:
        try:
            yield base64.b64decode(value.partition(";base64,")[2] or value, validate=True)
        except ValueError:
            return


def texts(value: Any) -> str:
    """All text of a request."""
    if isinstance(value, dict | list):
        return " ".join(texts(item) for item in (value.values() if isinstance(value, dict) else value))
    return value if isinstance(value, str) else ""
