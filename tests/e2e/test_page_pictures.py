"""The screenshots of the documentation. With PICTURES=1 they are written to docs/images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.async_api import expect

from devstack.migrations import PROJECT
from tests.e2e.tab import Tab
from tests.support.workers import working


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = PROJECT / "docs" / "images" if os.environ.get("PICTURES") == "1" else tmp_path
    folder.mkdir(exist_ok=True)
    return folder


async def test_the_page_in_both_themes_and_on_a_phone(environment: dict[str, str], tab: Tab, pictures: Path) -> None:
    page = tab.page
    files = page.get_by_role("complementary", name="Code files")
    async with working(environment):
        await tab.sign_up()
        await page.emulate_media(color_scheme="light", reduced_motion="reduce")
        await tab.new_session("Chat")
        await tab.say("How do I add a function of my own?")
        await tab.until_reply("done")
        await tab.new_session("Code")
        await tab.say("Write a Fibonacci generator in Python, please.")
        await tab.until_reply("done")
        await expect(page.get_by_role("heading", name="Fibonacci")).to_be_visible()  # the session has its title
        await tab.say("And a notes table in SQL, private to its owner.")
        await expect(tab.replies).to_have_count(2)
        await tab.until_reply("done")
        await tab.say("Let fibonacci.py begin at 1 instead.")
        await expect(tab.replies).to_have_count(3)
        await tab.until_reply("done")
        await files.get_by_role("button", name="fibonacci.py", exact=True).click()
        await expect(files.locator(".hljs-keyword").first).to_be_visible()
        await page.mouse.move(640, 10)
        await page.screenshot(path=pictures / "page.png")

        await page.emulate_media(color_scheme="dark")
        await tab.session_buttons.filter(has_text="Chat").first.click()
        await expect(tab.replies.locator("ol")).to_be_visible()
        await page.mouse.move(640, 10)
        await page.screenshot(path=pictures / "page-dark.png")

        await page.emulate_media(color_scheme="light")
        await page.set_viewport_size({"width": 390, "height": 780})
        await expect(tab.replies.locator("pre")).to_be_in_viewport()
        await page.screenshot(path=pictures / "page-phone.png")
