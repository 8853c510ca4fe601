"""Makes values acceptable to Postgres and JSON: one bad character would get a whole batch refused."""

import re
from collections.abc import Mapping
from typing import Any

# The bounds of `supabase/schemas`; for text a little less, so that it is truncated here and not refused there.
MAX_TEXT_BYTES = 1_000_000
MAX_FILE_BYTES = 262_144
MAX_DEPTH = 64  # Python's own JSON parser fails near 1,000, pydantic's at 200


# Control characters, and those that turn the direction of text or have no width; as in `public.functions`.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def sanitize_line(text: str, limit: int) -> str | None:
    """Return the text as one line of at most `limit` bytes that can be shown; None if nothing is left."""
    line = " ".join(UNPRINTABLE.sub(" ", text).split())
    return truncate_utf8(line, limit).rstrip() or None


def sanitize_text(text: str) -> str:
    """Remove NUL and replace lone surrogates; Postgres and JSON accept neither."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def sanitize_json(value: Any, depth: int = 0) -> Any:
    """Sanitize every string, and put null for what JSON or its readers cannot hold.

    That is infinity, NaN, a number beyond the range of a double, and anything nested deeper than MAX_DEPTH.
    """
    if isinstance(value, str):
        return sanitize_text(value)
    if isinstance(value, (Mapping, list, tuple)):
        if depth == MAX_DEPTH:
            return None
        if isinstance(value, Mapping):
            return {sanitize_text(str(key)): sanitize_json(item, depth + 1) for key, item in value.items()}
        return [sanitize_json(item, depth + 1) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, int) and value.bit_length() > 1023:
        return None
    return value


def is_too_large(text: str) -> bool:
    """Whether `truncate_utf8` cuts a reply's text."""
    return len(text) * 4 > MAX_TEXT_BYTES and len(sanitize_text(text).encode()) > MAX_TEXT_BYTES


def truncate_utf8(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Sanitize the text, and cut it to `limit` bytes without splitting a character."""
    text = sanitize_text(text)
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text
    return data[:limit].decode("utf-8", "ignore")
