"""Browser tabs on the page of `web/` and the pages of `client/examples`, and the servers that serve them."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, cast

from aiohttp import web
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, Route, expect

from devstack.migrations import PROJECT
from devstack.node import node
from tests.support.users import PASSWORD

FUNCTIONS = "Chat,Code,Compare,Title"
VITE = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"

# records every text of the last element that matches the selector
_WATCH = """(selector) => {
  const seen = (window.seenTexts = []);
  const check = () => {
    const text = [...document.querySelectorAll(selector)].at(-1)?.textContent ?? "";
    if (text !== (seen.at(-1) ?? "")) seen.push(text);
  };
  new MutationObserver(check).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


async def run_node(
    *arguments: str | Path, cwd: Path = PROJECT, within: float = 120, **environment: str
) -> tuple[int, str, str]:
    """Run a script with Node. Returns its exit code, stdout and stderr. Raises TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *(await asyncio.to_thread(node), *arguments),
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(within):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def build(folder: Path, out: Path, environment: Mapping[str, str], mode: str = "production") -> None:
    """Build a Vite project for one Supabase. Raises AssertionError with Vite's output.

    In mode "development", React's StrictMode mounts every component twice.
    """
    code, output, errors = await run_node(
        *(VITE, "build", "--mode", mode, "--outDir", out, "--emptyOutDir", "--logLevel", "warn"),
        cwd=folder,
        NODE_ENV=mode,
        VITE_SUPABASE_URL=environment["SUPABASE_URL"],
        VITE_SUPABASE_PUBLISHABLE_KEY=environment["SUPABASE_PUBLISHABLE_KEY"],
    )
    assert code == 0, output + errors


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on loopback. Yields its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    """Serve a folder on loopback as a static host does. Yields its URL."""

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / "index.html")

    async def no_icon(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/favicon.ico", no_icon)  # browsers request it from pages that name no icon
    app.router.add_static("/", folder)
    async with running(app) as address:
        yield address


class Tab:
    """A tab on the page of `web/`. `problems` are the errors reported by the browser and the page's scripts."""

    question: ClassVar = '[data-testid="message-user"]'
    reply: ClassVar = '[data-testid="message-assistant"]'
    text: ClassVar = '[data-testid="message-assistant"] .bubble'

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        # the REST URL, and the headers of the signed-in user
        self._requests: asyncio.Future[tuple[str, dict[str, str]]] = asyncio.get_running_loop().create_future()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        page.on("request", self._read_headers)
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    @classmethod
    async def open(cls, context: BrowserContext, address: str, path: str = "") -> Tab:
        tab = cls(await context.new_page(), address)
        await tab.page.goto(address + path)
        return tab

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _read_headers(self, request: Request) -> None:
        url, found, _ = request.url.partition("/rest/v1/")
        names = ("apikey", "authorization")
        if not found or not all(name in request.headers for name in names):
            return  # not REST, or a preflight
        if self._requests.done():
            self._requests = asyncio.get_running_loop().create_future()
        self._requests.set_result((url + found, {name: request.headers[name] for name in names}))

    async def press(self, name: str, *, exact: bool = False) -> None:
        """Click the button with this name."""
        await self.page.get_by_role("button", name=name, exact=exact).click()

    async def sign_in(self, email: str, button: str = "Sign in") -> None:
        """Fill in and submit the sign-in form."""
        await self.page.get_by_label("Email").fill(email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.press(button)

    async def sign_up(self) -> str:
        """Sign up a new user. Returns the email."""
        email = f"{uuid.uuid4().hex[:10]}@example.com"
        await self.press("Sign up")  # the other form
        await self.sign_in(email, "Sign up")
        await expect(self.page.get_by_role("button", name="New session")).to_be_visible()
        return email

    async def new_session(self, function: str = "Chat") -> str:
        """Create a session without messages, as another client does, and open it. Returns its id."""
        session_id = str(uuid.uuid4())
        url, headers = await asyncio.wait_for(self._requests, 15)
        values = {"id": session_id, "function": function}
        response = await self.page.request.post(f"{url}sessions", headers=headers, data=values)
        assert response.ok, await response.text()
        await self.page.evaluate("(id) => { location.hash = id; }", session_id)
        await expect(self.page.locator(f'[data-session="{session_id}"]')).to_be_visible()
        await expect(self.box).to_be_visible()
        return session_id

    async def begin(self, function: str, text: str) -> str:
        """Start a session of a function with its first message. Returns its id."""
        await self.press("New session", exact=True)
        await self.page.get_by_role("radio", name=function).check(force=True)
        await self.say(text)
        await self.page.wait_for_url(re.compile("#."))
        return self.page.url.rpartition("#")[2]

    async def start(self, function: str = "Chat") -> str:
        """Sign up a new user and create a session. Returns its id."""
        await self.sign_up()
        return await self.new_session(function)

    async def rename_session(self, title: str) -> None:
        """Rename the first session of the list."""
        await self.page.get_by_role("button", name="Rename session").first.click()
        await self.page.get_by_label("Session title").fill(title)
        await self.press("Rename", exact=True)

    @property
    def sessions(self) -> Locator:
        """The items of the session list."""
        return self.page.get_by_test_id("sessions").get_by_role("listitem")

    @property
    def session_buttons(self) -> Locator:
        """The buttons that open a session."""
        return self.sessions.locator(".open")

    def tools(self, path: str) -> Locator:
        """The buttons of a code file."""
        return self.page.get_by_role("group", name=f"Actions for {path}")

    def editor(self, path: str) -> Locator:
        return self.page.get_by_role("textbox", name=f"Edit {path}")

    @property
    def box(self) -> Locator:
        """The message box."""
        return self.page.get_by_role("textbox", name="Message")

    @property
    def questions(self) -> Locator:
        return self.page.locator(self.question)

    @property
    def replies(self) -> Locator:
        return self.page.locator(self.reply)

    async def say(self, text: str) -> None:
        """Type a message and press Enter."""
        await self.box.fill(text)
        await self.box.press("Enter")

    async def until_reply(self, status: str, *, within: float = 20) -> Locator:
        """Wait until the last reply has this status."""
        reply = self.replies.last
        await self.explained(expect(reply).to_have_attribute("data-status", status, timeout=within * 1000))
        return reply

    async def explained(self, expectation: Awaitable[None]) -> None:
        """Wait for an expectation. If it fails, the error includes the page's text."""
        try:
            await expectation
        except AssertionError as error:
            error.add_note(f"the page shows:\n{await self.page.locator('body').inner_text()}")
            raise

    async def until_text(self, text: str | re.Pattern[str], *, within: float = 20) -> None:
        """Wait until the last reply's text contains this."""
        await self.explained(expect(self.page.locator(self.text).last).to_contain_text(text, timeout=within * 1000))

    async def reply_text(self) -> str:
        """The last reply's text. (Its innerText is empty before its first frame: messages have content-visibility.)"""
        return await self.page.locator(self.text).last.text_content() or ""

    async def hold(self, method: str, path: str) -> asyncio.Event:
        """Hold back requests with this method to `path` (a glob) until the returned event is set."""
        release = asyncio.Event()

        async def late(route: Route) -> None:
            if route.request.method == method:
                await release.wait()
            await route.continue_()

        await self.page.route(path, late)
        return release

    def foreign_requests(self, environment: Mapping[str, str]) -> list[str]:
        """A list that collects the URLs requested from now on from anything but the page and its Supabase."""
        own = (self.address, environment["SUPABASE_URL"], "blob:", "data:")
        requests: list[str] = []
        self.page.on("request", lambda request: None if request.url.startswith(own) else requests.append(request.url))
        return requests

    async def watch(self) -> None:
        """Start recording every text of the last reply."""
        await self.page.evaluate(_WATCH, self.text)

    async def seen(self) -> list[str]:
        """Every text of the last reply since `watch`, in order."""
        return cast(list[str], await self.page.evaluate("window.seenTexts"))


class Example(Tab):
    """A tab on a page of `client/examples`. They all have a log, a message box, and buttons to send and stop."""

    question = '[data-role="user"]'
    reply = text = '[data-role="assistant"]'

    @classmethod
    async def signed_up(cls, context: BrowserContext, address: str, name: str) -> Example:
        """Open a page as a new user, in a new session."""
        example = cls(await context.new_page(), address)
        await example.page.goto(f"{address}{name}")
        await example.sign_in(f"{uuid.uuid4().hex[:10]}@example.com", "Sign up")
        await expect(example.box).to_be_visible()
        return example

    @property
    def status(self) -> Locator:
        """The element with the chat's status, on pages that show one for the whole chat."""
        return self.page.get_by_role("log")

    async def reply_text(self) -> str:
        return (await super().reply_text()).strip()


def grows(texts: Sequence[str]) -> bool:
    """Whether each text starts with the one before it."""
    return all(after.startswith(before) for before, after in pairwise(texts))
