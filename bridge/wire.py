"""The boundary to Postgres and JSON: what either would refuse, and with it a whole batch, does not pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# As the migrations bound them; a little less for text, so that the answer is cut here and not refused there.
MAX_TEXT_BYTES = 1_000_000
MAX_FILE_BYTES = 262_144


def fit(text: str) -> str:
    """The text as Postgres and JSON take it: without NUL, lone surrogates replaced."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def fit_json(value: Any) -> Any:
    """The value with every string in it made `fit`."""
    if isinstance(value, str):
        return fit(value)
    if isinstance(value, Mapping):
        return {fit(str(key)): fit_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fit_json(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None  # JSON knows neither infinity nor NaN
    return value


def cut(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """As much of the text, made `fit`, as `limit` bytes hold; no character is split."""
    text = fit(text)
    if len(text) * 4 <= limit or len(data := text.encode()) <= limit:
        return text
    return data[:limit].decode("utf-8", "ignore")
