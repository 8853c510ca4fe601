"""Text and JSON that Postgres can store, and truncation to a number of bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from bridge.model import FileWrite, Result
from bridge.rows import encode_result
from bridge.sanitize import sanitize_json, sanitize_line, sanitize_text, truncate_utf8

ANY_TEXT = st.text(st.characters())  # surrogates too
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers().map(lambda n: n**9) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(ANY_TEXT)
def test_sanitized_text_is_storable_and_valid_text_unchanged(text: str) -> None:
    sanitized = sanitize_text(text)
    assert "\0" not in sanitized
    sanitized.encode()  # raises on a lone surrogate
    assert sanitize_text(sanitized) == sanitized
    if "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text):
        assert sanitized == text


@given(ANY_JSON)
def test_sanitized_json_is_valid_json(value: Any) -> None:
    text = json.dumps(sanitize_json(value), allow_nan=False)
    assert "\\u0000" not in text
    text.encode()


@given(ANY_JSON)
@example([2**1000, -(2**63), 2**64, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
def test_calls_carry_sanitized_json_unchanged(value: Any) -> None:
    """As `bridge.rest` sends it and reads it, and as Python's own encoder did."""
    sanitized = sanitize_json(value)
    text = json.dumps(sanitized, allow_nan=False)
    sent = to_json(sanitized)
    assert repr(json.loads(sent)) == repr(json.loads(text))
    assert repr(from_json(sent)) == repr(from_json(text)) == repr(json.loads(text))


@given(st.text(max_size=40), st.integers(0, 60))
def test_truncation_splits_no_character(text: str, limit: int) -> None:
    head = truncate_utf8(text, limit)
    assert len(head.encode()) <= limit
    assert sanitize_text(text).startswith(head)
    assert head == sanitize_text(text) or len(head.encode()) > limit - 4


def test_deep_nesting_and_huge_integers_become_null() -> None:
    deep: Any = "the end"
    for _ in range(5000):
        deep = [deep]
    text = json.dumps(sanitize_json({"deep": deep, "large": 10**5000, "near": [[1, 2**1000]]}))
    assert json.loads(text) == {"deep": json.loads("[" * 63 + "null" + "]" * 63), "large": None, "near": [[1, 2**1000]]}


def test_file_that_is_too_large_is_sent_so_that_it_is_refused() -> None:
    """Cut to fit, it would replace a whole file by half of one."""
    for content in ("x" * 262_145, "é" * 131_073, "😀" * 65_537, "x" + "é" * 131_072):
        (file,) = encode_result(Result("q", 1, "done", files=(FileWrite("a", content),)))["files"]
        assert len(file["content"].encode()) > 262_144
    (file,) = encode_result(Result("q", 1, "done", files=(FileWrite("a", "é" * 131_072),)))["files"]
    assert file["content"] == "é" * 131_072


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  a \n\t b ", "a b"),
        ("a\x1b[31mb\x00", "a [31mb"),
        ("\u202ea\u2066\u200b\ufeff", "a"),
        ("\x9b\x7f", None),
        ("", None),
        ("x" * 30, "x" * 20),
        ("é" * 30, "é" * 10),
        ("x" * 19 + " y", "x" * 19),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),  # a joiner is part of what is shown
    ],
)
def test_line_has_no_character_that_cannot_be_shown(text: str, line: str | None) -> None:
    assert sanitize_line(text, 20) == line
