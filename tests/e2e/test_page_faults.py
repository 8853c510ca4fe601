"""The page under faults of the network, an attempt or a worker, and with two tabs on one session."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.async_api import BrowserContext, Locator, expect

from devstack.model import ModelServer
from tests.e2e.tab import Tab, grows
from tests.support.workers import worker_process, working

SENTENCE = " ".join(f"part{n:03d}" for n in range(120))
SLOWLY = f'[[text="{SENTENCE}" delay=0.03]]'


async def test_two_tabs_agree(environment: dict[str, str], tab: Tab, context: BrowserContext) -> None:
    async with working(environment):
        session_id = await tab.start()
        other = await Tab.open(context, tab.address, f"#{session_id}")
        await expect(other.box).to_be_visible()
        await other.watch()
        await tab.say(SLOWLY)
        await other.until_text("part005")
        await tab.until_reply("done")
        await other.until_reply("done")
        assert await other.reply_text() == await tab.reply_text() == SENTENCE
        assert grows(await other.seen())

        # messages and stops of one tab appear in the other
        await other.say('[[text="one two three" stall=2]]')
        await expect(tab.questions).to_have_count(2)
        await tab.until_text("one two")
        await tab.press("Stop")
        await tab.until_reply("cancelled")
        await other.until_reply("cancelled")

        # so do titles
        await tab.rename_session("Named in one tab")
        await expect(other.page.get_by_role("heading", name="Named in one tab")).to_be_visible()
    assert other.problems == []


async def test_a_reply_survives_a_lost_network(environment: dict[str, str], tab: Tab, context: BrowserContext) -> None:
    async with working(environment):
        await tab.start()
        await tab.watch()
        await tab.say(SLOWLY)
        await tab.until_text("part005")
        await context.set_offline(True)
        await expect(tab.page.get_by_text("Connection lost")).to_be_visible()
        await context.set_offline(False)
        await expect(tab.page.get_by_text("Connection lost")).to_have_count(0)
        await tab.until_reply("done")
        assert await tab.reply_text() == SENTENCE
        assert grows(await tab.seen())
    tab.problems.clear()  # the browser reports the requests that failed offline


async def test_an_unsent_message_can_be_resent(environment: dict[str, str], tab: Tab, context: BrowserContext) -> None:
    async with working(environment):
        await tab.start()
        await expect(tab.page.get_by_text("Send a message to start")).to_be_visible()
        await context.set_offline(True)
        await tab.say("[[text=arrived]]")
        await expect(tab.questions.last).to_contain_text("Waiting for the connection")
        await tab.press("Do not send")
        await expect(tab.questions.last).to_contain_text("Not sent: ")
        await context.set_offline(False)
        await tab.press("Send again")
        await tab.until_reply("done")
        assert await tab.reply_text() == "arrived"
        await expect(tab.questions).to_have_count(1)
    tab.problems.clear()  # as above


async def two_sessions(tab: Tab) -> Locator:
    """Sign up and create a session of `Code` and one of `Chat`, which is shown. Returns their buttons."""
    await tab.start("Code")
    await tab.new_session("Chat")
    return tab.session_buttons


async def test_an_unsent_message_becomes_part_of_the_draft(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    sessions = await two_sessions(tab)
    await expect(tab.page.get_by_text("Send a message to start")).to_be_visible()
    await context.set_offline(True)
    await tab.say("Lost?")
    await expect(tab.questions.last).to_contain_text("Waiting for the connection")
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


async def test_a_message_that_arrives_late_leaves_the_draft(environment: dict[str, str], tab: Tab) -> None:
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


async def test_signing_out_deletes_drafts_in_all_tabs(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    session_id = await tab.start()
    other = await Tab.open(context, tab.address, f"#{session_id}")
    await other.page.route("**/rest/v1/messages?*", lambda route: route.abort())
    await other.say("Mine only")
    await expect(other.questions.last).to_contain_text("Not sent")
    assert "Mine only" in await other.page.evaluate("Object.values(sessionStorage).join()")
    await tab.press("Sign out")
    await expect(other.page.get_by_label("Password")).to_be_visible()
    assert await other.page.evaluate("sessionStorage.length") == 0


async def test_a_failed_reply_can_be_retried(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, max_failures=1):
        await tab.start()
        await tab.say(f'[[text="{SENTENCE}" cut=12 times=1]]')
        reply = await tab.until_reply("failed")
        await expect(reply.get_by_role("alert")).to_be_visible()
        await reply.get_by_role("button", name="Retry").click()
        await tab.until_reply("done")
        assert await tab.reply_text() == SENTENCE
        await expect(tab.replies).to_have_count(1)


async def test_questions_wait_for_a_worker(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
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
    async with worker_process(environment, tmp_path / "worker.log", lease_seconds=2) as first:
        await tab.start()
        await tab.watch()
        await tab.say(f'[[text="{SENTENCE}" delay=0.01 stall=40 times=1]]')
        await tab.until_text("part030")
        await first.kill()
    async with working(environment, lease_seconds=2):
        await tab.until_reply("done")
    assert await tab.reply_text() == SENTENCE
    await expect(tab.replies).to_have_count(1)
    # the page never showed anything but the start of this reply
    seen = await tab.seen()
    assert [text for text in seen if not SENTENCE.startswith(text.strip())] == []
    assert len(seen) > 3


async def test_an_edited_question_is_asked_again(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment):
        await tab.start()
        await tab.say('[[text="one two three" stall=2]]')
        await tab.until_text("one two")
        await tab.questions.last.get_by_role("button", name="Edit").click()
        await expect(tab.box).to_have_value('[[text="one two three" stall=2]]')
        await tab.say("[[text=better]]")
        await tab.until_reply("done")
        assert await tab.reply_text() == "better"
        await expect(tab.questions).to_have_count(2)
        await expect(tab.replies.first).to_have_attribute("data-status", "cancelled")
        await tab.replies.last.get_by_role("button", name="Regenerate").click()
        await model.until(lambda m: [e.prompt.last for e in m.requests].count("[[text=better]]") == 2, within=20)
        await tab.until_reply("done")


async def test_deleting_a_file_in_one_tab_removes_it_from_the_other(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    files = '[{"path": "a.py", "content": "x = 1"}, {"path": "b.py", "content": "y = 1"}]'
    async with working(environment):
        session_id = await tab.start("Code")
        await tab.say(f'[[json={{"reply": "Made.", "files": {files}}}]]')
        await tab.until_reply("done")
    other = await Tab.open(context, tab.address, f"#{session_id}")
    remaining = other.page.get_by_test_id("files").get_by_role("button")
    await expect(remaining).to_have_text(["a.py", "b.py"])

    async def delete(path: str) -> None:
        await tab.page.get_by_test_id("files").get_by_role("button", name=path).click()
        await tab.tools(path).get_by_role("button", name="Delete").click()
        await tab.press("Delete file")
        await expect(tab.page.get_by_test_id("files").get_by_role("button", name=path)).to_have_count(0)

    await delete("b.py")
    await expect(remaining).to_have_text(["a.py"])

    # an edit in the other tab outlives the file
    await other.tools("a.py").get_by_role("button", name="Edit").click()
    editor = other.editor("a.py")
    await editor.fill("x = 'mine'")
    await delete("a.py")
    await expect(tab.page.get_by_role("complementary", name="Code files")).to_have_count(0)
    await expect(other.page.get_by_role("alert")).to_contain_text("This file was deleted")
    await expect(editor).to_have_value("x = 'mine'")
    await other.press("Save as new file")
    await expect(other.page.get_by_test_id("file-content")).to_have_text("x = 'mine'")
    await expect(tab.page.get_by_test_id("file-content")).to_have_text("x = 'mine'")
    assert other.problems == []


async def test_a_new_message_moves_its_session_to_the_top(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    await tab.sign_up()
    for title in ("Older", "Newer"):
        await tab.new_session()
        await tab.rename_session(title)
        await expect(tab.session_buttons.first).to_contain_text(title)
    other = await Tab.open(context, tab.address)
    await expect(other.session_buttons).to_contain_text(["Newer", "Older"])
    await tab.session_buttons.last.click()
    await expect(tab.page.get_by_role("heading", name="Older")).to_be_visible()
    await tab.say("Hello?")
    await expect(tab.session_buttons).to_contain_text(["Older", "Newer"])
    await expect(other.session_buttons).to_contain_text(["Older", "Newer"])
    assert other.problems == []
