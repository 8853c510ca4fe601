"""The pages of the gallery: each streams, stops, and shows everything again after a reload."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import BrowserContext, expect

from devstack.migrations import PROJECT
from devstack.model import ModelServer
from tests.e2e.tab import Example
from tests.support.workers import BY_DELTAS, working

SENTENCE = " ".join(f"part{n:03d}" for n in range(60))

Opener = Callable[[str], Awaitable[Example]]


@pytest.fixture
async def signed_up(context: BrowserContext, examples_address: str) -> AsyncIterator[Opener]:
    opened: list[Example] = []

    async def signed_up(name: str) -> Example:
        opened.append(await Example.signed_up(context, examples_address, name))
        return opened[-1]

    yield signed_up
    assert [problem for example in opened for problem in example.problems] == []


@pytest.mark.parametrize("name", ["plain.html", "react.html"])
async def test_a_conversation_survives_a_reload(
    environment: dict[str, str], model: ModelServer, signed_up: Opener, name: str
) -> None:
    async with working(environment, **BY_DELTAS):
        page = await signed_up(name)
        await page.say(f'[[text="{SENTENCE}" hold=30]]')
        await page.until_text("part020")
        await expect(page.replies.last).not_to_contain_text("part059")  # it streams
        model.let_go(times=len(SENTENCE))
        await page.until_reply("done")
        await page.until_text(SENTENCE)
    # A first delta that overtakes its row's event is a gap, so this worker writes checkpoints.
    async with working(environment):
        await page.say('[[text="one two three four five six seven" stall=6]]')
        await page.until_text("one two")
        await page.press("Stop")
        await page.until_reply("cancelled")
        await page.page.reload()
        await page.until_reply("cancelled")
        await expect(page.questions).to_have_count(2)
        await expect(page.replies.first).to_contain_text(SENTENCE)


async def test_react_shows_files_and_typed_results(environment: dict[str, str], signed_up: Opener) -> None:
    async with working(environment):
        page = await signed_up("react.html")
        await page.say("Write fizzbuzz in Python, please.")
        await page.until_reply("done")
        await page.until_text("1 files")
        await expect(page.page.get_by_role("group")).to_contain_text("def fizzbuzz(n: int) -> str:")


async def test_react_clears_the_messages_when_the_user_changes(
    environment: dict[str, str], signed_up: Opener, context: BrowserContext
) -> None:
    page = await signed_up("react.html")
    async with working(environment):
        await page.say("Mine only")
        await page.until_reply("done")
    await page.page.evaluate("localStorage.clear()")  # no sign-out, and so no event
    await signed_up("react.html")  # in another tab, which notifies the first one
    await expect(page.questions).to_have_count(0)
    await page.say("Whose?")
    await expect(page.questions).to_have_attribute("data-status", "not_sent")
    page.problems.clear()  # the browser reports the rejected request


def test_the_gallery_prints_the_tested_files() -> None:
    gallery = (PROJECT / "docs" / "gallery.md").read_text()
    for name in ("plain.html", "react.tsx", "use-chat.tsx", "sign-in.ts"):
        code = (PROJECT / "client" / "examples" / name).read_text()
        assert code in gallery, f"docs/gallery.md does not match client/examples/{name}"
