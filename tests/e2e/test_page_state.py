"""What the page keeps while things change: what is shown, what is typed, and itself where a browser keeps nothing."""

from __future__ import annotations

import psycopg
from playwright.async_api import BrowserContext, expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row

_NO_STORAGE = """for (const kind of ["localStorage", "sessionStorage"]) Object.defineProperty(window, kind, {
  get() { throw new DOMException("denied", "SecurityError"); }
})"""
_COMPOSING = """(box, init) => box.dispatchEvent(
  new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...init }))"""


async def test_a_message_that_is_shown_stays_shown(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.page.add_init_script("window.requestIdleCallback = () => 0")  # a page that has no time
    email = await tab.sign_up()
    turns = [Turn(f"question {n}", f"reply {n}") for n in range(6)]
    session_id = await rows.write(db, await rows.user_id(db, email), Conversation("Long", turns))
    await tab.page.goto(f"{tab.address}#{session_id}")
    await tab.page.reload()
    await expect(tab.replies).to_have_count(6)
    await tab.say("One more")
    await expect(tab.questions).to_have_count(7)
    await expect(tab.questions.first).to_contain_text("question 0")


async def test_an_enter_that_ends_a_composition_does_not_send(environment: dict[str, str], tab: Tab) -> None:
    await tab.sign_up()
    await tab.new_session()
    await tab.box.fill("にほんご")
    for init in ({"isComposing": True}, {"keyCode": 229}):  # the second is what Safari says
        await tab.box.evaluate(_COMPOSING, init)
    await expect(tab.box).to_have_value("にほんご")
    await expect(tab.questions).to_have_count(0)
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_count(1)


async def test_the_page_works_where_the_browser_keeps_nothing(
    environment: dict[str, str], context: BrowserContext, page_address: str
) -> None:
    await context.add_init_script(_NO_STORAGE)
    tab = await Tab.open(context, page_address)
    await tab.sign_up()
    await tab.page.get_by_role("button", name="Theme: system").click()
    await expect(tab.page.get_by_role("button", name="Theme: light")).to_be_visible()
    await tab.new_session()
    await tab.say("Hello")
    await expect(tab.questions).to_have_count(1)
    assert tab.problems == []


async def test_what_is_typed_waits_for_its_session(environment: dict[str, str], tab: Tab) -> None:
    await tab.sign_up()
    await tab.new_session("Code")
    await tab.box.fill("half a question")
    await tab.new_session("Chat")
    await expect(tab.box).to_have_value("")
    await tab.page.get_by_test_id("sessions").get_by_role("button", name="Code").first.click()
    await expect(tab.box).to_have_value("half a question")
    await tab.page.reload()
    await expect(tab.box).to_have_value("half a question")
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")  # the database has it
    await tab.page.reload()
    await expect(tab.questions).to_have_count(1)
    await expect(tab.box).to_have_value("")
    await tab.box.fill("mine alone")
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(tab.page.get_by_label("Password")).to_be_visible()
    assert await tab.page.evaluate("sessionStorage.length") == 0


async def test_a_session_chosen_while_another_is_deleted_stays_open(environment: dict[str, str], tab: Tab) -> None:
    chosen = await tab.hold("DELETE", "**/rest/v1/sessions?*")
    await tab.sign_up()
    sessions = tab.page.get_by_test_id("sessions").get_by_role("listitem")
    kept = await tab.new_session("Chat")
    await tab.new_session("Code")
    await sessions.filter(has_text="Code").get_by_role("button", name="Delete session").click()
    await tab.page.get_by_role("button", name="Delete", exact=True).click()
    await sessions.filter(has_text="Chat").locator(".open").click()
    await expect(tab.page.locator(".chat-header .badge")).to_have_text("Chat")
    chosen.set()
    await expect(sessions).to_have_count(1)
    await expect(tab.page.locator(".chat-header .badge")).to_have_text("Chat")
    assert tab.page.url.endswith(f"#{kept}")
