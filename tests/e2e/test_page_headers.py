"""The built page on a static host that sends what `_headers` says, in a browser that obeys it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, expect

from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.e2e.tab import Tab, build, running
from tests.support.workers import working


def headers_of(folder: Path) -> dict[str, str]:
    """What `_headers` says of every path. Raises ValueError if it has rules that this does not understand."""
    lines = [line for line in (folder / "_headers").read_text().splitlines() if line and not line.startswith("#")]
    if lines[0] != "/*" or not all(line.startswith("  ") for line in lines[1:]):
        raise ValueError(f"{folder}/_headers has more than one rule")
    return {name: value for name, _, value in (line.strip().partition(": ") for line in lines[1:])}


@pytest.fixture(scope="module")
async def hosted(stack: Stack, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The page as Cloudflare Pages serves it: the headers on every answer, `404.html` for what is not there."""
    folder = tmp_path_factory.mktemp("hosted")
    await build(PROJECT / "web", folder, stack.environment)
    headers = headers_of(folder)

    async def answer(request: web.Request) -> web.FileResponse:
        file = folder / (request.path.lstrip("/") or "index.html")
        if file.is_file():
            return web.FileResponse(file, headers=headers)
        return web.FileResponse(folder / "404.html", status=404, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with running(app) as address:
        yield address


async def test_the_page_works_behind_its_headers(
    environment: dict[str, str], context: BrowserContext, hosted: str
) -> None:
    """Sign-up over https, a reply over wss, files, Markdown: nothing of it is refused by the page's own policy."""
    async with working(environment):
        tab = await Tab.open(context, hosted)
        await tab.sign_up()
        await tab.new_session("Code")
        await tab.watch()
        await tab.say("Write fibonacci in Python, please. [[delay=0.02]]")
        await tab.until_reply("done")
        await expect(tab.page.get_by_test_id("file-content")).to_contain_text("def fibonacci()")
        assert len(await tab.seen()) > 1  # it streamed
    assert tab.problems == []


async def test_no_other_page_can_frame_it(context: BrowserContext, hosted: str) -> None:
    page = await context.new_page()
    async with page.expect_console_message(
        lambda message: "frame" in message.text and hosted.rstrip("/") in message.text
    ):
        await page.set_content(f'<iframe src="{hosted}"></iframe>')
    await page.wait_for_load_state()
    frame = page.frames[-1]
    assert await frame.locator("#root").count() == 0


async def test_what_is_not_there_is_not_the_page(hosted: str) -> None:
    """With the page in its place, a script of an older build would be HTML, and cached as that."""
    async with aiohttp.ClientSession() as http, http.get(f"{hosted}assets/index-gone.js") as answer:
        assert answer.status == 404
        assert "Not found" in await answer.text()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_two_halves_of_the_policy_do_not_contradict_each_other() -> None:
    """A browser obeys both: the header says only what a page cannot say of itself."""
    headers = headers_of(PROJECT / "web" / "public")
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["Referrer-Policy"] == "no-referrer"
    built = (PROJECT / "web" / "vite.config.ts").read_text()
    assert "frame-ancestors" not in built
    assert "default-src 'none'" in built
