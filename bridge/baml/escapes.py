"""Strings in structured answers, made safe before BAML's parser sees them.

BAML first tries to parse an answer as strict JSON. If that fails (a comma too many, a comment, a raw line break, or
half an answer), a lenient parser takes over, which mishandles escapes (baml-py 0.226.3): `\\u00df` loses its last
digit, `\\/` keeps its backslash, an odd number of `\\"` makes a string swallow what follows it, and a bracket can end
one. So escapes in JSON strings are replaced here by the characters they mean. Those that could change the structure
(quotes, backslashes, brackets, control characters) become noncharacters of Unicode, and `restore` turns these back.

What is left is the structure as BAML's parser will see it, so this is where it is measured (`Weight`).
"""

import re
from dataclasses import dataclass
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
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?|([/\"\\]))")
_UNFINISHED = re.compile(
    r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}\Z"
)

# What can begin where no string is open: a string, code in backticks (BAML's own form of a string), a comment.
_OUTSIDE = re.compile(r"[\[{\]}]|\"|'|```|//[^\n]*|/\*.*?(?:\*/|\Z)", re.S)
_OPENS = ("{", "[", ",", ":")  # what precedes a string in single quotes; an apostrophe in a bare word begins none
# Possessive: a backtracking one would keep 100 bytes for each character of a long string.
_STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
_QUOTED = re.compile(r"[^'\\]*+(?:\\.[^'\\]*+)*+", re.S)
_BRACKET = re.compile(r"[\[{\]}]")
_CLOSES = re.compile(r"\s*(?:[,:}\]]|//|/\*|\Z)")
# A field's value ends before the next field, or before the end of the object: `"he said "yes", and left"` goes on.
_CLOSES_VALUE = re.compile(
    r"""\s*(?:\}|//|/\*|\#|\Z|,\s*(?:\}|//|/\*|\#|\Z|"[^"\n]{0,80}(?:"\s*:|\Z)|'[^'\n]{0,80}'\s*:|\w{1,80}\s*(?::|\Z)))"""
    r"""|(?=\n\s*"[^"\n]{0,80}"\s*:)"""
)


@dataclass(frozen=True, slots=True)
class Weight:
    """How much structure a text has: opening brackets, the deepest nesting, commas between values, and fences.

    Of text that is not JSON it is an upper bound: what is doubtful counts.
    """

    brackets: int
    depth: int
    commas: int
    fences: int


class TooHeavy(Exception):
    """The text has more tokens than were allowed."""


def decode_escapes(text: str, *, partial: bool = False) -> str:
    """Return the answer with its JSON strings made safe; `restore` has to follow the parser.

    Of a `partial` answer, an escape that is not complete is left out.
    """
    return decode_and_weigh(text, partial=partial)[0]


def decode_and_weigh(text: str, *, partial: bool = False, most: int | None = None) -> tuple[str, Weight]:
    """Return the answer with its JSON strings made safe, and its weight. The time grows linearly with the text.

    Raises TooHeavy if that takes more than `most` steps, of about 3 µs each.
    """
    text = _MARKS.sub("\ufffd", text)
    if partial and (half := _UNFINISHED.search(text)) and _is_escape(text, half.start()):
        text = text[: half.start()]
    pieces: list[str] = []
    at = depth = deepest = commas = 0
    left = len(text) if most is None else most
    while found := _OUTSIDE.search(text, at):
        if (left := left - 1) < 0:
            raise TooHeavy
        start, (at, token) = at, (found.end(), found.group())
        pieces.append(text[start:at])
        commas += text.count(",", start, at)
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth = max(0, depth - 1)
        elif depth == 0:  # prose around the JSON, or the fence that it stands in
            continue
        elif token == "```":
            end = text.find("```", at)
            end = len(text) if end < 0 else end + 3
            pieces.append(text[at:end])
            commas += text.count(",", at, end)
            at = end
        elif token in "\"'" and ((before := _before(text, found.start())) in _OPENS or token == '"'):
            closes = _CLOSES_VALUE if before == ":" else _CLOSES
            end, quotes = _end_of_string(text, at, _STRING if token == '"' else _QUOTED, token, closes, left)
            inside = text[at:end]
            left -= quotes
            if token == "'" or before not in _OPENS:  # BAML may see a string elsewhere
                commas += inside.count(",")
            if "\\" in inside:
                if (left := left - inside.count("\\") // 8) < 0:
                    raise TooHeavy
                inside = _ESCAPE.sub(_decoded if token == '"' else _decoded_unicode, inside)
            pieces.append(inside.translate(_INSIDE) if token == '"' else inside)
            at = end
            if at < len(text):  # the closing quote
                pieces.append(token)
                at += 1
    pieces.append(text[at:])
    commas += text.count(",", at)
    decoded = "".join(pieces)
    brackets = decoded.count("[") + decoded.count("{")
    if brackets > deepest:  # a bracket in single quotes, which BAML may not take for a string
        deepest = max(deepest, _depth_of(decoded))
    return decoded, Weight(brackets, deepest, commas, decoded.count("```"))


def _depth_of(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKET.finditer(text):
        if found[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth = max(0, depth - 1)
    return deepest


def weigh_json(value: Any, most_brackets: int, most_commas: int) -> Weight:
    """Return the weight of JSON values, or what was found of it until it had more than this."""
    brackets = deepest = commas = 0
    waiting = [(value, 1)]
    while waiting and brackets <= most_brackets:
        item, depth = waiting.pop()
        if isinstance(item, dict):
            item = item.values()
        elif not isinstance(item, list):
            continue
        brackets, deepest, commas = brackets + 1, max(deepest, depth), commas + len(item)
        if commas > most_commas:
            break
        waiting += [(inner, depth + 1) for inner in item if isinstance(inner, (dict, list))]
    return Weight(brackets, deepest, commas, 0)


def read_json(text: str) -> Any:
    """Return the values of an answer that is strict JSON, which BAML parses well; otherwise None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return from_json(text)
    except (ValueError, TypeError, RecursionError):
        return None


def restore(value: Any) -> Any:
    """Return a parsed answer as JSON values, with the characters that `decode_escapes` replaced."""
    return _restored(to_values(value))


def to_values(value: Any) -> Any:
    """Return a parsed answer as JSON values."""
    return to_jsonable_python(value)


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


def _end_of_string(
    text: str, at: int, inside: re.Pattern[str], quote: str, closes: re.Pattern[str], most: int
) -> tuple[int, int]:
    """Where the string that begins at `at` ends: at a quote that is followed by what can follow a string.

    Models forget to escape quotes inside of strings, as in `{"reply": "I said "no" to it"}`. Also returns how many
    there were. Raises TooHeavy if there are more than `most`.
    """
    for quotes in range(most + 1):
        found = inside.match(text, at)
        assert found is not None
        end = found.end()
        if end >= len(text) or text[end] != quote or closes.match(text, end + 1):
            return end, quotes
        at = end + 1
    raise TooHeavy


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
