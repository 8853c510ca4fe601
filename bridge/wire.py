"""The boundary to Postgres and JSON: what either would refuse, and with it a whole batch, does not pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# As the migrations bound them; a little less for text, so that the answer is cut here and not refused there.
MAX_TEXT_BYTES = 1_000_000
MAX_FILE_BYTES = 262_144
MAX_DEPTH = 64  # Python's own parser ends near 1,000, pydantic's at 200


def fit(text: str) -> str:
    """The text as Postgres and JSON take it: without NUL, lone surrogates replaced."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def fit_json(value: Any, depth: int = 0) -> Any:
    """The value with every string in it made `fit`; null where JSON, or who reads it, has nothing for what is there.

    That is infinity and NaN, a number beyond a double's, and whatever is nested deeper than MAX_DEPTH.
    """
    if isinstance(value, str):
        return fit(value)
    if isinstance(value, (Mapping, list, tuple)):
        if depth == MAX_DEPTH:
            return None
        if isinstance(value, Mapping):
            return {fit(str(key)): fit_json(item, depth + 1) for key, item in value.items()}
        return [fit_json(item, depth + 1) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, int) and value.bit_length() > 1023:
        return None
    return value


def cut(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """As much of the text, made `fit`, as `limit` bytes hold; no character is split."""
    text = fit(text)
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text
    return data[:limit].decode("utf-8", "ignore")
