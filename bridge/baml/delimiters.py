"""BAML's prompt delimiters, and how to make text harmless that contains one.

BAML renders a prompt to a single string in which delimiters mark the start of a role or of media, then splits it there.
A user's text with a delimiter in it could become a system message, or a URL that is fetched. `defuse` breaks the
delimiter with an invisible character. All text from users passes through it on its way into a prompt.
"""

import re
from collections.abc import Mapping
from typing import Any

# Those of baml-py 0.226.3 (jinja-runtime); tests/integration/bridge/baml/test_pin.py checks them.
DELIMITERS = ("BAML_CHAT_ROLE_MAGIC_STRING_DELIMITER", "BAML_MEDIA_MAGIC_STRING_DELIMITER")

BREAK = "\u2060"  # WORD JOINER: no width, no space, and neither BAML nor `trim` removes it

_CORE = "_MAGIC_STRING_DELIMITER"
_LONGEST = max(map(len, DELIMITERS))
# The break always goes after the first underscore. Case is ignored, because a template may use `|upper`.
_WHOLE = re.compile(rf"(BAML_)(?=(?:CHAT_ROLE|MEDIA){_CORE[:7]})", re.IGNORECASE)


def _prefixes(text: str) -> str:
    """Return a pattern that matches `text` and every prefix of it, including the empty one."""
    pattern = ""
    for letter in reversed(text):
        pattern = f"(?:{letter}{pattern})?"
    return pattern


# A template that puts two strings side by side may also form a delimiter. Wherever it is cut, one of the pieces has the
# first underscore, and that piece is at the end or at the start of its string (apart from spaces).
_REST = "|".join(_prefixes(d.removeprefix("BAML_")) for d in DELIMITERS)
_AT_END = re.compile(rf"(BAML_)(?:{_REST})\s*$", re.IGNORECASE)
_AT_START = re.compile(rf"^(\s*(?:A?ML|L)?_)(?:(?:{_REST})\s*$|(?=CHAT_ROLE{_CORE}|MEDIA{_CORE}))", re.IGNORECASE)


def defuse(text: str) -> str:
    """Return `text` with an invisible break in every BAML delimiter, and in every piece that could become one.

    Any other text is returned unchanged. A handler that calls BAML functions itself must pass users' text through it.
    """
    if _CORE in text.upper():
        text = _WHOLE.sub(rf"\1{BREAK}", text)
    # Only the ends can hold a piece. Spaces there do not count.
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
    """Defuse every string in a JSON-like value, including keys."""
    if isinstance(value, str):
        return defuse(value)
    if isinstance(value, Mapping):
        return {defuse(str(k)): defuse_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [defuse_all(v) for v in value]
    return value
