"""The way through the page with the keyboard alone. With PICTURES_TO=<folder> each step writes a picture there."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import BrowserContext, expect

from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.support.users import PASSWORD
from tests.support.workers import working

LONG = "\n".join(f"{n}: a line of a log that somebody has copied from somewhere" for n in range(120))
# the name of the focused element, and whether the focus can be seen: an outline, or the border of the message box
_FOCUS = """() => {
  const { activeElement: at } = document;
  const marked = at.type === "radio" ? at.nextElementSibling : at;
  const probe = document.createElement("i");
  probe.style.color = "var(--accent)";
  document.body.append(probe);
  const accent = getComputedStyle(probe).color;
  probe.remove();
  const { outlineStyle, outlineWidth } = getComputedStyle(marked);
  const box = at.matches("textarea") ? at.closest(".composer") : null;
  return {
    outside: at === document.body, // beyond the last element
    name: at.ariaLabel ?? at.labels?.[0]?.innerText ?? at.innerText,
    visible: (outlineStyle !== "none" && parseFloat(outlineWidth) > 0)
      || (box !== null && getComputedStyle(box).borderColor === accent),
  };
}"""


class Keyboard:
    """Goes through the page with Tab and checks that each focus is visible. A step runs axe and takes a picture."""

    def __init__(self, tab: Tab, folder: Path | None, prefix: str) -> None:
        self.tab, self.folder, self.prefix = tab, folder, prefix
        self.found: dict[str, object] = {}
        self.steps = 0

    async def to(self, name: str, key: str = "Tab") -> None:
        passed: list[str] = []
        for _ in range(40):
            await self.tab.page.keyboard.press(key)
            focus = await self.tab.page.evaluate(_FOCUS)
            if focus["outside"]:
                continue
            assert focus["visible"], focus
            passed.append(focus["name"].strip())
            if passed[-1].startswith(name):
                return
        raise AssertionError(f"{key} does not reach {name!r}, only {passed}")

    async def press(self, key: str) -> None:
        await self.tab.page.keyboard.press(key)

    async def type(self, text: str) -> None:
        await self.tab.page.keyboard.type(text)

    async def step(self, name: str) -> None:
        self.steps += 1
        if what := await violations(self.tab):
            self.found[name] = what
        if self.folder is not None:
            path = self.folder / f"{self.prefix}-{self.steps:02d}-{name.replace(' ', '-')}.png"
            await self.tab.page.screenshot(path=path)


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
async def test_the_keyboard_goes_all_the_way(
    environment: dict[str, str],
    context: BrowserContext,
    tab: Tab,
    theme: Literal["light", "dark"],
    width: int,
) -> None:
    folder = Path(os.environ["PICTURES_TO"]) if "PICTURES_TO" in os.environ else None
    keys = Keyboard(tab, folder, f"{theme}-{width}")
    page = tab.page
    is_phone = width < 500
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 780})
    await context.grant_permissions(["clipboard-read", "clipboard-write"])

    async def sessions() -> None:
        if is_phone:
            await keys.to("Sessions", "Shift+Tab")
            await keys.press("Enter")

    async with working(environment):
        await expect(page.get_by_label("Email")).to_be_focused()
        await keys.step("sign in")
        await keys.to("Forgot your password?")
        await keys.press("Enter")
        await expect(page.get_by_role("heading", name="Forgot your password?")).to_be_visible()
        await keys.step("forgot")
        await keys.to("Sign in")
        await keys.press("Enter")
        await keys.to("Sign up")
        await keys.press("Enter")
        await expect(page.get_by_role("heading", name="Create an account")).to_be_visible()
        await expect(page.get_by_label("Email")).to_be_focused()
        await keys.type(f"{uuid.uuid4().hex[:10]}@example.com")
        await keys.to("Password")
        await keys.type(PASSWORD)
        await keys.step("sign up")
        await keys.press("Enter")

        await expect(tab.box).to_be_focused()
        await keys.step("new session")
        await keys.to("How do I add a function")
        await keys.step("suggestion")
        await keys.press("Enter")
        await expect(tab.box).to_be_focused()
        await tab.until_reply("done")
        await keys.step("reply")

        await sessions()
        await keys.to("New session", "Tab" if is_phone else "Shift+Tab")
        if is_phone:
            await keys.step("menu")
        await keys.press("Enter")
        await expect(tab.box).to_be_focused()
        await keys.to("Chat", "Shift+Tab")
        await keys.press("ArrowRight")
        await expect(page.get_by_role("radio", name="Code")).to_be_checked()
        await keys.step("function")
        await keys.to("Message")
        await page.evaluate("(text) => navigator.clipboard.writeText(text)", LONG)
        await keys.press("Control+V")
        await expect(page.get_by_role("button", name="Remove pasted-1.txt")).to_be_visible()
        await keys.step("pasted")
        await keys.to("Remove pasted-1.txt", "Shift+Tab")
        await keys.press("Enter")
        await expect(page.get_by_role("button", name="Remove pasted-1.txt")).to_have_count(0)
        await expect(tab.box).to_be_focused()
        await keys.press("Control+V")
        await expect(page.get_by_role("button", name="Remove pasted-1.txt")).to_be_visible()
        await keys.type("What is in it?")
        await keys.press("Enter")
        await expect(tab.box).to_be_focused()
        await tab.until_reply("done")
        await keys.step("pasted and sent")

        await sessions()
        first = tab.session_buttons.filter(has_text="Chat")
        for _ in range(40):
            await keys.press("Tab" if is_phone else "Shift+Tab")
            if await first.evaluate("(element) => element === document.activeElement"):
                break
        await keys.press("Enter")
        await expect(tab.questions).to_contain_text(["How do I add a function"])
        await sessions()
        await keys.to("Sign out", "Tab" if is_phone else "Shift+Tab")
        await keys.press("Enter")
        await expect(page.get_by_label("Password")).to_be_visible()
    assert keys.found == {}
