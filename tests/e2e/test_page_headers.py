"""The built page on a static host that sends the headers of `_headers`."""

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
    """The headers that `_headers` sets for all paths. Raises ValueError if it has other rules."""
    lines = [line for line in (folder / "_headers").read_text().splitlines() if line and not line.startswith("#")]
    if lines[0] != "/*" or not all(line.startswith("  ") for line in lines[1:]):
        raise ValueError(f"{folder}/_headers must have exactly one rule")
    return {name: value for name, _, value in (line.strip().partition(": ") for line in lines[1:])}


@pytest.fixture(scope="module")
async def hosted(stack: Stack, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The page as Cloudflare Pages serves it: headers on every response, `404.html` for unknown paths."""
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


async def test_the_page_works_with_its_headers(
    environment: dict[str, str], context: BrowserContext, hosted: str
) -> None:
    """The page's policy allows requests, the socket, files and Markdown."""
    async with working(environment):
        tab = await Tab.open(context, hosted)
        await tab.start("Code")
        await tab.watch()
        await tab.say("Write fibonacci in Python, please. [[delay=0.02]]")
        await tab.until_reply("done")
        await expect(tab.page.get_by_test_id("file-content")).to_contain_text("def fibonacci()")
        assert len(await tab.seen()) > 1  # it streamed
    assert tab.problems == []


async def test_other_pages_cannot_frame_it(context: BrowserContext, hosted: str) -> None:
    page = await context.new_page()
    async with page.expect_console_message(
        lambda message: "frame" in message.text and hosted.rstrip("/") in message.text
    ):
        await page.set_content(f'<iframe src="{hosted}"></iframe>')
    await page.wait_for_load_state()
    frame = page.frames[-1]
    assert await frame.locator("#root").count() == 0


async def test_unknown_paths_return_404(hosted: str) -> None:
    """If the page were returned instead, it could be cached in place of a script of an older build."""
    async with aiohttp.ClientSession() as http, http.get(f"{hosted}assets/index-old.js") as answer:
        assert answer.status == 404
        assert "Page not found" in await answer.text()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_headers_and_the_page_split_the_policy() -> None:
    """Browsers apply both policies. The header has only the directive that a page cannot set itself."""
    headers = headers_of(PROJECT / "web" / "public")
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["Referrer-Policy"] == "no-referrer"
    built = (PROJECT / "web" / "vite.config.ts").read_text()
    assert "frame-ancestors" not in built
    assert "default-src 'none'" in built
