"""The fenced blocks of the documentation.

A comment `<!-- not run: reason -->` before a block exempts it; the tests print the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from devstack.migrations import PROJECT

PAGES = (
    *(PROJECT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "README", "SECURITY")),
    *sorted(page for page in (PROJECT / "docs").rglob("*.md") if "_build" not in page.parts),
    PROJECT / "client" / "README.md",
)

OWN_TESTS = "# app_tests/"  # how a block begins that is a test of the reader's own

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^`\n]*)$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `not_run` is the reason why no test runs it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def name(self) -> str:
        """Its page and line, as pytest and editors print them."""
        return f"{self.page.relative_to(PROJECT)}:{self.line}"

    @property
    def module(self) -> str:
        """The same as the name of a Python module."""
        return re.sub(r"\W", "_", self.name)


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page. Raises ValueError if one is not closed."""
    found: list[Block] = []
    before = ""  # the last line that is not blank
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if not (fence := _FENCE.match(line)):
            before = line.strip() or before
            continue
        inside: list[str] = []
        for _, inner in lines:
            if inner.strip() == fence["ticks"]:
                break
            inside.append(inner.removeprefix(fence["indent"]))
        else:
            raise ValueError(f"{page}:{number}: the block is not closed")
        marked = _NOT_RUN.fullmatch(before)
        reason = marked["reason"] if marked else None
        found.append(Block(page, number, fence["language"].strip(), "\n".join(inside) + "\n", reason))
        before = ""
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def code_of(*languages: str) -> list[Block]:
    """The blocks in these languages, without the exempt ones, the gallery's, which tests/e2e runs, and tests."""
    return [
        block
        for block in BLOCKS
        if block.language in languages and block.not_run is None and block.page.name != "gallery.md"
        if not block.text.startswith(OWN_TESTS)
    ]


def in_page(page: str, *languages: str) -> list[Block]:
    """The same, of one page."""
    return [block for block in code_of(*languages) if block.page == PROJECT / page]


def rows_of(page: Path, heading: str) -> list[list[str]]:
    """The cells of all tables under a heading, without the header rows."""
    section = re.split(r"^#+ ", page.read_text().partition(f"# {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if not set(line) <= set("|-: ") and not (below and set(below) <= set("|-: "))
    ]
