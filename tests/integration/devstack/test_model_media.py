"""What the demo model says of the images, PDFs and recordings that come with a question."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from devstack.model import ModelServer
from devstack.model.media import read_media

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\2\0\0\0"
GIF = b"GIF89a" + struct.pack("<HH", 20, 10)
JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + struct.pack(">HH", 30, 40) + bytes(8)
PDF = b"%PDF-1.7\n1 0 obj << /Type /Pages >>\n2 0 obj << /Type /Page >>\n3 0 obj << /Type/Page >>\n%%EOF"
FORM = (
    "Answer in JSON using this schema:\n{\n  reply: string,\n  items: [\n    {\n"
    "      kind: 'photo' or 'other' or 'document',\n      title: string,\n      details: string[],\n"
    "      text: string or null,\n    }\n  ],\n}"
)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def part(kind: str, data: bytes) -> dict[str, Any]:
    """A part of a message, as BAML sends it."""
    content = base64.b64encode(data).decode()
    if kind.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {"data": content, "format": kind.removeprefix("audio/")}}
    url = f"data:{kind};base64,{content}"
    if kind == "application/pdf":
        return {"type": "file", "file": {"filename": "a.pdf", "file_data": url}}
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("kind", "data", "about"),
    [
        ("image/png", PNG, "640 × 480 pixels"),
        ("image/gif", GIF, "20 × 10 pixels"),
        ("image/jpeg", JPEG, "40 × 30 pixels"),
        ("application/pdf", PDF, "2 pages"),
        ("audio/wav", b"RIFFxxxxWAVE", ""),
        ("image/png", b"", ""),
        ("image/jpeg", b"\xff\xd8\xff\xe0", ""),
    ],
)
def test_media_are_recognised_by_their_headers(kind: str, data: bytes, about: str) -> None:
    (media,) = read_media([{"type": "text", "text": "look"}, part(kind, data)])
    assert (media.type, media.size, media.about) == (kind, len(data), about)


async def test_question_with_media_is_answered_with_what_came(http: aiohttp.ClientSession, model: ModelServer) -> None:
    content = [{"type": "text", "text": "Hello"}, part("image/png", PNG), part("application/pdf", PDF)]
    reply = await ask(http, model, {"role": "user", "content": content})
    assert "A PNG image, 640 × 480 pixels" in reply
    assert "A PDF, 2 pages" in reply


async def test_description_has_an_item_for_each(http: aiohttp.ClientSession, model: ModelServer) -> None:
    system = {"role": "system", "content": FORM}
    content = [{"type": "text", "text": "What is it?"}, part("image/gif", GIF), part("application/pdf", PDF)]
    told = json.loads(await ask(http, model, system, {"role": "user", "content": content}))
    assert [(item["kind"], item["title"]) for item in told["items"]] == [
        ("other", "A GIF image"),
        ("document", "A PDF"),
    ]
    assert json.loads(await ask(http, model, system, {"role": "user", "content": "What?"}))["items"] == []


async def test_only_so_many_bytes_of_requests_are_remembered(http: aiohttp.ClientSession) -> None:
    async with ModelServer() as model:
        for _ in range(12):
            content = [{"type": "text", "text": "[[tokens=1]]"}, part("image/png", PNG + bytes(20 << 20))]
            await ask(http, model, {"role": "user", "content": content})
        assert 8 <= len(model.requests) <= 9


async def ask(http: aiohttp.ClientSession, model: ModelServer, *messages: dict[str, Any]) -> str:
    body = io.BytesIO(json.dumps({"model": "m", "messages": messages}).encode())
    async with http.post(f"{model.url}/chat/completions", data=body) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["choices"][0]["message"]["content"])
