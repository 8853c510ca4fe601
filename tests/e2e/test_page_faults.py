"""The page when something breaks: the network, an attempt, a worker; and two tabs on one session."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Locator, expect

from devstack.migrations import PROJECT
from devstack.model import ModelServer
from tests.e2e.tab import Tab, grows
from tests.support.workers import working

SENTENCE = " ".join(f"part{n:03d}" for n in range(120))
SLOWLY = f'[[text="{SENTENCE}" delay=0.03]]'


@asynccontextmanager
async def worker_process(environment: Mapping[str, str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that can be killed, with a short lease."""
    settings = {
        "BRIDGE_LEASE_SECONDS": "2",
        "BRIDGE_CHECKPOINT_SECONDS": "0.2",
        "BRIDGE_HEALTH_PORT": "0",
        "BRIDGE_HEALTH_HOST": "127.0.0.1",
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bridge.cli",
            "run",
            cwd=PROJECT,
            env={**os.environ, **environment, **settings},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_two_tabs_agree(environment: dict[str, str], tab: Tab, context: BrowserContext) -> None:
    async with working(environment):
        await tab.sign_up()
        session_id = await tab.new_session()
        other = await Tab.open(context, tab.address, f"#{session_id}")
        await expect(other.box).to_be_visible()
        await other.watch()
        await tab.say(SLOWLY)
        await other.until_text("part005")
        await tab.until_reply("done")
        await other.until_reply("done")
        assert await other.reply_text() == await tab.reply_text() == SENTENCE
        assert grows(await other.seen())

        # what one tab sends and stops, the other shows
        await other.say('[[text="one two three" stall=2]]')
        await expect(tab.questions).to_have_count(2)
        await tab.until_text("one two")
        await tab.page.get_by_role("button", name="Stop").click()
        await tab.until_reply("cancelled")
        await other.until_reply("cancelled")

        # and so with a title
        await tab.page.get_by_role("button", name="Rename session").click()
        await tab.page.get_by_label("Title of the session").fill("Named in one tab")
        await tab.page.get_by_role("button", name="Rename", exact=True).click()
        await expect(other.page.get_by_role("heading", name="Named in one tab")).to_be_visible()
    assert other.problems == []


async def test_the_network_goes_and_comes_back(environment: dict[str, str], tab: Tab, context: BrowserContext) -> None:
    async with working(environment):
        await tab.sign_up()
        await tab.new_session()
        await tab.watch()
        await tab.say(SLOWLY)
        await tab.until_text("part005")
        await context.set_offline(True)
        await expect(tab.page.get_by_text("No live connection")).to_be_visible()
        await context.set_offline(False)
        await expect(tab.page.get_by_text("No live connection")).to_have_count(0)
        await tab.until_reply("done")
        assert await tab.reply_text() == SENTENCE
        assert grows(await tab.seen())
    tab.problems.clear()  # the browser says that requests failed while there was no network


async def test_a_message_written_without_network_is_sent_later(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    async with working(environment):
        await tab.sign_up()
        await tab.new_session()
        await expect(tab.page.get_by_text("Say something to begin")).to_be_visible()
        await context.set_offline(True)
        await tab.say("[[text=arrived]]")
        await expect(tab.questions.last).to_contain_text("Not sent")
        await context.set_offline(False)
        await tab.page.get_by_role("button", name="Send again").click()
        await tab.until_reply("done")
        assert await tab.reply_text() == "arrived"
        await expect(tab.questions).to_have_count(1)
    tab.problems.clear()  # as above


async def two_sessions(tab: Tab) -> Locator:
    """Sign up and begin a session of `Code` and one of `Chat`, which is shown; gives what opens them."""
    await tab.sign_up()
    await tab.new_session("Code")
    await tab.new_session("Chat")
    return tab.page.get_by_test_id("sessions").locator(".open")


async def test_a_message_that_was_not_sent_is_not_lost(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    sessions = await two_sessions(tab)
    await expect(tab.page.get_by_text("Say something to begin")).to_be_visible()
    await context.set_offline(True)
    await tab.say("Lost?")
    await expect(tab.questions.last).to_contain_text("Not sent")
    await tab.box.fill("half a question")
    await sessions.filter(has_text="Code").click()
    await expect(tab.box).to_have_value("")
    await sessions.filter(has_text="Chat").click()
    await expect(tab.box).to_have_value("Lost?\n\nhalf a question")
    await context.set_offline(False)
    await tab.page.reload()
    await expect(tab.box).to_have_value("Lost?\n\nhalf a question")
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")  # the database has it
    await tab.page.reload()
    await expect(tab.questions).to_have_text([re.compile("Lost?.*half a question", re.DOTALL)])
    await expect(tab.box).to_have_value("")
    tab.problems.clear()  # as above


async def test_a_message_that_arrives_after_all_is_no_draft(environment: dict[str, str], tab: Tab) -> None:
    arrives = await tab.hold("POST", "**/rest/v1/messages?*")
    sessions = await two_sessions(tab)
    await tab.say("On its way")
    await expect(tab.questions.last).to_contain_text("Sending")
    await tab.box.fill("half a question")
    await sessions.filter(has_text="Code").click()
    await expect(tab.box).to_have_value("")
    await sessions.filter(has_text="Chat").click()
    await expect(tab.box).to_have_value("On its way\n\nhalf a question")
    arrives.set()
    await expect(tab.questions).to_have_count(1)
    await expect(tab.box).to_have_value("half a question")


async def test_what_was_not_sent_is_forgotten_in_all_tabs_when_one_signs_out(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    await tab.sign_up()
    session_id = await tab.new_session()
    other = await Tab.open(context, tab.address, f"#{session_id}")
    await other.page.route("**/rest/v1/messages?*", lambda route: route.abort())
    await other.say("Mine alone")
    await expect(other.questions.last).to_contain_text("Not sent")
    assert "Mine alone" in await other.page.evaluate("Object.values(sessionStorage).join()")
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(other.page.get_by_label("Password")).to_be_visible()
    assert await other.page.evaluate("sessionStorage.length") == 0


async def test_a_failed_reply_is_retried(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, max_failures=1):
        await tab.sign_up()
        await tab.new_session()
        await tab.say(f'[[text="{SENTENCE}" cut=12 times=1]]')
        reply = await tab.until_reply("failed")
        await expect(reply.get_by_role("alert")).to_be_visible()
        await reply.get_by_role("button", name="Retry").click()
        await tab.until_reply("done")
        assert await tab.reply_text() == SENTENCE
        await expect(tab.replies).to_have_count(1)


async def test_a_question_waits_for_a_worker(environment: dict[str, str], tab: Tab) -> None:
    await tab.sign_up()
    await tab.new_session()
    await tab.say("[[text=first]]")
    await tab.say("[[text=second]]")
    await expect(tab.questions).to_have_count(2)
    await expect(tab.questions.last).to_contain_text("Queued")
    async with working(environment):
        await expect(tab.replies).to_have_count(2)
        await tab.until_reply("done")
    await expect(tab.replies.first).to_contain_text("first")
    await expect(tab.replies.last).to_contain_text("second")


async def test_another_worker_takes_over(
    environment: dict[str, str], model: ModelServer, tab: Tab, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    async with worker_process(environment, log) as first:
        await tab.sign_up()
        await tab.new_session()
        await tab.watch()
        await tab.say(f'[[text="{SENTENCE}" delay=0.01 stall=40 times=1]]')
        try:
            await tab.until_text("part030")
        except AssertionError:
            pytest.fail(log.read_text())
        first.kill()
        await first.wait()
    async with working(environment, lease_seconds=2):
        await tab.until_reply("done")
    assert await tab.reply_text() == SENTENCE
    await expect(tab.replies).to_have_count(1)
    # at no time was there anything but the beginning of the one reply
    seen = await tab.seen()
    assert [text for text in seen if not SENTENCE.startswith(text.strip())] == []
    assert len(seen) > 3


async def test_a_question_is_asked_in_other_words(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment):
        await tab.sign_up()
        await tab.new_session()
        await tab.say('[[text="one two three" stall=2]]')
        await tab.until_text("one two")
        await tab.questions.last.get_by_role("button", name="Edit").click()
        await expect(tab.box).to_have_value('[[text="one two three" stall=2]]')
        await tab.say("[[text=better]]")
        await tab.until_reply("done")
        assert await tab.reply_text() == "better"
        await expect(tab.questions).to_have_count(2)
        await expect(tab.replies.first).to_have_attribute("data-status", "cancelled")
        await tab.replies.last.get_by_role("button", name="Write anew").click()
        await model.until(lambda m: [e.prompt.last for e in m.requests].count("[[text=better]]") == 2, within=20)
        await tab.until_reply("done")


async def test_a_file_deleted_in_one_tab_goes_from_the_other(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    files = '[{"path": "a.py", "content": "x = 1"}, {"path": "b.py", "content": "y = 1"}]'
    async with working(environment):
        await tab.sign_up()
        session_id = await tab.new_session("Code")
        await tab.say(f'[[json={{"reply": "Made.", "files": {files}}}]]')
        await tab.until_reply("done")
    other = await Tab.open(context, tab.address, f"#{session_id}")
    there = other.page.get_by_test_id("files").get_by_role("button")
    await expect(there).to_have_text(["a.py", "b.py"])

    async def delete(path: str) -> None:
        await tab.page.get_by_test_id("files").get_by_role("button", name=path).click()
        await tab.page.get_by_role("group", name=f"What to do with {path}").get_by_role("button", name="Delete").click()
        await tab.page.get_by_role("button", name="Delete file").click()
        await expect(tab.page.get_by_test_id("files").get_by_role("button", name=path)).to_have_count(0)

    await delete("b.py")
    await expect(there).to_have_text(["a.py"])

    # what somebody types there is not lost with the file
    await other.page.get_by_role("group", name="What to do with a.py").get_by_role("button", name="Edit").click()
    editor = other.page.get_by_role("textbox", name="Text of a.py")
    await editor.fill("x = 'mine'")
    await delete("a.py")
    await expect(tab.page.get_by_role("complementary", name="Code files")).to_have_count(0)
    await expect(other.page.get_by_role("alert")).to_contain_text("This file has been deleted")
    await expect(editor).to_have_value("x = 'mine'")
    await other.page.get_by_role("button", name="Save as a new file").click()
    await expect(other.page.get_by_test_id("file-content")).to_have_text("x = 'mine'")
    await expect(tab.page.get_by_test_id("file-content")).to_have_text("x = 'mine'")
    assert other.problems == []


async def test_the_session_with_the_newest_message_comes_first(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    await tab.sign_up()
    sessions = tab.page.get_by_test_id("sessions").locator(".open")
    for title in ("Older", "Newer"):
        await tab.new_session()
        await tab.page.get_by_role("button", name="Rename session").first.click()
        await tab.page.get_by_label("Title of the session").fill(title)
        await tab.page.get_by_role("button", name="Rename", exact=True).click()
        await expect(sessions.first).to_contain_text(title)
    other = await Tab.open(context, tab.address)
    elsewhere = other.page.get_by_test_id("sessions").locator(".open")
    await expect(elsewhere).to_contain_text(["Newer", "Older"])
    await sessions.last.click()
    await expect(tab.page.get_by_role("heading", name="Older")).to_be_visible()
    await tab.say("Hello?")
    await expect(sessions).to_contain_text(["Older", "Newer"])
    await expect(elsewhere).to_contain_text(["Older", "Newer"])
    assert other.problems == []
