"""`useChat` with the transport: send, stream, stop, regenerate, and resume after a reload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, expect

from devstack.model import ModelServer
from tests.e2e.tab import Example
from tests.support.workers import BY_DELTAS, worker_process, working

WORDS = [f"part{n:03d}" for n in range(120)]  # a token each
SENTENCE = " ".join(WORDS)
BY_TENS = f'[[text="{SENTENCE}" hold=10]]'
FOR_EVER = '[[text="one two three" stall=2 times=1]]'


@pytest.fixture
async def chat(context: BrowserContext, examples_address: str) -> AsyncIterator[Example]:
    example = await Example.signed_up(context, examples_address, "use-chat.html")
    # wait for the initial resume, which would otherwise find the first message
    await example.page.wait_for_function(
        "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/messages?')).length > 1"
    )
    yield example
    assert example.problems == []


async def until(chat: Example, status: str) -> None:
    await chat.explained(expect(chat.status).to_have_attribute("data-status", status, timeout=20_000))


async def test_a_reply_streams(environment: dict[str, str], model: ModelServer, chat: Example) -> None:
    async with working(environment, **BY_DELTAS):
        await chat.watch()
        await chat.say(BY_TENS)
        for last in WORDS[9:-1:10]:
            await chat.until_text(last)
            await until(chat, "streaming")
            model.let_go()
        await until(chat, "ready")
        assert await chat.reply_text() == SENTENCE
        seen = await chat.seen()
        assert len(seen) > 10
        assert [text for text in seen if not SENTENCE.startswith(text.strip())] == []
        await chat.say("[[text=second]]")
        await chat.until_text("second")
        await expect(chat.questions).to_have_count(2)
        await expect(chat.replies).to_have_count(2)


async def test_a_stopped_reply_can_be_regenerated(environment: dict[str, str], chat: Example) -> None:
    async with working(environment):
        await chat.say(FOR_EVER)
        await chat.until_text("one two")
        await chat.press("Stop")
        await until(chat, "ready")
        assert await chat.reply_text() == "one two"
        await chat.press("Regenerate")
        await until(chat, "ready")
        await chat.until_text("one two three")
        await expect(chat.replies).to_have_count(1)
        # so are the rows
        await chat.page.reload()
        await chat.until_text("one two three")
        await expect(chat.questions).to_have_count(1)
        await expect(chat.replies).to_have_count(1)


async def test_a_reload_resumes_a_running_reply(environment: dict[str, str], model: ModelServer, chat: Example) -> None:
    async with working(environment):
        await chat.say(BY_TENS)
        await chat.until_text("part009")
        await chat.page.reload()
        await chat.until_text("part009")
        await until(chat, "streaming")
        model.let_go(times=len(WORDS))
        await until(chat, "ready")
        assert await chat.reply_text() == SENTENCE
        await expect(chat.questions).to_have_count(1)
        await expect(chat.replies).to_have_count(1)


async def test_a_failed_reply_is_an_error_and_can_be_regenerated(environment: dict[str, str], chat: Example) -> None:
    async with working(environment, max_failures=1):
        await chat.say(f'[[text="{SENTENCE}" cut=13 times=1]]')
        await until(chat, "error")
        await expect(chat.page.get_by_role("alert")).to_be_visible()
        await chat.press("Regenerate")
        await until(chat, "ready")
        assert await chat.reply_text() == SENTENCE
        await expect(chat.replies).to_have_count(1)


async def test_another_worker_takes_over(environment: dict[str, str], chat: Example, tmp_path: Path) -> None:
    async with worker_process(environment, tmp_path / "worker.log", lease_seconds=2) as first:
        await chat.watch()
        await chat.say(f'[[text="{SENTENCE}" delay=0.01 stall=41 times=1]]')
        await chat.until_text("part030")
        await first.kill()
    async with working(environment, lease_seconds=2):
        await until(chat, "ready")
    assert await chat.reply_text() == SENTENCE
    assert [text for text in await chat.seen() if not SENTENCE.startswith(text.strip())] == []
    await expect(chat.replies).to_have_count(1)
