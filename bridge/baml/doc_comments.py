"""What the source of a BAML function says to its users: the doc comment above it, which is not part of the prompt.

    /// Compares options as a table.
    /// @title Comparison
    /// @suggest Train, bus or bicycle to work?
    function Compare(message: string) -> Comparison { … }

The first line without a tag is the description.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bridge.baml.unparsed import CLOSES, OPENS, TOKEN

log = logging.getLogger(__name__)

_DOC = "///"


class DocComment(NamedTuple):
    """A doc comment: its first line, and its tags `@title`, `@suggest` (any number) and `@internal`."""

    description: str | None = None
    title: str | None = None
    suggestions: tuple[str, ...] = ()
    is_internal: bool = False


def read_doc_comments(sources: Mapping[str, str]) -> dict[str, DocComment]:
    """Return the doc comment of each function in these BAML files."""
    found = {}
    for text in sources.values():
        lines: list[str] = []
        depth, is_name = 0, False
        for token in (match[0] for match in TOKEN.finditer(text)):
            if token.startswith(_DOC):
                lines.append(token.removeprefix(_DOC).strip())
            elif token.startswith(("//", "{//")):
                continue
            elif is_name:
                found[token] = _read(token, lines)
                lines, is_name = [], False
            elif token == "function" and depth == 0:
                is_name = True
            else:
                depth += (token in OPENS) - (token in CLOSES)
                lines = []
    return found


def _read(function: str, lines: Iterable[str]) -> DocComment:
    comment = DocComment()
    for line in lines:
        tag, _, value = line.partition(" ")
        value = value.strip()
        if tag == "@title":
            comment = comment._replace(title=value)
        elif tag == "@suggest":
            comment = comment._replace(suggestions=(*comment.suggestions, value))
        elif tag == "@internal":
            comment = comment._replace(is_internal=True)
        elif tag.startswith("@"):
            log.warning("%s: %s is no tag of a doc comment: there are @title, @suggest and @internal", function, tag)
        elif comment.description is None and line:
            comment = comment._replace(description=line)
    return comment
