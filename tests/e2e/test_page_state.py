"""The state of the page: messages, drafts and the selected session, with and without browser storage."""

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


async def test_new_messages_do_not_hide_older_ones(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.page.add_init_script("window.requestIdleCallback = () => 0")  # the page is never idle
    turns = [Turn(f"question {n}", f"reply {n}") for n in range(6)]
    await rows.show(tab, db, Conversation("Long", turns))
    await expect(tab.replies).to_have_count(6)
    await tab.say("One more")
    await expect(tab.questions).to_have_count(7)
    await expect(tab.questions.first).to_contain_text("question 0")


async def test_an_enter_that_confirms_a_composition_does_not_send(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
    await tab.box.fill("にほんご")
    for init in ({"isComposing": True}, {"keyCode": 229}):  # the second is Safari's
        await tab.box.evaluate(_COMPOSING, init)
    await expect(tab.box).to_have_value("にほんご")
    await expect(tab.questions).to_have_count(0)
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_count(1)


async def test_the_page_works_without_browser_storage(
    environment: dict[str, str], context: BrowserContext, page_address: str
) -> None:
    await context.add_init_script(_NO_STORAGE)
    tab = await Tab.open(context, page_address)
    await tab.sign_up()
    await tab.press("Theme: system")
    await expect(tab.page.get_by_role("button", name="Theme: light")).to_be_visible()
    await tab.begin("Chat", "Hello")
    await expect(tab.questions).to_have_count(1)
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    assert tab.problems == []


async def test_drafts_belong_to_their_session(environment: dict[str, str], tab: Tab) -> None:
    await tab.start("Code")
    await tab.box.fill("half a question")
    await tab.new_session("Chat")
    await expect(tab.box).to_have_value("")
    await tab.session_buttons.filter(has_text="Code").click()
    await expect(tab.box).to_have_value("half a question")
    await tab.page.reload()
    await expect(tab.box).to_have_value("half a question")
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")  # the database has it
    await tab.page.reload()
    await expect(tab.questions).to_have_count(1)
    await expect(tab.box).to_have_value("")
    await tab.box.fill("mine only")
    await tab.press("Sign out")
    await expect(tab.page.get_by_label("Password")).to_be_visible()
    assert await tab.page.evaluate("sessionStorage.length") == 0


async def test_a_session_stays_open_while_another_is_deleted(environment: dict[str, str], tab: Tab) -> None:
    deletion = await tab.hold("DELETE", "**/rest/v1/sessions?*")
    await tab.sign_up()
    kept = await tab.new_session("Chat")
    await tab.new_session("Code")
    await tab.sessions.filter(has_text="Code").get_by_role("button", name="Delete session").click()
    await tab.press("Delete", exact=True)
    await tab.session_buttons.filter(has_text="Chat").click()
    await expect(tab.page.locator(".chat-header .badge")).to_have_text("Chat")
    deletion.set()
    await expect(tab.sessions).to_have_count(1)
    await expect(tab.page.locator(".chat-header .badge")).to_have_text("Chat")
    assert tab.page.url.endswith(f"#{kept}")


async def test_the_id_in_the_address_may_have_capital_letters(environment: dict[str, str], tab: Tab) -> None:
    session_id = await tab.start("Code")
    await tab.page.goto("about:blank")
    await tab.page.goto(f"{tab.address}#{session_id.upper()}")
    await expect(tab.page.locator(f'[data-session="{session_id}"]')).to_be_visible()
