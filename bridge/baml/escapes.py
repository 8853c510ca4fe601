"""Strings in structured answers, made safe before BAML's parser sees them.

BAML first tries to parse an answer as strict JSON. If that fails (a comma too many, a comment, a raw line break, or
half an answer), a lenient parser takes over, which mishandles escapes (baml-py 0.226.3): `\\u00df` loses its last
digit, `\\/` keeps its backslash, an odd number of `\\"` makes a string swallow what follows it, and a bracket can end
one. So escapes in JSON strings are replaced here by the characters they mean. Those that could change the structure
(quotes, backslashes, brackets, control characters) become noncharacters of Unicode, and `restore` turns these back.
"""

import re
from typing import Any

from pydantic_core import from_json, to_jsonable_python

# Noncharacters never occur in text that is meant for interchange (Unicode 16, section 23.7).
_BRACKETS = "{}[]"
_RESTORED = ['"', "\\", *(chr(code) for code in range(0x20) if chr(code) not in "\b\t\n\f\r")]
_STANDS_FOR = {character: chr(0xFDD0 + n) for n, character in enumerate(_RESTORED)}
_STANDS_FOR |= dict(zip(_BRACKETS, "\U0001fffe\U0001ffff\U0002fffe\U0002ffff", strict=True))
_RESTORE = {ord(mark): character for character, mark in _STANDS_FOR.items()}
_MARKS = re.compile("[\ufdd0-\ufdef\U0001fffe\U0001ffff\U0002fffe\U0002ffff]")
_INSIDE = str.maketrans({character: _STANDS_FOR[character] for character in _BRACKETS + '"'})

_SHORT = {"/": "/", '"': _STANDS_FOR['"'], "\\": _STANDS_FOR["\\"]}
_AS_ESCAPE = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?|([/\"\\])|.)", re.S)
_UNFINISHED = re.compile(
    r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}\Z"
)

# What can begin where no string is open: a string, code in backticks (BAML's own form of a string), a comment.
_OUTSIDE = re.compile(r"[\[{\]}]|\"|'|```|//[^\n]*|/\*.*?(?:\*/|\Z)", re.S)
_OPENS = ("{", "[", ",", ":")  # what precedes a string in single quotes; an apostrophe in a bare word begins none
_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.S)
_QUOTED = re.compile(r"(?:[^'\\]|\\.)*", re.S)
_CLOSES = re.compile(r"\s*(?:[,:}\]]|//|/\*|\Z)")
# A field's value ends before the next field, or before the end of the object: `"he said "yes", and left"` goes on.
_CLOSES_VALUE = re.compile(
    r"""\s*(?:\}|//|/\*|\#|\Z|,\s*(?:\}|//|/\*|\#|\Z|"[^"\n]{0,80}(?:"\s*:|\Z)|'[^'\n]{0,80}'\s*:|\w{1,80}\s*(?::|\Z)))"""
    r"""|(?=\n\s*"[^"\n]{0,80}"\s*:)"""
)


def decode_escapes(text: str, *, partial: bool = False) -> str:
    """Return the answer with its JSON strings made safe; `restore` has to follow the parser.

    Of a `partial` answer, an escape that is not complete is left out.
    """
    text = _MARKS.sub("\ufffd", text)
    if partial and (half := _UNFINISHED.search(text)) and _is_escape(text, half.start()):
        text = text[: half.start()]
    pieces: list[str] = []
    at = depth = 0
    while found := _OUTSIDE.search(text, at):
        pieces.append(text[at : found.end()])
        at, token = found.end(), found.group()
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth = max(0, depth - 1)
        elif depth == 0:  # prose around the JSON, or the fence that it stands in
            continue
        elif token == "```":
            end = text.find("```", at)
            end = len(text) if end < 0 else end + 3
            pieces.append(text[at:end])
            at = end
        elif token in "\"'" and ((before := _before(text, found.start())) in _OPENS or token == '"'):
            closes = _CLOSES_VALUE if before == ":" else _CLOSES
            end = _end_of_string(text, at, _STRING if token == '"' else _QUOTED, token, closes)
            inside = text[at:end]
            if "\\" in inside:
                inside = _ESCAPE.sub(_decoded if token == '"' else _decoded_unicode, inside)
            pieces.append(inside.translate(_INSIDE) if token == '"' else inside)
            at = end
            if at < len(text):  # the closing quote
                pieces.append(token)
                at += 1
    pieces.append(text[at:])
    return "".join(pieces)


def is_json(text: str) -> bool:
    """Whether an answer is strict JSON, which BAML parses well."""
    try:
        from_json(text)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def restore(value: Any) -> Any:
    """Return a parsed answer as JSON values, with the characters that `decode_escapes` replaced."""
    return _restored(to_jsonable_python(value))


def _restored(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.translate(_RESTORE)
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict):
        return {_restored(key): _restored(item) for key, item in value.items()}
    return value


def _before(text: str, at: int) -> str:
    """The last character before `at` that is not blank; empty if there is none nearby."""
    return text[max(0, at - 80) : at].rstrip()[-1:]


def _end_of_string(text: str, at: int, inside: re.Pattern[str], quote: str, closes: re.Pattern[str]) -> int:
    """Where the string that begins at `at` ends: at a quote that is followed by what can follow a string.

    Models forget to escape quotes inside of strings, as in `{"reply": "I said "no" to it"}`.
    """
    while True:
        found = inside.match(text, at)
        assert found is not None
        end = found.end()
        if end >= len(text) or text[end] != quote or closes.match(text, end + 1):
            return end
        at = end + 1


def _is_escape(text: str, at: int) -> bool:
    """Whether the backslash at `at` is not itself escaped."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _decoded(found: re.Match[str]) -> str:
    if found[3]:
        return _SHORT[found[3]]
    return _decoded_unicode(found)


def _decoded_unicode(found: re.Match[str]) -> str:
    if not found[1]:
        return found[0]
    first = int(found[1], 16)
    if found[2]:
        second = int(found[2], 16)
        if 0xD800 <= first <= 0xDBFF:
            return chr(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
        return _character(first) + "\ufffd"
    return _character(first)


def _character(code: int) -> str:
    if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF:
        return "\ufffd"
    character = chr(code)
    return _AS_ESCAPE.get(character) or _STANDS_FOR.get(character, character)
