"""The images, PDFs and recordings of a question, as the demo model sees them: their headers, not what they show."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = 64 * 1024  # characters of base64 that are looked at: enough for the header of a JPEG with a preview
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)[^,]{0,100},")
_PAGE = re.compile(rb"/Type\s*/Page\b")
_NAMES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WebP"}


@dataclass(frozen=True, slots=True)
class Media:
    """What a request holds: its media type, its size in bytes and, of an image or a PDF, its dimensions or pages."""

    type: str
    size: int
    about: str = ""

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        if self.type == "application/pdf":
            return "A PDF"
        if self.type.startswith("audio/"):
            return "A recording"
        return f"A {_NAMES.get(self.type, self.type)} image"


def read_media(content: Any) -> Sequence[Media]:
    """Read the parts of a message in OpenAI's chat completions that are not text. What is malformed is left out."""
    found = (_read_part(part) for part in content if isinstance(part, dict)) if isinstance(content, list) else ()
    return tuple(media for media in found if media is not None)


def _read_part(part: dict[str, Any]) -> Media | None:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return _read_url(url)
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _read_url(url)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            return Media(f"audio/{kind}", _size(data))
    return None


def _read_url(url: str) -> Media | None:
    if (head := _DATA_URL.match(url)) is None:
        return None
    kind, content = head[1], url[head.end() :]
    size = _size(content)
    text = content if kind == "application/pdf" else content[:_HEAD]  # a PDF's pages are anywhere in it
    try:
        data = base64.b64decode(text[: len(text) - len(text) % 4])
    except (binascii.Error, ValueError):
        return Media(kind, size)
    return Media(kind, size, _about(kind, data))


def _about(kind: str, data: bytes) -> str:
    if kind == "application/pdf":
        pages = len(_PAGE.findall(data))
        return f"{pages} page{'s' if pages > 1 else ''}" if pages else ""
    dimensions = _dimensions(kind, data)
    return f"{dimensions[0]} × {dimensions[1]} pixels" if dimensions else ""


def _dimensions(kind: str, data: bytes) -> tuple[int, int] | None:
    try:
        if kind == "image/png" and data.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", data[16:24])
            return width, height
        if kind == "image/gif" and data.startswith(b"GIF8"):
            width, height = struct.unpack("<HH", data[6:10])
            return width, height
        if kind == "image/jpeg" and data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except struct.error:
        pass
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """The dimensions in the first frame header (SOF0 to SOF15) of a JPEG."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _size(text: str) -> int:
    return len(text) * 3 // 4 - text.count("=", -2) if text else 0


def _in_words(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def seen(media: Sequence[Media]) -> str:
    """Say what came with the question."""
    lines = [f"- {', '.join(part for part in (one.title, one.about, _in_words(one.size)) if part)}" for one in media]
    return "With your message came:\n\n" + "\n".join(lines)


def describe(media: Sequence[Media]) -> dict[str, Any]:
    """Return the output of the function `Describe`."""
    if not media:
        return {"reply": "Attach an image or a PDF to your message, and I'll tell you what came with it.", "items": []}
    count = "one file" if len(media) == 1 else f"{len(media)} files"
    reply = (
        f"I got {count}. I'm the **demo model** and see only the outside; a real model tells you what is in "
        f"{'it' if len(media) == 1 else 'them'}."
    )
    return {"reply": reply, "items": [_item(one) for one in media]}


def _item(media: Media) -> dict[str, Any]:
    kind = "document" if media.type == "application/pdf" else "other"
    details = [f"It has {media.about}."] if media.about else []
    return {"kind": kind, "title": media.title, "details": [*details, f"It has {_in_words(media.size)}."]}
