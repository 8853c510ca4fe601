"""Under `make dev`, the page says what is wrong in the functions, and stays usable."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from devstack.migrations import PROJECT
from tests.e2e.tab import Tab, build, served
from tests.e2e.test_accessibility import violations
from tests.support.dev import copy_functions, interrupt, terminal

MISTAKE = 'function Hi(message: string) -> strin {\n  client Model\n  prompt #" {{ message }} "#\n}\n'


async def test_mistake_is_shown_on_the_page_until_it_is_mended(browser: Browser, tmp_path: Path) -> None:
    folder = copy_functions(tmp_path)
    async with terminal(tmp_path / "data", 25473, folder=folder) as dev:
        address = (await dev.until(r"Chat +(http://127\.0\.0\.1:\d+)"))[1]
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        try:
            tab = await Tab.open(context, address)
            await tab.start()
            alert = tab.page.locator(".problems")
            await expect(alert).to_have_count(0)

            file = folder / "baml_src" / "hi.baml"
            file.write_text(MISTAKE)
            await expect(alert).to_contain_text("baml_src/hi.baml:1")
            await expect(alert).to_contain_text("Type `strin` does not exist")
            assert await violations(tab) == []
            await tab.say("[[text=still]]")  # the version before answers
            await tab.until_text("still")
            below = await tab.page.evaluate("document.documentElement.scrollHeight - innerHeight")
            assert below <= 0, "the page is as high as the window"

            other = await Tab.open(context, address)  # a page that is opened later says it too
            await expect(other.page.locator(".problems")).to_contain_text("baml_src/hi.baml:1")

            (folder / "handlers.py").write_text("x = (\n")
            file.unlink()
            await expect(alert).to_contain_text("handlers.py:1")
            (folder / "handlers.py").unlink()
            await expect(alert).to_have_count(0)
        finally:
            await context.close()
        assert await interrupt(dev) == 0


@pytest.mark.parametrize("mode", ["production", "development"])
async def test_built_page_does_not_listen_for_problems(browser: Browser, tmp_path: Path, mode: str) -> None:
    environment = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}
    await build(PROJECT / "web", tmp_path, environment, mode)
    if mode == "production":
        built = "".join(file.read_text() for file in (tmp_path / "assets").iterdir() if file.suffix in (".js", ".css"))
        assert "problems:now" not in built
        assert ".problems" not in built
    context = await browser.new_context()
    try:
        async with served(tmp_path) as address:
            tab = await Tab.open(context, address)
            await expect(tab.page.get_by_role("button").first).to_be_visible()
            await expect(tab.page.locator(".problems")).to_have_count(0)
    finally:
        await context.close()
