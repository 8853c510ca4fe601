"""The page with a function that takes steps: tools, questions to the user, pauses, and a worker that vanishes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, expect

from tests.e2e.site import Site
from tests.e2e.tab import Tab
from tests.support.workers import worker_process, working

READER: Mapping[str, Any] = {"functions": "Reader", "handlers": "tests.support.reader"}


def tools(tab: Tab) -> Locator:
    """The tools that the last reply has called, each in a line."""
    return tab.replies.last.get_by_role("list", name="Tools").locator("summary")


def card(tab: Tab, title: str = "Send it?") -> Locator:
    return tab.replies.last.get_by_role("group", name=title)


async def test_tools_are_shown_with_what_they_are_given_and_give(
    environment: dict[str, str], tab: Tab, site: Site
) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say(f"think There are two.\nI look.\n{site.fetch('held')}\n{site.fetch('missing')}\nThat is all.")
        await expect(tools(tab)).to_contain_text(["heldRunning"])
        await expect(tab.replies.last.get_by_text("Thought")).to_be_visible()
        await tools(tab).first.click()
        opened = tab.replies.last.locator("details.call").first
        await expect(opened).to_contain_text(f"InputUrl{site.address}held")
        site.let_go("held")
        # it stays open, and shows more
        await expect(opened).to_contain_text("OutputTitlePage heldWords4")
        await tab.until_reply("done")
        await expect(tools(tab)).to_contain_text(["heldDone", "missingFailedThere is no such page."])
        await expect(tab.replies.last.locator(".bubble")).to_have_text(
            ["I look.", "It has 4 words.", "There is no such page.That is all."]
        )


@pytest.mark.parametrize(
    ("button", "outcome", "text"), [("Approve", "You approved", "Sent."), ("Reject", "You rejected", "Not sent.")]
)
async def test_a_click_answers_what_the_reply_asks(
    environment: dict[str, str], tab: Tab, button: str, outcome: str, text: str
) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say("The mail is written.\nask Send it?")
        await tab.until_reply("waiting")
        await expect(card(tab)).to_contain_text("ann@example.com")
        await expect(tab.page.get_by_role("status").filter(has_text="The assistant asks: Send it?")).to_be_attached()
        await expect(tab.replies.last).to_contain_text("Waiting for your answer.")
        await card(tab).get_by_role("button", name=button).click()
        await tab.until_reply("done")
        await tab.until_text(text)
        await expect(card(tab)).to_contain_text(outcome)
        await expect(card(tab).get_by_role("button")).to_have_count(0)
        await tab.page.reload()
        await expect(card(tab)).to_contain_text(outcome)


async def test_an_answer_in_another_tab_is_shown(
    environment: dict[str, str], tab: Tab, context: BrowserContext
) -> None:
    async with working(environment, **READER):
        session_id = await tab.start("Reader")
        await tab.say("choose Which one?")
        await tab.until_reply("waiting")
        other = await Tab.open(context, tab.address, f"#{session_id}")
        await card(other, "Which one?").get_by_role("button", name="Two").click()
        for one in (tab, other):
            await one.until_reply("done")
            await one.until_text("So Two.")
            await expect(card(one, "Which one?")).to_contain_text("You chose “Two”")
            await expect(card(one, "Which one?").get_by_role("button")).to_have_count(0)
    assert other.problems == []


async def test_two_questions_are_answered_one_by_one(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say("ask Send it?\nchoose Which one?")
        await card(tab).get_by_role("button", name="Approve").click()
        await card(tab, "Which one?").get_by_role("button", name="One").click()
        await tab.until_reply("done")
        await expect(tab.replies.last.locator(".bubble")).to_have_text(["Sent.", "So One."])


async def test_stop_ends_a_tool(environment: dict[str, str], tab: Tab, site: Site) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say(f"{site.fetch('one')}\n{site.fetch('held')}")
        await expect(tools(tab)).to_contain_text(["oneDone", "heldRunning"])
        await tab.press("Stop")
        await tab.until_reply("cancelled")
        await expect(tools(tab)).to_contain_text(["oneDone", "heldStopped"])


async def test_stop_ends_a_reply_that_waits(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say("I look again tomorrow.\nsleep 86400")
        reply = await tab.until_reply("waiting")
        await expect(reply).to_contain_text("The reply will continue by itself.")
        await tab.press("Stop")
        await tab.until_reply("cancelled")
        await tab.say("ask Send it?")
        await tab.until_reply("waiting")
        await tab.press("Stop")
        await tab.until_reply("cancelled")
        await expect(card(tab)).to_contain_text("Not answered")
        await expect(card(tab).get_by_role("button")).to_have_count(0)


async def test_a_message_behind_a_question_waits_for_the_answer(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say("ask Send it?")
        await tab.until_reply("waiting")
        await tab.say("And then?")
        await expect(tab.questions.last).to_contain_text("Waiting for your answer above.")
        await card(tab).get_by_role("button", name="Approve").click()
        await expect(tab.replies).to_have_count(2)
        await tab.until_reply("done")
        await tab.until_text("And then?")


async def test_a_reload_in_the_middle_of_a_tool_shows_all_of_it(
    environment: dict[str, str], tab: Tab, site: Site
) -> None:
    async with working(environment, **READER):
        await tab.start("Reader")
        await tab.say(f"I look.\n{site.fetch('one')}\n{site.fetch('held')}")
        await expect(tools(tab)).to_contain_text(["oneDone", "heldRunning"])
        await tab.page.reload()
        await expect(tools(tab)).to_contain_text(["oneDone", "heldRunning"])
        await expect(tab.replies.last.locator(".bubble")).to_have_text(["I look.", "It has 4 words."])
        site.let_go("held")
        await tab.until_reply("done")
        await expect(tools(tab)).to_contain_text(["oneDone", "heldDone"])


# notes what is taken out of the page from now on
_WATCH = """(elements) => {
  window.lost = [];
  new MutationObserver(() => {
    window.lost.push(...elements.filter((element) => !element.isConnected).map((element) => element.outerHTML));
  }).observe(document.body, { childList: true, subtree: true });
}"""


async def test_another_worker_goes_on_and_nothing_finished_disappears(
    environment: dict[str, str], tab: Tab, site: Site, tmp_path: Path
) -> None:
    async with worker_process(environment, tmp_path / "worker.log", lease_seconds=2, **READER) as first:
        await tab.start("Reader")
        await tab.say(f"I look.\n{site.fetch('one')}\n{site.fetch('held')}\nThat is all.")
        await expect(tools(tab)).to_contain_text(["oneDone", "heldRunning"])
        await tools(tab).first.click()
        # the text behind the last finished step is not part of it: the other worker writes it again
        finished = [tab.replies.last, tab.replies.last.locator(".bubble").first, tools(tab).first]
        await tab.page.evaluate(_WATCH, [await element.element_handle() for element in finished])
        await first.kill()
    async with working(environment, lease_seconds=2, **READER):
        await site.asked_for("held", 2)
        site.let_go("held")
        await tab.until_reply("done")
    assert site.requests["one"] == 1
    await expect(tools(tab)).to_contain_text(["oneDone", "heldDone"])
    await expect(tab.replies.last.locator("details[open]")).to_contain_text("Page one")
    await expect(tab.replies.last.locator(".bubble")).to_have_text(
        ["I look.", "It has 4 words.", "It has 4 words.That is all."]
    )
    assert await tab.page.evaluate("window.lost") == []
