"""Whatever is shown is text: no control character, no line of somebody else's."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import logs
from bridge.printable import dumps, escape, escape_lines

# any code point, and often one that a terminal or a reader obeys
COMMANDS = (
    "\x00\x07\x08\t\n\r\x0b\x0c\x1b\x7f\x80\x85\x9b\x9d\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"
)
TEXT = st.text(st.one_of(st.sampled_from([*COMMANDS, "\ufeff", "\ud800", "\udfff"]), st.characters()))
CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(character) in CONTROL for character in text)


@given(TEXT)
def test_escaped_text_is_one_line_without_commands(text: str) -> None:
    shown = escape(text)
    assert is_harmless(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    if is_harmless(text) and text.isprintable():
        assert shown == text


@given(TEXT)
def test_escaped_lines_are_indented(text: str) -> None:
    first, *others = escape_lines(text, "    ").split("\n")
    assert all(is_harmless(line) for line in (first, *others))
    assert all(line.startswith("    ") for line in others)
    assert len(others) == text.count("\n")


@given(st.recursive(TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_is_one_ascii_line_with_the_same_value(value: object) -> None:
    shown = dumps(value)
    assert shown.isascii()
    assert shown.isprintable()
    assert json.loads(shown) == value


def record(text: str, extra: str) -> logging.LogRecord:
    try:
        raise ValueError(extra)
    except ValueError:
        made = logging.getLogger("x").makeRecord(
            "x", 30, "f", 1, "%s", (text,), sys.exc_info(), extra={"detail": extra}
        )
    return made


@given(TEXT, TEXT)
def test_log_lines_are_not_forged(text: str, extra: str) -> None:
    first, *others = logs._Console().format(record(text, extra)).split("\n")
    assert all(is_harmless(line) for line in (first, *others))
    assert all(line.startswith("    ") for line in others)
    line = logs._Json(extra).format(record(text, extra))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["detail" if extra else "worker"] == extra


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 漢字 🙂", "naïve 漢字 🙂"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202e\U000e0041", "\\u202e\\U000e0041"),
    ],
)
def test_letters_stay_and_commands_are_numbers(text: str, shown: str) -> None:
    assert escape(text) == shown
