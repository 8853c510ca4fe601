"""Text that can be shown: no character of a user, a provider or a worker's name commands a terminal or forges a line.

Characters without a shape of their own are shown by their number, as in `\\x1b`: control characters (also C1, which
some terminals obey), line and paragraph separators, marks that turn the direction of text, zero-width characters, lone
surrogates. Python's own table decides (`str.isprintable`).
"""

import json
import os
import sys
from typing import Any

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str) -> str:
    """Return `text` as one line that can be printed."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _number(character) for character in text)


def escape_lines(text: str, indent: str = "") -> str:
    """Return `text` with its newlines kept, and `indent` before every line but the first.

    Use an indent for text of others: then no line of theirs looks like one of ours.
    """
    return f"\n{indent}".join(escape(line) for line in text.split("\n"))


def dumps(value: Any) -> str:
    """Return `value` as JSON on one line, in ASCII: readers get the same text back, a terminal gets no command."""
    return json.dumps(value, default=str, skipkeys=True).replace("\x7f", "\\u007f")


def open_streams() -> None:
    """Let standard output and error take any character, whatever the locale, and replace those that are closed.

    A closed one would give its number to the next socket, and whatever is printed would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        if reconfigure := getattr(getattr(sys, name), "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _number(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
