"""A tab of a browser on the page of `web/`: what a person does there, and what they see."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

from aiohttp import web
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Route, expect

from devstack.migrations import PROJECT
from devstack.node import node

PASSWORD = "correct horse battery"
FUNCTIONS = "Chat,Code,Compare,Title"
VITE = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"

# notes every text that the last reply has had, and how often the page showed none after it had shown some
_WATCH = """() => {
  const seen = (window.seenTexts = []);
  const look = () => {
    const replies = document.querySelectorAll('[data-testid="message-assistant"] .bubble');
    const text = replies.length ? replies[replies.length - 1].textContent : "";
    if (text !== (seen.at(-1) ?? "")) seen.push(text);
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


async def build(folder: Path, out: Path, environment: Mapping[str, str], mode: str = "production") -> None:
    """Build a Vite project as its deployer would, for one Supabase. Raises AssertionError with what Vite said.

    In mode "development" React is the one that checks: its StrictMode opens everything twice.
    """
    settings = {
        "NODE_ENV": mode,
        "VITE_SUPABASE_URL": environment["SUPABASE_URL"],
        "VITE_SUPABASE_PUBLISHABLE_KEY": environment["SUPABASE_PUBLISHABLE_KEY"],
        "VITE_FUNCTIONS": FUNCTIONS,
    }
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(node),
        str(VITE),
        "build",
        "--mode",
        mode,
        "--outDir",
        str(out),
        "--emptyOutDir",
        "--logLevel",
        "warn",
        cwd=folder,
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on loopback; gives its address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    """Serve a folder on loopback, as a static host does; gives its address."""

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / "index.html")

    async def no_icon(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/favicon.ico", no_icon)  # browsers ask for it where a page names none
    app.router.add_static("/", folder)
    async with running(app) as address:
        yield address


class Tab:
    """A tab. `problems` are the errors that the browser or the page's code complained of."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    @classmethod
    async def open(cls, context: BrowserContext, address: str, path: str = "") -> Tab:
        tab = cls(await context.new_page(), address)
        await tab.page.goto(address + path)
        return tab

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    async def sign_up(self) -> str:
        """Sign up somebody new; gives the email."""
        email = f"{uuid.uuid4().hex[:10]}@example.com"
        await self.page.get_by_label("Email").fill(email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Sign up").click()
        await expect(self.page.get_by_role("button", name="New session")).to_be_visible()
        return email

    async def new_session(self, function: str = "Chat") -> str:
        """Begin a session; gives its id."""
        before = self.page.url
        await self.page.get_by_role("radio", name=function).check(force=True)
        await self.page.get_by_role("button", name="New session", exact=True).click()
        await self.page.wait_for_url(lambda url: url != before and "#" in url)
        await expect(self.box).to_be_visible()
        return self.page.url.rpartition("#")[2]

    @property
    def box(self) -> Locator:
        """Where a message is typed."""
        return self.page.get_by_role("textbox", name="Message")

    @property
    def questions(self) -> Locator:
        return self.page.get_by_test_id("message-user")

    @property
    def replies(self) -> Locator:
        return self.page.get_by_test_id("message-assistant")

    async def say(self, text: str) -> None:
        """Type a message and press Enter."""
        await self.box.fill(text)
        await self.box.press("Enter")

    async def until_reply(self, status: str, *, within: float = 20) -> Locator:
        """Wait until the last reply has this status."""
        reply = self.replies.last
        with_status = expect(reply).to_have_attribute("data-status", status, timeout=within * 1000)
        await self.explained(with_status)
        return reply

    async def explained(self, expectation: Awaitable[None]) -> None:
        """Wait for an expectation; if it does not come true the error says what the page shows."""
        try:
            await expectation
        except AssertionError as error:
            error.add_note(f"the page shows:\n{await self.page.locator('body').inner_text()}")
            raise

    async def until_text(self, text: str | re.Pattern[str], *, within: float = 20) -> None:
        """Wait until the last reply's text contains this."""
        bubble = self.replies.last.locator(".bubble")
        await self.explained(expect(bubble).to_contain_text(text, timeout=within * 1000))

    async def reply_text(self) -> str:
        """The last reply's text. (Its innerText is empty before its first frame: messages have content-visibility.)"""
        return await self.replies.last.locator(".bubble").text_content() or ""

    async def hold(self, method: str, path: str) -> asyncio.Event:
        """Hold back the page's requests with this method to what `path` (a glob) names, until the event is set."""
        let_go = asyncio.Event()

        async def late(route: Route) -> None:
            if route.request.method == method:
                await let_go.wait()
            await route.continue_()

        await self.page.route(path, late)
        return let_go

    async def watch(self) -> None:
        """Begin to note every text that the last reply shows."""
        await self.page.evaluate(_WATCH)

    async def seen(self) -> list[str]:
        """Every text that the last reply showed since `watch`, in order."""
        return cast(list[str], await self.page.evaluate("window.seenTexts"))


def grows(texts: Sequence[str]) -> bool:
    """Whether each text continues the one before it."""
    return all(after.startswith(before) for before, after in pairwise(texts))
