"""Messages written without a connection wait for it, and are sent by themselves."""

from __future__ import annotations

import psycopg
import pytest
from playwright.async_api import BrowserContext, Route, expect

from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.support.database import Row
from tests.support.workers import working


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_messages_without_a_connection_are_sent_once_it_is_back(
    environment: dict[str, str], context: BrowserContext, tab: Tab, theme: str
) -> None:
    await tab.page.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
    async with working(environment):
        await tab.start()
        await context.set_offline(True)
        await tab.say('[[text="first reply"]]')
        await tab.say('[[text="second reply"]]')
        waiting = tab.questions.get_by_role("status")
        await expect(waiting).to_have_text(["Waiting for the connection…"] * 2)
        await expect(tab.page.get_by_role("alert")).to_have_count(0)
        assert await violations(tab) == []
        await context.set_offline(False)
        await expect(waiting).to_have_count(0)
        await expect(tab.replies).to_have_count(2)
        await tab.until_reply("done")
    await expect(tab.questions).to_contain_text(["first reply", "second reply"])
    await expect(tab.replies).to_contain_text(["first reply", "second reply"])
    tab.problems.clear()  # the browser reports the requests that failed


async def test_a_message_that_the_server_fails_to_take_says_why_and_can_be_withdrawn(
    environment: dict[str, str], tab: Tab
) -> None:
    async def fail(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        error = {"code": "53100", "message": "could not extend file", "details": None, "hint": None}
        await route.fulfill(status=503, json=error, headers={"access-control-allow-origin": "*"})

    await tab.start()
    await tab.page.route("**/rest/v1/messages?*", fail)
    await tab.say("the first")
    first, second = (tab.questions.filter(has_text=text) for text in ("the first", "the second"))
    await expect(first).to_contain_text("The server is busy.")
    await tab.say("the second")
    await expect(second).to_contain_text("Waiting for the message before it")
    assert await violations(tab) == []
    await first.get_by_role("button", name="Do not send").click()
    await expect(first.get_by_role("alert")).to_contain_text("Not sent: The server is busy.")
    await tab.page.unroute_all()
    await expect(second).to_have_attribute("data-status", "queued")
    await first.get_by_role("button", name="Edit").click()
    await tab.say("the first, again")
    await expect(tab.questions).to_contain_text(["the second", "the first, again"])
    await expect(tab.questions.last).to_have_attribute("data-status", "queued")
    tab.problems.clear()  # the browser reports the failed requests


async def test_a_message_that_arrived_leaves_the_draft_wherever_it_stands(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await tab.start()
    await tab.page.route("**/rest/v1/messages?*", lambda route: route.abort())
    for text in ("one", "two", "three"):
        await tab.say(text)
        await expect(tab.questions.last).to_contain_text(text)
    await tab.box.fill("half a question")
    kept = await tab.page.evaluate("(id) => JSON.parse(sessionStorage.getItem(`typed:${id}`)).unsent", session_id)
    await tab.page.goto("about:blank")
    await tab.page.unroute_all()
    # its response was lost, or it overtook the one before
    await db.execute(
        "insert into public.messages (id, session_id, content) values (%s, %s, 'two')", (kept[1]["id"], session_id)
    )
    await tab.page.goto(f"{tab.address}#{session_id}")
    await expect(tab.questions).to_contain_text(["two"])
    await expect(tab.box).to_have_value("one\n\nthree\n\nhalf a question")
    tab.problems.clear()  # as above
