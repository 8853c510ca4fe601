"""BAML's own delimiters, and how text that holds one is made harmless.

BAML renders a prompt to one string, in which delimiters mark where a role or a medium begins, and splits it there
afterwards. Text that brings a delimiter along would become a system message, or a URL that is fetched. `defuse` breaks
it with an invisible character; everything a user can write passes through it on its way into a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# As baml-py 0.226.3 has them (jinja-runtime); tests/integration/bridge/test_baml_pin.py holds them to it.
DELIMITERS = ("BAML_CHAT_ROLE_MAGIC_STRING_DELIMITER", "BAML_MEDIA_MAGIC_STRING_DELIMITER")

BREAK = "\u2060"  # WORD JOINER: no width, no space, and neither BAML nor `trim` removes it

_CORE = "_MAGIC_STRING_DELIMITER"
_LONGEST = max(map(len, DELIMITERS))
# Everywhere, the break goes after the first underscore. In any case of letters, because a template may say `|upper`.
_WHOLE = re.compile(rf"(BAML_)(?=(?:CHAT_ROLE|MEDIA){_CORE[:7]})", re.IGNORECASE)


def _prefixes(text: str) -> str:
    """A pattern for `text` or any beginning of it, the empty one too."""
    pattern = ""
    for letter in reversed(text):
        pattern = f"(?:{letter}{pattern})?"
    return pattern


# A delimiter may also come about where a template puts two strings side by side. However it is cut, one of its pieces
# holds the first underscore, and that piece ends where its string ends, or begins where it begins (spaces aside).
_REST = "|".join(_prefixes(d.removeprefix("BAML_")) for d in DELIMITERS)
_AT_END = re.compile(rf"(BAML_)(?:{_REST})\s*$", re.IGNORECASE)
_AT_START = re.compile(rf"^(\s*(?:A?ML|L)?_)(?:(?:{_REST})\s*$|(?=CHAT_ROLE{_CORE}|MEDIA{_CORE}))", re.IGNORECASE)


def defuse(text: str) -> str:
    """Give `text` with BAML's delimiters, and pieces that could grow into one, broken invisibly.

    Any other text comes back as it was. Handlers that call BAML functions themselves pass users' text through it.
    """
    if _CORE in text.upper():
        text = _WHOLE.sub(rf"\1{BREAK}", text)
    # Only the ends can hold a piece. The slices are generous: spaces at an end do not count.
    tail = text.rstrip()[-_LONGEST:]
    if "_" in tail and (found := _AT_END.search(tail)):
        at = len(text.rstrip()) - len(tail) + found.end(1)
        text = text[:at] + BREAK + text[at:]
    head = text.lstrip()[: _LONGEST + 1]
    if "_" in head[:4] and (found := _AT_START.match(head)):
        at = len(text) - len(text.lstrip()) + found.end(1)
        text = text[:at] + BREAK + text[at:]
    return text


def defuse_all(value: Any) -> Any:
    """Defuse every string in a JSON-like value, keys included."""
    if isinstance(value, str):
        return defuse(value)
    if isinstance(value, Mapping):
        return {defuse(str(k)): defuse_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [defuse_all(v) for v in value]
    return value
