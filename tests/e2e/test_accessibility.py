"""Accessibility: axe in both themes and widths, and the keyboard."""

from __future__ import annotations

from typing import Any, Literal

import psycopg
import pytest
from playwright.async_api import BrowserContext, expect

from devstack.migrations import PROJECT
from tests.e2e import rows
from tests.e2e.rows import Conversation, File, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working

AXE = PROJECT / "node_modules" / "axe-core" / "axe.min.js"

# runs on the document, to include axe's page-level rules
_RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((node) => node.html) }));
}"""

CONVERSATION = Conversation(
    "A bit of everything",
    [
        Turn(
            "Show me.",
            "# Heading\n\nSome *text* with a [link](https://example.com), `code`:\n\n"
            "```python\ndef f(x: int) -> str:\n    # comment\n    return f'{x}' + \"a\" * 3\n```\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x] done\n- [ ] open\n\n> quoted\n\n1. one\n2. two",
            {
                "reply": "…",
                "vendor": "Acme",
                "paid": True,
                "lines": [{"name": "Nut", "price": 1.5}, {"name": "Bolt", "price": 20}],
                "tags": ["a", "b"],
            },
        ),
        Turn("And this?", "", status="failed", error={"code": "model_unavailable", "message": "The model is busy."}),
        Turn("Or that?", "Half of", status="cancelled"),
    ],
    [
        File("main.py", '"""Doc."""\nimport os\n\nclass A:\n    x: int = 1  # one\n'),
        File("q.sql", "select 1;", "sql"),
    ],
)


async def violations(tab: Tab) -> list[dict[str, Any]]:
    await tab.page.evaluate(AXE.read_text())
    # finish transitions, so that axe checks the final colours
    await tab.page.evaluate(
        "document.getAnimations().filter((a) => a instanceof CSSTransition).forEach((a) => a.finish())"
    )
    return list(await tab.page.evaluate(_RUN))


@pytest.fixture
async def shown(tab: Tab, db: psycopg.AsyncConnection[Row]) -> Tab:
    """A tab that shows `CONVERSATION`."""
    await rows.show(tab, db, CONVERSATION)
    await expect(tab.replies).to_have_count(3)
    await expect(tab.page.locator(".hljs-keyword").first).to_be_attached()
    return tab


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_in_a_conversation(shown: Tab, theme: Literal["light", "dark"]) -> None:
    page = shown.page
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    found = {"conversation": await violations(shown)}

    await page.get_by_role("button", name="Edit", exact=True).click()  # the file's
    found["file editor"] = await violations(shown)
    await shown.press("Versions")
    await expect(page.get_by_text("No earlier versions")).to_be_visible()
    found["versions"] = await violations(shown)
    await shown.tools("main.py").get_by_role("button", name="Delete").click()
    found["delete file"] = await violations(shown)
    await shown.press("Cancel")

    await shown.press("Rename session")
    found["rename"] = await violations(shown)
    await page.keyboard.press("Escape")
    await shown.press("Delete session")
    found["delete"] = await violations(shown)
    await shown.press("Cancel")
    await shown.questions.first.get_by_role("button", name="Edit").click()
    found["edited question"] = await violations(shown)

    await page.set_viewport_size({"width": 390, "height": 780})
    found["phone"] = await violations(shown)
    await shown.press("Files (2)")
    found["phone, files"] = await violations(shown)
    await shown.press("Sessions")
    found["phone, sessions"] = await violations(shown)
    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_before_the_first_reply(tab: Tab, theme: Literal["light", "dark"]) -> None:
    await tab.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    found = {"sign in": await violations(tab)}
    await tab.sign_in("unknown@example.com")
    await expect(tab.page.get_by_role("alert")).to_be_visible()
    found["refused"] = await violations(tab)
    await tab.press("Forgot your password?")
    found["forgot"] = await violations(tab)
    await tab.press("Sign in")
    tab.problems.clear()  # the browser reports the rejected request
    await tab.sign_up()
    await expect(tab.page.get_by_role("heading")).to_be_visible()
    found["welcome"] = await violations(tab)
    await tab.new_session()
    await tab.say("Hello?")
    await expect(tab.questions.last).to_contain_text("Queued")
    found["queued"] = await violations(tab)
    assert {where: what for where, what in found.items() if what} == {}


async def test_axe_finds_a_missing_label(tab: Tab) -> None:
    await expect(tab.page.get_by_label("Email")).to_be_visible()
    await tab.page.evaluate("document.querySelector('label').replaceWith(document.querySelector('label input'))")
    assert "label" in [violation["id"] for violation in await violations(tab)]


async def test_the_keyboard_reaches_everything(environment: dict[str, str], tab: Tab) -> None:
    page, keyboard = tab.page, tab.page.keyboard

    async def tab_to(name: str) -> None:
        for _ in range(40):
            await keyboard.press("Tab")
            label = await page.evaluate("(document.activeElement.ariaLabel ?? document.activeElement.textContent)")
            if name in label:
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    async with working(environment):
        await tab.sign_up()
        await expect(tab.box).to_be_focused()
        await keyboard.type('[[text="one two three" stall=2]]')
        await keyboard.press("Enter")
        await tab.until_text("one two")
        await tab_to("Stop")
        await keyboard.press("Enter")
        await tab.until_reply("cancelled")
        await tab_to("Rename session")
        await keyboard.press("Enter")
        await keyboard.type("By keyboard")
        await keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="By keyboard")).to_be_visible()
        # a closed form returns the focus
        await expect(tab.session_buttons).to_be_focused()
        await tab_to("Delete session")
        await keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Delete", exact=True)).to_be_focused()
        await keyboard.press("Escape")
        await expect(tab.session_buttons).to_be_focused()


async def test_deleting_a_session_keeps_the_focus_in_the_list(environment: dict[str, str], tab: Tab) -> None:
    await tab.start("Chat")
    await tab.new_session("Code")
    for left, focused in (
        (1, tab.session_buttons.filter(has_text="Chat")),
        (0, tab.page.get_by_role("button", name="New session")),
    ):
        await tab.sessions.first.get_by_role("button", name="Delete session").press("Enter")
        await tab.page.get_by_role("button", name="Delete", exact=True).press("Enter")
        await expect(tab.sessions).to_have_count(left)
        await expect(focused).to_be_focused()


async def test_the_theme_survives_a_reload(context: BrowserContext, tab: Tab) -> None:
    await tab.page.emulate_media(color_scheme="light")
    await tab.sign_up()

    async def scheme() -> str:
        return str(await tab.page.evaluate("getComputedStyle(document.documentElement).colorScheme"))

    assert await scheme() == "light dark"
    await tab.press("Theme: system")
    await tab.press("Theme: light")
    await expect(tab.page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert await scheme() == "dark"
    await tab.page.reload()
    await expect(tab.page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert await scheme() == "dark"
