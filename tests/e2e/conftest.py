"""A browser, and the page of `web/` built for the embedded Supabase."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from bridge.functions import Functions
from bridge.rows import encode_description
from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.e2e.site import Site
from tests.e2e.tab import FUNCTIONS, Tab, build, running, served
from tests.support import database

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# the timeout of actions and expectations, in ms
_PATIENCE_MS = 15_000


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium. Without it these tests are skipped, or fail if CI=true."""
    binary = next((found for found in map(shutil.which, _NAMES) if found), None)
    if binary is None:
        reason = f"no Chromium on the PATH (tried {', '.join(_NAMES)})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        expect.set_options(timeout=_PATIENCE_MS)
        chromium = await playwright.chromium.launch(executable_path=binary, args=list(_ARGUMENTS))
        yield chromium
        await chromium.close()


@pytest.fixture(scope="session")
async def page_address(stack: Stack, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of the page of `web/`, built for the embedded Supabase."""
    out = tmp_path_factory.mktemp("page")
    await build(PROJECT / "web", out, stack.environment)
    async with served(out) as address:
        yield address


@pytest.fixture(scope="session")
async def examples_address(
    stack: Stack, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The URL of the pages of `client/examples`, built for the embedded Supabase."""
    out = tmp_path_factory.mktemp("examples")
    await build(PROJECT / "client" / "examples", out, stack.environment)
    async with served(out) as address:
        yield address


@pytest.fixture
async def described(stack: Stack) -> None:
    """The page offers the shipped functions, also where no worker runs."""
    loaded = Functions.load(FUNCTIONS.split(","), env={"LLM_BASE_URL": "-", "LLM_API_KEY": "-", "LLM_MODEL": "-"})
    items = [encode_description(description) for description in loaded.descriptions.values()]
    await loaded.close()
    async with database.database(stack.admin_url) as db:
        await db.execute("delete from public.functions")
        await db.execute("select public.bridge_describe(%s)", (json.dumps(items),))


@pytest.fixture
async def context(browser: Browser, stack: Stack, described: None) -> AsyncIterator[BrowserContext]:
    """A browser profile for one test. Its users are deleted afterwards."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(_PATIENCE_MS)
    yield context
    await context.close()
    await database.delete_all_users(stack.admin_url)


@pytest.fixture
async def tab(context: BrowserContext, page_address: str) -> AsyncIterator[Tab]:
    """The page, signed out. The test fails if the page or the browser reports an error."""
    tab = await Tab.open(context, page_address)
    yield tab
    problems: list[Any] = tab.problems
    assert problems == []


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A website for tools to fetch."""
    site = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.serve)
    async with running(app) as address:
        site.address = address
        yield site
