"""The page offers the functions that workers describe: their titles, suggestions, and a form for their arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import psycopg
import pytest
from playwright.async_api import expect

from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.support.database import Row
from tests.support.waiting import until
from tests.support.workers import working

HANDLERS = "tests.support.handlers"


async def stored(db: psycopg.AsyncConnection[Row]) -> list[tuple[str, Any]]:
    """The text and the data of each question, oldest first."""
    cursor = await db.execute(
        "select content, data from public.messages where role = 'user' order by created_at, ordinal"
    )
    return [(row["content"], row["data"]) for row in await cursor.fetchall()]


@pytest.fixture
async def telling(environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Tab]:
    """A tab with the function `Tell` chosen, which a worker answers."""
    async with working(environment, handlers=HANDLERS, functions="Chat,Tell"):

        async def is_described() -> bool:
            found = await db.execute("select from public.functions where name = 'Tell'")
            return found.rowcount == 1

        await until(is_described, within=20)
        await tab.sign_up()
        await tab.page.get_by_role("radio", name="Tell me").check(force=True)
        yield tab


async def test_form_sends_the_arguments_of_a_question(telling: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    page = telling.page
    await expect(page.get_by_text("Says what it was told")).to_be_visible()
    await expect(page.get_by_label("Number of copies")).to_have_value("1")
    await expect(page.get_by_label("Number of copies")).to_have_accessible_description("At most nine")
    await page.get_by_label("Tone").select_option("formal")
    await page.get_by_label("Number of copies").fill("3")
    await page.get_by_label("Is urgent").check()
    await page.get_by_label("Notes").fill('[{"text": "é"}]')
    await telling.say("First")
    await telling.until_reply("done")
    data = {"tone": "formal", "copies": 3, "is_urgent": True, "notes": [{"text": "é"}]}
    await expect(page.locator(".chat-header .badge")).to_have_text("Tell me")

    # what was filled in stays for the next question
    await expect(page.get_by_label("Tone")).to_have_value("1")
    await page.get_by_label("Budget").fill("2.5")
    await page.get_by_label("Is urgent").uncheck()
    await telling.box.fill("Second")
    await page.get_by_label("Language").fill("French")
    await page.get_by_label("Language").press("Enter")
    await expect(telling.replies).to_have_count(2)
    await telling.until_reply("done")
    later = {**data, "budget": 2.5, "language": "French"}
    del later["is_urgent"]  # as it is without being told
    assert await stored(db) == [("First", data), ("Second", later)]
    assert '"language": "French"' in await telling.reply_text()


async def test_question_is_not_sent_without_its_arguments(telling: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    page = telling.page
    tone, copies, notes = (page.get_by_label(name) for name in ("Tone", "Number of copies", "Notes"))
    # a suggestion asks for them as well, and waits in the message box
    await telling.press("What did I say?")
    await expect(telling.box).to_have_value("What did I say?")
    await expect(tone).to_be_focused()
    await tone.select_option("plain")
    for field, wrong, right in ((copies, "10", "9"), (copies, "1.5", "9"), (notes, "[1", "[]")):
        await field.fill(wrong)
        await telling.box.press("Enter")
        await expect(field).to_be_focused()
        await field.fill(right)
    assert await stored(db) == []
    await telling.press("Send")
    await telling.until_reply("done")
    assert await stored(db) == [("What did I say?", {"tone": "plain", "copies": 9, "notes": []})]


async def test_edit_keeps_the_arguments_of_its_question(telling: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    page = telling.page
    await page.get_by_label("Tone").select_option("plain")
    await telling.say("First")
    await telling.until_reply("done")
    await page.get_by_label("Tone").select_option("formal")
    await telling.press("Edit and ask again")
    await expect(page.get_by_label("Tone")).to_be_hidden()
    await telling.say("First, again")
    await expect(telling.replies).to_have_count(2)
    await telling.until_reply("done")
    (_, first), (_, again) = await stored(db)
    assert again == first
    await expect(page.get_by_label("Tone")).to_have_value("1")


async def test_arguments_that_the_function_refuses_fail_with_its_complaint(telling: Tab) -> None:
    await telling.page.get_by_label("Tone").select_option("plain")
    await telling.page.get_by_label("Notes").fill('[{"text": 1}]')
    await telling.say("First")
    reply = await telling.until_reply("failed")
    await expect(reply).to_contain_text("at notes.0.text, input should be a valid string")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_form_is_accessible_and_fits(telling: Tab, theme: Literal["light", "dark"], width: int) -> None:
    page = telling.page
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 780})
    await expect(page.get_by_label("Notes")).to_be_visible()
    await expect(telling.box).to_be_in_viewport()
    assert await violations(telling) == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_functions_that_a_worker_brings_are_offered_when_the_user_comes_back(
    tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    radios = tab.page.get_by_role("radio")
    await expect(radios).to_have_count(3)
    await expect(tab.page.get_by_role("radio", name="Chat")).to_be_checked()
    hostile = "<img src=x onerror=alert(1)>"
    await db.execute(
        "insert into public.functions (name, title, description, suggestions)"
        " values ('Hostile', %(text)s, %(text)s, jsonb_build_array(%(text)s::text))",
        {"text": hostile},
    )
    await db.execute("delete from public.functions where name in ('Chat', 'Code')")
    await tab.page.evaluate("dispatchEvent(new Event('focus'))")
    await expect(radios).to_have_count(2)
    await expect(tab.page.get_by_role("radio", name="Compare")).to_be_checked()  # the first, as there is no Chat
    await tab.page.get_by_role("radio", name=hostile).check(force=True)
    await expect(tab.page.get_by_role("button", name=hostile)).to_be_visible()
    await tab.page.reload()
    await expect(tab.page.get_by_role("radio", name=hostile)).to_be_checked()


async def test_page_without_the_catalogue_starts_a_session_of_the_default(
    tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute("delete from public.functions")
    await tab.sign_up()
    await tab.say("Hello")
    await expect(tab.page.locator(f'{tab.question}[data-status="queued"]')).to_have_count(1)
    found = await (await db.execute("select function from public.sessions")).fetchall()
    assert found == [{"function": "Chat"}]
