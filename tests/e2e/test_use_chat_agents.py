"""`useChat` with a function that takes steps: tools, approval, stop, and a reload or a takeover in mid-tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Route, expect

from tests.e2e.site import Site
from tests.e2e.tab import Example
from tests.support.waiting import until as until_true
from tests.support.workers import worker_process, working

READER: Mapping[str, Any] = {"functions": "Reader", "handlers": "tests.support.reader"}
PAGE = "use-chat.html?function=Reader"


@pytest.fixture
async def chat(context: BrowserContext, examples_address: str) -> AsyncIterator[Example]:
    example = await Example.signed_up(context, examples_address, PAGE)
    await example.page.wait_for_function(
        "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/messages?')).length > 1"
    )
    yield example
    assert example.problems == []


def tool(chat: Example, name: str) -> Locator:
    return chat.replies.last.locator(f'[data-tool="{name}"]')


async def has_state(chat: Example, name: str, state: str) -> None:
    await chat.explained(expect(tool(chat, name)).to_have_attribute("data-state", state, timeout=20_000))


async def until(chat: Example, status: str) -> None:
    await chat.explained(expect(chat.status).to_have_attribute("data-status", status, timeout=20_000))


async def test_tools_are_shown(environment: dict[str, str], chat: Example, site: Site) -> None:
    async with working(environment, **READER):
        await chat.say(f"I look.; {site.fetch('held')}; {site.fetch('missing')}")
        await has_state(chat, "fetch_page", "input-available")
        await expect(tool(chat, "fetch_page")).to_contain_text("held")
        site.let_go("held")
        await has_state(chat, "fetch_page", "output-available")
        await has_state(chat, "fetch_page#2", "output-error")
        await until(chat, "ready")
        await expect(tool(chat, "fetch_page")).to_contain_text("Page held")
        await expect(chat.replies).to_have_count(1)


async def test_approval_goes_on_in_the_same_message(environment: dict[str, str], chat: Example) -> None:
    async with working(environment, **READER):
        await chat.say("ask Send it?")
        await has_state(chat, "send", "approval-requested")
        await until(chat, "ready")
        await tool(chat, "send").get_by_role("button", name="Approve").click()
        await has_state(chat, "send", "output-available")
        await until(chat, "ready")
        await chat.until_text("Sent.")
        await expect(chat.replies).to_have_count(1)


async def test_approval_from_another_tab(environment: dict[str, str], chat: Example, context: BrowserContext) -> None:
    async with working(environment, **READER):
        await chat.say("ask Send it?")
        await has_state(chat, "send", "approval-requested")
        other = Example(await context.new_page(), chat.address)
        await other.page.goto(chat.page.url)
        await has_state(other, "send", "approval-requested")
        await tool(other, "send").get_by_role("button", name="Approve").click()
        await other.until_text("Sent.")
        # the stream of the first tab has ended with the question: its next answer shows what was decided
        await tool(chat, "send").get_by_role("button", name="Reject").click()
        await chat.until_text("Sent.")
        await until(chat, "ready")
        await chat.page.reload()
        await chat.until_text("Sent.")
        await has_state(chat, "send", "output-available")
        await expect(chat.replies).to_have_count(1)


async def test_stop_in_the_middle_of_a_tool(environment: dict[str, str], chat: Example, site: Site) -> None:
    async with working(environment, **READER) as worker:
        await chat.say(site.fetch("held"))
        await has_state(chat, "fetch_page", "input-available")
        await chat.press("Stop")
        await until(chat, "ready")
        await until_true(lambda: not worker.jobs.count, 10)
        await chat.page.reload()
        await has_state(chat, "fetch_page", "output-error")


async def test_a_reload_in_the_middle_of_a_tool(environment: dict[str, str], chat: Example, site: Site) -> None:
    async with working(environment, **READER):
        await chat.say(f"{site.fetch('one')}; {site.fetch('held')}")
        await has_state(chat, "fetch_page#2", "input-available")
        await chat.page.reload()
        await has_state(chat, "fetch_page", "output-available")
        await has_state(chat, "fetch_page#2", "input-available")
        site.let_go("held")
        await has_state(chat, "fetch_page#2", "output-available")
        await until(chat, "ready")
        assert site.requests == {"one": 1, "held": 1}
        await expect(chat.replies).to_have_count(1)


async def test_a_reply_that_ends_while_the_page_is_loaded(
    environment: dict[str, str], chat: Example, site: Site
) -> None:
    """The page has read its messages when the tool ends, and looks for a running reply afterwards."""
    has_ended = asyncio.Event()
    read = 0

    async def read_late(route: Route) -> None:
        nonlocal read
        read += 1
        if read > 1:
            await has_ended.wait()
        await route.continue_()

    async with working(environment, **READER) as worker:
        await chat.say(site.fetch("held"))
        await has_state(chat, "fetch_page", "input-available")
        await chat.page.route("**/rest/v1/messages?*", read_late)
        await chat.page.reload()
        await has_state(chat, "fetch_page", "input-available")
        site.let_go("held")
        await until_true(lambda: not worker.jobs.count, 10)
        has_ended.set()
        await has_state(chat, "fetch_page", "output-available")
        await chat.until_text("It has 4 words.")
        await until(chat, "ready")
        await expect(chat.replies).to_have_count(1)


async def test_another_worker_goes_on_in_the_middle_of_a_tool(
    environment: dict[str, str], chat: Example, site: Site, tmp_path: Path
) -> None:
    async with worker_process(environment, tmp_path / "worker.log", lease_seconds=2, **READER) as first:
        await chat.say(f"I look.; {site.fetch('one')}; {site.fetch('held')}")
        await has_state(chat, "fetch_page#2", "input-available")
        await chat.watch()
        await first.kill()
    async with working(environment, lease_seconds=2, **READER):
        await site.asked_for("held", 2)
        site.let_go("held")
        await has_state(chat, "fetch_page#2", "output-available")
        await until(chat, "ready")
    assert site.requests["one"] == 1
    # the first step's text and tool were never taken back
    assert [text for text in await chat.seen() if not ("I look." in text and "Page one" in text)] == []
    await expect(chat.replies).to_have_count(1)
