"""The types of attachments: which there are, how their objects are named, and what their first bytes say."""

import re
from collections.abc import Mapping

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
PDFS = ("application/pdf",)
AUDIOS = ("audio/mpeg", "audio/wav")
TEXTS = ("text/plain",)
# Those of the bucket, in supabase/schemas.
TYPES = (*IMAGES, *PDFS, *AUDIOS, *TEXTS)

EXTENSIONS: Mapping[str, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "application/pdf": "pdf",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "text/plain": "txt",
}

FIRST_BYTES = 16  # of an object, which tell what it is

_FIRST = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.S),
    "application/pdf": re.compile(rb"%PDF-"),
    "audio/mpeg": re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),  # tags, or a frame of layer III
    "audio/wav": re.compile(rb"RIFF.{4}WAVE", re.S),
}


def fits(kind: str, first: bytes) -> bool:
    """Whether bytes may be of this media type, as far as the first of them tell; those of a text tell nothing."""
    return kind in TEXTS or (kind in _FIRST and _FIRST[kind].match(first) is not None)


def read_text(data: bytes) -> str | None:
    """The text in these bytes; None if it is none: not UTF-8, or with a NUL."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
