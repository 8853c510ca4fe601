"""Links inside the repository point to a file that exists, and to a heading in it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devstack.migrations import PROJECT
from tests.support.blocks import PAGES

_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(<?(?P<target>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.M)


def prose(page: Path) -> str:
    """A page without its code blocks and code spans."""
    text = re.sub(r"^ *(`{3,})[^`\n]*\n.*?^ *\1$", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`", text)


def targets(page: Path) -> list[str]:
    return [match["target"] for match in _LINK.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by the rules of GitHub and myst."""
    text = re.sub(r"^ *(`{3,})[^`\n]*\n.*?^ *\1$", "", page.read_text(), flags=re.M | re.S)
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(text):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def problem(page: Path, target: str) -> str | None:
    """Why a link is broken, or None."""
    parts = urlsplit(target)
    if parts.scheme:
        return None if parts.scheme in ("https", "mailto") else f"{target} is not https"
    file = (page.parent / parts.path).resolve() if parts.path else page
    if not file.is_relative_to(PROJECT) or not file.exists():
        return f"{target}: no such file"
    if parts.fragment and (file.suffix != ".md" or parts.fragment not in anchors(file)):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page: Path) -> None:
    assert [wrong for target in targets(page) if (wrong := problem(page, target))] == []


def test_pages_contain_links() -> None:
    assert sum(len(targets(page)) for page in PAGES) > 20


@pytest.mark.parametrize(
    "target",
    ["nothing.md", "docs/frontend.md#nothing", "#nothing", "../../etc/passwd", "http://example.com", "LICENSE#x"],
)
def test_broken_link_is_detected(target: str) -> None:
    assert problem(PROJECT / "README.md", target)


def test_anchors_match_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# `useChat` of the AI SDK\n## Realtime's quota\n## A\n## A\n```sh\n# no heading\n```\n## [B](b.md), c\n"
    )
    assert anchors(page) == {"usechat-of-the-ai-sdk", "realtimes-quota", "a", "a-1", "b-c"}
