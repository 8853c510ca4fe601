"""Markdown on the page: lists within lists, formulas, and text from right to left."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Literal

import psycopg
import pytest
from playwright.async_api import Locator, expect

from devstack.model import ModelServer
from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.e2e.test_page_hostile import WIDER
from tests.support.database import Row
from tests.support.workers import working

FORMULAS: dict[str, tuple[str, list[str | None]]] = {
    "inline": ("The root $x = \\sqrt{2}$ is one.", ["$x = \\sqrt{2}$"]),
    "parentheses": ("The root \\(x_1\\), and \\(x_2\\).", ["\\(x_1\\)", "\\(x_2\\)"]),
    "display": ("Thus:\n\n$$\nE = mc^2\n$$\n\nDone.", ["$$ E = mc^2 $$"]),
    "display in a line": ("$$ a^2 + b^2 $$", ["$$ a^2 + b^2 $$"]),
    "brackets": ("\\[\n\\begin{aligned}\na &= b \\\\[2pt]\n+ c\n\\end{aligned}\n\\]", [None]),
    "lines like items": ("$$\na\n+ b\n- c\n= d\n> e\n$$", ["$$ a + b - c = d > e $$"]),
    "in a list": ("1. One:\n\n   $$\n   a\n   + b\n   $$\n\n2. Two $c$", ["$$ a + b $$", "$c$"]),
    "in a quote": ("> $$\n> a\n> - b\n> $$", ["$$ a - b $$"]),
    "in a table": ("| a |\n|---|\n| $x^2$ |", ["$x^2$"]),
    "ordinals": ("The $n$th of $k$.", ["$n$", "$k$"]),
    "prices": ("It costs $5 and $10, or $5-$10, US$5 and US$6, a 5$ bill and 6$.", []),
    "variables": ("Set $HOME and $PATH, $ x $ and $$.", []),
    "escaped": ("\\$x\\$ and \\\\(x\\\\)", []),
    "code": ("`$x$` and\n\n```tex\n$$\nx\n$$\n```\n\n- ```\n  $$\n  - x\n  $$\n  ```", []),
    "half": ("It is $x = \\frac{1}{2", []),
}


async def reply(tab: Tab, db: psycopg.AsyncConnection[Row], *texts: str) -> Locator:
    """Show these replies."""
    await rows.show(tab, db, Conversation("Markdown", [Turn("Question?", text) for text in texts]))
    await expect(tab.replies).to_have_count(len(texts))
    return tab.replies


_SOURCES = """(reply) => [...reply.querySelectorAll(".formula")].map((formula) =>
  formula.querySelector("math annotation")?.textContent.trim() ?? `not drawn: ${formula.textContent}`)"""


async def test_formulas_are_drawn(environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    found = {}
    replies = await reply(tab, db, *(text for text, _ in FORMULAS.values()))
    await expect(tab.page.locator(".katex")).not_to_have_count(0)
    for number, (name, (_, expected)) in enumerate(FORMULAS.items()):
        await replies.nth(number).scroll_into_view_if_needed()
        sources = [one and one.strip("$").removeprefix("\\(").removesuffix("\\)").strip() for one in expected]
        await expect(replies.nth(number).locator(".katex-html")).to_have_count(len(sources))
        found[name] = await replies.nth(number).evaluate(_SOURCES)
        if None not in sources:
            assert found[name] == sources, name
    assert await tab.page.locator(".katex-html:not([aria-hidden=true])").count() == 0


_MARKERS = {"items": "-", "numbers": "1.", "tasks": "- [ ]", "done": "- [x]", "numbered tasks": "1. [ ]"}
# how far each item is from the edge of its bubble, the outermost first
_INDENTS = """(reply) => [...reply.querySelectorAll("li")].map((item) => {
  const outer = item.closest(".bubble").getBoundingClientRect();
  const inner = item.getBoundingClientRect();
  return Math.round(getComputedStyle(item).direction === "rtl" ? outer.right - inner.right : inner.left - outer.left);
})"""


def nested(markers: list[str], gap: str, word: str = "item") -> str:
    """A list in a list in a list, with these markers."""
    lines, indent = [], 0
    for marker in markers:
        lines.append(f"{' ' * indent}{marker} {word}")
        indent += 3 if marker[0] == "1" else 2
    return gap.join(lines)


async def test_lists_within_lists_are_indented(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    kinds = list(_MARKERS.values())
    mixed = [[outer, inner, outer, inner] for outer in kinds for inner in kinds]
    texts = [nested(markers, "\n") for markers in mixed] + [nested(markers, "\n\n", "فقرة") for markers in mixed]
    texts += [nested([marker] * 12, "\n") for marker in kinds]
    replies = await reply(tab, db, *texts)
    for number, text in enumerate(texts):
        await replies.nth(number).scroll_into_view_if_needed()
        await expect(replies.nth(number).locator("li").first).to_be_visible()
        indents = await replies.nth(number).evaluate(_INDENTS)
        assert len(indents) == text.count("item") + text.count("فقرة"), text
        steps = [after - before for before, after in pairwise(indents)]
        assert all(12 <= step <= 48 for step in steps), (text, indents)


MIXED = """- [ ] a task
  - a point
    1. a number
       - [x] a task in it

         with a paragraph
       - [ ] another

         ```python
         import os
         ```
    2. > a quote
       > - in a list
  - [x] done
- a point beside tasks

998. three digits
999. and
1000. four

1. [ ] numbered task
   $$
   x^2
   $$
2. $y$

שלום עולם:

- פריט ראשון
  - [ ] משימה
    1. שלוש $x^2$ ו `code`

> ציטוט
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_in_lists_and_formulas(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], theme: Literal["light", "dark"]
) -> None:
    await tab.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    long = f"$$\n{' + '.join(f'x_{{{n}}}' for n in range(30))}\n$$\n\n$\\frac{{{'a' * 80}}}{{b}}$"
    await reply(tab, db, MIXED, long, *("Words. " * 200 for _ in range(3)))
    for where in ("desktop", "phone"):
        if where == "phone":
            await tab.page.set_viewport_size({"width": 390, "height": 780})
        await tab.replies.nth(1).scroll_into_view_if_needed()
        await expect(tab.replies.nth(1).locator(".katex-html")).to_have_count(2)
        assert await tab.page.evaluate(WIDER) == []
        await expect(tab.page.get_by_role("button", name="Jump to the newest")).to_be_visible()
        assert await violations(tab) == []
        await tab.replies.first.scroll_into_view_if_needed()
        assert await violations(tab) == []


@pytest.mark.parametrize("text", ["one two three", "- a\n- b\n  1. c", "> q", "# Title", "a\n\n- [ ] t"])
async def test_the_caret_is_behind_the_last_word(
    environment: dict[str, str], model: ModelServer, tab: Tab, text: str
) -> None:
    async with working(environment):
        await tab.start()
        await tab.say(f"[[text={json.dumps(text + ' word more words')} hold={len(text.split()) + 1}]]")
        await tab.until_text("word")
        await expect(tab.page.locator(".bubble :is(p, li, h2)").last).to_be_attached()
        found = await tab.page.evaluate(
            """() => [...document.querySelectorAll(".bubble *")]
              .filter((element) => getComputedStyle(element, "::after").content === '""')
              .map((element) => element.textContent.trim())"""
        )
        assert len(found) == 1
        assert found[0].endswith(("word", "more"))
        await expect(tab.page.locator(".caret")).to_be_hidden()
        model.let_go()
        model.let_go()
        await tab.until_reply("done")
