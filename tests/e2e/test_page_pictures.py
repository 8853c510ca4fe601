"""The pictures of the documentation, taken of the page as it is. With PICTURES=1 they are written to docs/images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.async_api import expect

from devstack.migrations import PROJECT
from tests.e2e.tab import Tab
from tests.harness import working


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = PROJECT / "docs" / "images" if os.environ.get("PICTURES") == "1" else tmp_path
    folder.mkdir(exist_ok=True)
    return folder


async def test_the_page_beside_its_code_files(environment: dict[str, str], tab: Tab, pictures: Path) -> None:
    async with working(environment):
        await tab.sign_up()
        await tab.new_session("Chat")
        await tab.say("How does a reply get streamed to the browser?")
        await tab.until_reply("done")
        await tab.new_session("Code")
        await tab.say("Write a Fibonacci generator in Python, please.")
        await tab.until_reply("done")
        await tab.say("And a notes table in SQL, private to its owner.")
        await tab.until_reply("done")
        files = tab.page.get_by_role("complementary", name="Code files")
        await files.get_by_role("button", name="fibonacci.py").click()
        await expect(tab.page.get_by_test_id("file-content")).to_contain_text("yield a")
        await tab.page.screenshot(path=pictures / "page.png")
