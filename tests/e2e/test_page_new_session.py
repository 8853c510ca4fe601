"""A session begins with its first message: one row for each, whatever is lost, repeated or reloaded in between."""

from __future__ import annotations

import re

import psycopg
from playwright.async_api import BrowserContext, Route, expect

from devstack.model import ModelServer
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working

HEADING = "What would you like to talk about?"
# two clicks, or two presses of Enter, before the page can show the effect of the first
_TWICE = """(element, key) => {
  for (let time = 0; time < 2; time++) {
    if (key === null) element.click();
    else element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  }
}"""


async def stored(db: psycopg.AsyncConnection[Row]) -> list[tuple[str, list[str]]]:
    """The function and the questions of each session, oldest first."""
    cursor = await db.execute(
        "select s.function, array_remove(array_agg(m.content order by m.ordinal), null) as questions"
        " from public.sessions s left join public.messages m on m.session_id = s.id and m.role = 'user'"
        " group by s.id order by s.created_at"
    )
    return [(row["function"], row["questions"]) for row in await cursor.fetchall()]


async def sent(tab: Tab, count: int = 1) -> None:
    """Wait until the database has this many questions of the session shown."""
    await expect(tab.page.locator(f'{tab.question}[data-status="queued"]')).to_have_count(count)


async def test_a_session_exists_from_its_first_message_on(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()
    heading = tab.page.get_by_role("heading", name=HEADING)
    await expect(heading).to_be_visible()
    await expect(tab.box).to_be_focused()
    for _ in range(4):
        await tab.press("New session", exact=True)
        await expect(tab.box).to_be_focused()
    assert await stored(db) == []
    first = await tab.begin("Code", "Hello")
    await sent(tab)
    await expect(tab.box).to_be_focused()
    await expect(tab.page.locator(".chat-header .badge")).to_have_text("Code")
    assert await stored(db) == [("Code", ["Hello"])]

    await tab.page.go_back()
    await expect(heading).to_be_visible()
    await expect(tab.box).to_be_focused()
    await tab.page.go_forward()
    await sent(tab)
    assert tab.page.url.endswith(f"#{first}")
    await tab.begin("Chat", "Again")
    await sent(tab)
    assert await stored(db) == [("Code", ["Hello"]), ("Chat", ["Again"])]
    await expect(tab.sessions).to_have_count(2)


async def test_a_suggestion_asks_its_question(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment, functions="Chat,Code,Compare"):
        await tab.sign_up()
        await tab.box.fill("half a question")
        for name in ("Chat", "Code", "Compare"):
            await tab.page.get_by_role("radio", name=name).check(force=True)
            buttons = tab.page.get_by_role("list", name="Suggestions").get_by_role("button")
            await expect(buttons.nth(2)).to_be_visible()
        question = await buttons.first.inner_text()
        await buttons.first.click()
        await expect(tab.questions).to_contain_text([question])
        await expect(tab.box).to_be_focused()
        await expect(tab.box).to_have_value("half a question")
        await tab.until_reply("done")
    assert question in [request.prompt.last for request in model.requests]


async def test_sending_twice_starts_one_session(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()
    suggestion = tab.page.get_by_role("list", name="Suggestions").get_by_role("button").first
    question = await suggestion.inner_text()
    await suggestion.evaluate(_TWICE, None)
    await sent(tab)
    await tab.press("New session", exact=True)
    await tab.box.fill("By key")
    await tab.box.evaluate(_TWICE, "Enter")
    await sent(tab)
    await tab.press("New session", exact=True)
    await tab.page.get_by_role("list", name="Suggestions").get_by_role("button").first.dblclick()
    await sent(tab)
    assert await stored(db) == [("Chat", [question]), ("Chat", ["By key"]), ("Chat", [question])]


async def test_messages_typed_while_a_session_is_created_follow_in_order(
    tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    created = await tab.hold("POST", "**/rest/v1/sessions?*")
    await tab.say("one")
    await expect(tab.questions).to_contain_text(["one"])
    await tab.say("two")
    await tab.box.press_sequentially("half")
    created.set()
    await sent(tab, 2)
    await expect(tab.box).to_have_value("half")
    assert await stored(db) == [("Chat", ["one", "two"])]


async def test_a_lost_response_makes_no_second_session(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()

    async def lose(route: Route) -> None:
        if route.request.method == "POST":
            await route.fetch()
        await route.abort()

    await tab.page.route("**/rest/v1/sessions?*", lose, times=1)
    await tab.say("Hello")
    # sent as soon as the row arrives by an event; or it comes back, and is sent again
    await expect(tab.questions.or_(tab.page.get_by_role("alert"))).to_be_visible()
    if await tab.box.input_value() == "Hello":
        await tab.box.press("Enter")
    await sent(tab)
    assert await stored(db) == [("Chat", ["Hello"])]
    tab.problems.clear()  # the browser reports the lost response


async def test_a_session_that_cannot_be_created_gives_the_message_back(
    tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    await tab.page.route("**/rest/v1/sessions?*", lambda route: route.abort())
    await tab.page.get_by_role("radio", name="Code").check(force=True)
    await tab.say("Hello")
    await expect(tab.page.get_by_role("alert")).to_have_text("Could not reach the server.")
    await expect(tab.box).to_have_value("Hello")
    await expect(tab.box).to_be_focused()
    await tab.page.unroute_all()
    await tab.page.reload()
    await expect(tab.box).to_have_value("Hello")
    await tab.box.press("Enter")
    await sent(tab)
    assert await stored(db) == [("Code", ["Hello"])]
    await tab.page.go_back()
    await expect(tab.box).to_have_value("")
    tab.problems.clear()  # the browser reports the failed requests


async def test_a_reload_before_the_message_arrives_sends_it_once(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()
    await tab.page.route("**/rest/v1/messages?*", lambda route: route.abort())
    await tab.say("Hello")
    await expect(tab.questions).to_contain_text(["Not sent"])
    await tab.page.unroute_all()
    await tab.page.reload()
    await expect(tab.box).to_have_value("Hello")
    await tab.box.press("Enter")
    await sent(tab)
    assert await stored(db) == [("Chat", ["Hello"])]
    tab.problems.clear()  # as above


async def test_a_new_draft_survives_a_reload_and_other_sessions(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()
    await tab.new_session("Code")
    await tab.press("New session", exact=True)
    await tab.page.get_by_role("radio", name="Compare").check(force=True)
    await tab.box.fill("half a question")
    await tab.page.reload()
    await expect(tab.box).to_have_value("half a question")
    await expect(tab.page.get_by_role("radio", name="Compare")).to_be_checked()
    await tab.session_buttons.first.click()
    await expect(tab.box).to_have_value("")
    await tab.press("New session", exact=True)
    await expect(tab.box).to_have_value("half a question")
    await tab.box.press("Enter")
    await sent(tab)
    await tab.press("New session", exact=True)
    await expect(tab.box).to_have_value("")
    assert ("Compare", ["half a question"]) in await stored(db)


async def test_a_session_is_created_though_another_is_opened(tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await tab.sign_up()
    other = await tab.new_session("Code")
    await tab.press("New session", exact=True)
    created = await tab.hold("POST", "**/rest/v1/sessions?*")
    await tab.say("Hello")
    await tab.session_buttons.first.click()
    await expect(tab.page.locator(f'[data-session="{other}"]')).to_be_visible()
    arrives = tab.page.wait_for_event("response", lambda response: "/messages?" in response.url and response.ok)
    created.set()
    await arrives
    await expect(tab.sessions).to_have_count(2)
    await expect(tab.page.locator(f'[data-session="{other}"]')).to_be_visible()
    assert tab.page.url.endswith(f"#{other}")
    await tab.session_buttons.filter(has_text="Chat").click()
    await sent(tab)
    await tab.press("New session", exact=True)
    await expect(tab.page.get_by_role("heading", name=HEADING)).to_be_visible()
    await expect(tab.box).to_have_value("")
    assert await stored(db) == [("Code", []), ("Chat", ["Hello"])]


async def test_two_tabs_start_their_own_sessions(
    tab: Tab, context: BrowserContext, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    other = await Tab.open(context, tab.address)
    await other.box.fill("from the other")
    await tab.say("from one")
    await sent(tab)
    await expect(other.sessions).to_have_count(1)
    await expect(other.box).to_have_value("from the other")
    await other.box.press("Enter")
    await sent(other)
    assert await stored(db) == [("Chat", ["from one"]), ("Chat", ["from the other"])]
    assert other.problems == []


async def test_the_first_reply_streams_into_the_new_session(
    environment: dict[str, str], model: ModelServer, tab: Tab
) -> None:
    words = " ".join(f"part{n:02d}" for n in range(30))
    async with working(environment):
        await tab.sign_up()
        await tab.begin("Chat", f'[[text="{words}" hold=3]]')
        await tab.until_text("part02")
        while await tab.replies.last.get_attribute("data-status") == "running":
            model.let_go()
            await expect(tab.replies.last).to_have_text(re.compile("part"))
        await tab.until_reply("done")
    assert (await tab.reply_text()).strip() == words
    await expect(tab.questions).to_have_count(1)
