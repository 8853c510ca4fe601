"""Escapes in structured answers, through BAML's own parsers. Its lenient one mishandles them (baml-py 0.226.3)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baml_client import b
from bridge.baml.escapes import decode_escapes, restore

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
# characters that an escape can mean, and that mean something to a parser
_TRICKY = st.text(st.sampled_from("aß😀\"\\/\b\f\n\r\t\x01\x1b'`{}[],:u0d"), max_size=10)


def escaped(text: str, choose: Any) -> str:
    """Write a JSON string, choosing among the ways to write each character."""
    out = ""
    for character in text:
        units = [f"\\u{unit:04x}" for unit in _utf16(character)]
        unicode = "".join(units)
        short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        ways = [unicode, unicode.upper().replace("\\U", "\\u"), short.get(character, character)]
        if character == "/":
            ways.append("\\/")
        if ord(character) < 0x20 and character not in short:
            ways = ways[:2]
        out += choose(ways)
    return f'"{out}"'


def _utf16(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[n : n + 2], "big") for n in range(0, len(data), 2)]


LENIENT = ("strict", "comma", "comment", "fence", "prose", "raw line break")


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw an answer of the function `Code` as a model may write it, and what it means."""
    reply, content = draw(_TEXT | _TRICKY), draw(_TRICKY)
    form = draw(st.sampled_from(LENIENT))
    if form == "raw line break":
        reply = "a\nb" + reply

    def choose(ways: list[str]) -> str:
        return draw(st.sampled_from(ways))

    first = escaped(reply, choose)
    if form == "raw line break":
        first = first.replace("\\n", "\n", 1).replace("\\u000a", "\n", 1).replace("\\u000A", "\n", 1)
    comma = "," if form == "comma" else ""
    body = f'{{"reply": {first}, "files": [{{"path": "a.txt", "content": {escaped(content, choose)}{comma}}}]{comma}}}'
    wrapped = {
        "comment": f"{body[:-1]} // that's all\n}}",
        "fence": f"```json\n{body}\n```",
        "prose": f"It's here, as you \"asked\":\n{body}\nThat's it.",
    }
    return wrapped.get(form, body), {"reply": reply, "files": [{"path": "a.txt", "content": content, "language": None}]}


@settings(max_examples=400, deadline=None)
@given(answers())
def test_parsed_answer_means_what_was_written(answer: tuple[str, dict[str, Any]]) -> None:
    text, meant = answer
    assert restore(b.parse.Code(decode_escapes(text))) == meant


@settings(max_examples=200, deadline=None)
@given(_TRICKY, st.data())
def test_half_an_answer_shows_the_beginning_of_the_text(text: str, data: st.DataObject) -> None:
    whole = escaped("ab" + text, lambda ways: data.draw(st.sampled_from(ways)))
    half = whole[: data.draw(st.integers(3, len(whole) - 1))]
    reply = restore(b.parse_stream.Code(decode_escapes('{"reply": ' + half, partial=True)))["reply"]
    assert ("ab" + text).startswith(reply)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"Stra\u00dfe", "Straße"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d lone", "\ufffd lone"),
        (r"lone \ude00", "lone \ufffd"),
        (r"\\u00df", r"\u00df"),
        (r"a\/b", "a/b"),
        (r"5\" wide", '5" wide'),
        (r"\u0022\u005c", '"\\'),
        (r"C:\\", "C:\\"),
        (r"\u001b[1m", "\x1b[1m"),
        (r"it\'s", r"it\'s"),
        (r"\x41", r"\x41"),
        ("\ufdd0", "\ufffd"),
    ],
)
def test_escape_is_decoded(written: str, meant: str) -> None:
    for text in (
        f'{{"reply": "{written}\\n", "files": []}}',
        f'{{"reply": "{written}\\n", "files": [],}}',
        f'{{"reply": "{written}\\n", "files": [] /* none */}}',
        f'{{"reply": "{written}\\n", "files": []',
    ):
        assert restore(b.parse.Code(decode_escapes(text))) == {"reply": f"{meant}\n", "files": []}


def test_escapes_in_a_block_of_code_stay() -> None:
    text = '{"reply": "\\u00df", "files": [{"path": "a.py", "content": ```python\nprint("\\"\\u00df\\n")\n```}],}'
    found = restore(b.parse.Code(decode_escapes(text)))
    assert found["reply"] == "ß"
    assert 'print("\\"\\u00df\\n")' in found["files"][0]["content"]


def test_quotes_that_were_not_escaped_do_not_end_the_string() -> None:
    text = '{"reply": "I said "no\\u00df" to it", "files": [],}'
    assert restore(b.parse.Code(decode_escapes(text)))["reply"] == 'I said "noß" to it'


def test_cost_of_a_hostile_answer_is_linear() -> None:
    for piece in ('"', "'", "\\", '\\"', "{", "/*", "```", "\\ud83d", '", '):
        decode_escapes("[" + "\\u00df" + piece * 200_000)
        decode_escapes("[" + "\\u00df" + piece * 200_000, partial=True)


def test_brackets_in_a_string_do_not_end_it() -> None:
    for text in (
        'Here:\n{"reply": "a } b", "files": []}\nDone.',
        '{"reply": "a } b", "files": [],}',
        '{"reply": "a } b", "files": []',
    ):
        assert restore(b.parse.Code(decode_escapes(text)))["reply"] == "a } b"


@pytest.mark.parametrize(
    "written", ['x = ["a", "b"]', 'He said "yes", and left', 'The key "a": b', 'use {"a": 1} here', '"a" or "b"']
)
def test_quotes_that_were_not_escaped_do_not_cut_a_file(written: str) -> None:
    text = f'{{"reply": "{written}", "files": [{{"path": "a.txt", "content": "{written}"}}],}}'
    found = restore(b.parse.Code(decode_escapes(text)))
    assert (found["reply"], found["files"][0]["content"]) == (written, written)
