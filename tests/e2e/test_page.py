"""The page in a browser: sign-up, and replies that stream, stop and survive a reload."""

from __future__ import annotations

import re

from playwright.async_api import expect

from devstack.model import ModelServer
from tests.e2e.tab import Tab, grows
from tests.support.workers import BY_DELTAS, working

WORDS = [f"part{n:02d}" for n in range(60)]  # a token each
SENTENCE = " ".join(WORDS)
FOR_EVER = '[[text="one two three four five six" delay=0.05 stall=4]]'


async def test_a_reply_streams(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment, **BY_DELTAS):
        await tab.start()
        await tab.watch()
        await tab.say(f'[[text="{SENTENCE}" hold=5]]')
        await expect(tab.questions.last).to_contain_text("part59")  # immediately, before the reply
        for last in WORDS[4:-1:5]:
            await tab.until_text(last)
            await tab.until_reply("running")
            model.let_go()
        await tab.until_reply("done")
    assert (await tab.reply_text()).strip() == SENTENCE
    seen = await tab.seen()
    assert len(seen) > 10
    assert grows(seen)


async def test_a_reply_is_stopped(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment):
        await tab.start()
        await tab.say(FOR_EVER)
        await tab.until_text("two")
        await tab.press("Stop")
        reply = await tab.until_reply("cancelled")
        await expect(reply).to_contain_text("Stopped")
        assert (await tab.reply_text()).startswith("one two")
        await expect(tab.page.get_by_role("button", name="Stop")).to_have_count(0)


async def test_a_reply_that_reached_its_limit_says_so(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment):
        await tab.start()
        await tab.say("[[tokens=5 finish=length]]")
        reply = await tab.until_reply("done")
        await expect(reply).to_contain_text("Cut off")
        await expect(reply.get_by_test_id("data")).to_have_count(0)


async def test_code_files_appear_beside_the_conversation(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment):
        await tab.start("Code")
        await tab.say("Write fibonacci in Python, please.")
        await tab.until_reply("done")
        files = tab.page.get_by_role("complementary", name="Code files")
        await expect(files.get_by_role("button", name="fibonacci.py", exact=True)).to_be_visible()
        await expect(tab.page.get_by_test_id("file-content")).to_contain_text("def fibonacci() -> Iterator[int]:")


async def test_a_reload_continues_a_running_reply(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment):
        await tab.start()
        await tab.say(f'[[text="{SENTENCE}" hold=3]]')
        await tab.until_text("part02")
        await tab.page.reload()
        await tab.watch()
        reads: list[str] = []
        tab.page.on("request", lambda request: reads.append(request.url) if "/messages?" in request.url else None)
        for last in WORDS[2:-1:3]:
            await tab.until_text(last)
            await tab.until_reply("running")
            model.let_go()
        await tab.until_reply("done")
    seen = await tab.seen()
    assert grows(seen)
    assert len(seen) > 5 + len(reads)  # from deltas, not only from reads
    assert (await tab.reply_text()).strip() == SENTENCE
    await expect(tab.questions).to_have_count(1)
    await expect(tab.replies).to_have_count(1)


async def test_signing_in_again_restores_everything(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment):
        email = await tab.sign_up()
        await tab.new_session()
        await tab.say("Hello!")
        await tab.until_reply("done")
        await tab.press("Sign out")
        await tab.sign_in(email)
        await tab.session_buttons.first.click()
        await expect(tab.questions).to_have_text(re.compile("Hello!"))
        await tab.until_reply("done")
        await expect(tab.sessions).to_have_count(1)
