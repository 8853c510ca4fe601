"""A long paste becomes a file of the session, which the model reads."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from playwright.async_api import BrowserContext, Locator, Route, expect

from devstack.model import ModelServer
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working

LONG = "\n".join(f"line {n}: the quick brown fox jumps over the lazy dog" for n in range(200))


async def paste(context: BrowserContext, tab: Tab, text: str) -> None:
    """Paste from the clipboard into the message box."""
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    await tab.box.press("Control+V")


def chips(tab: Tab) -> Locator:
    return tab.page.get_by_role("list", name="Pasted texts").get_by_role("listitem")


async def files(db: psycopg.AsyncConnection[Row]) -> dict[str, str]:
    """The content of each code file by its path."""
    rows = await (await db.execute("select path, content from public.code_files")).fetchall()
    return {row["path"]: row["content"] for row in rows}


@pytest.mark.parametrize("function", ["Chat", "Code", "Compare"])
async def test_a_long_paste_reaches_the_model_as_a_file(
    environment: dict[str, str],
    model: ModelServer,
    context: BrowserContext,
    tab: Tab,
    db: psycopg.AsyncConnection[Row],
    function: str,
) -> None:
    async with working(environment, functions="Chat,Code,Compare"):
        await tab.sign_up()
        await tab.page.get_by_role("radio", name=function).check(force=True)
        await paste(context, tab, LONG)
        await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
        await expect(tab.page.get_by_role("status")).to_have_text("pasted-1.txt was added as a file.")
        await expect(tab.box).to_have_value("")
        await paste(context, tab, LONG + " again")
        await expect(chips(tab)).to_contain_text(["pasted-1.txt", "pasted-2.txt"])
        await tab.press("Remove pasted-2.txt")
        await expect(chips(tab)).to_have_count(1)
        await expect(tab.box).to_be_focused()
        await tab.say("Sum it up")
        await expect(tab.questions).to_contain_text(["Sum it up"])
        await expect(chips(tab)).to_have_count(0)
        await tab.until_reply("done")
        asked = [request.prompt for request in model.requests if request.prompt.last.startswith("Sum it up")][-1]
        assert LONG in asked.system
        assert "pasted-1.txt" in asked.last
        assert (await files(db))["pasted-1.txt"].startswith(LONG)  # the demo's code adds a line to it

        # alone, and in a session that exists
        await paste(context, tab, LONG)
        await expect(chips(tab)).to_contain_text(["pasted-2.txt"])
        await tab.box.press("Enter")
        await expect(tab.questions.last).to_contain_text("See pasted-2.txt.")
        await expect(tab.replies).to_have_count(2)
        assert (await files(db))["pasted-2.txt"] == LONG


async def test_a_short_paste_stays_text(environment: dict[str, str], context: BrowserContext, tab: Tab) -> None:
    await tab.sign_up()
    await paste(context, tab, "two\nlines")
    await expect(tab.box).to_have_value("two\nlines")
    await expect(chips(tab)).to_have_count(0)


async def test_a_paste_for_a_function_that_reads_no_files_stays_text(
    environment: dict[str, str], context: BrowserContext, tab: Tab
) -> None:
    await tab.sign_up()
    await tab.new_session("Translate")
    await paste(context, tab, LONG)
    await expect(tab.box).to_have_value(LONG)


async def test_a_text_too_long_for_a_message_is_sent_as_a_file(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    text = "x" * 200_000
    await tab.start()
    await tab.say(text)
    await expect(tab.questions.first).to_contain_text("See pasted-1.txt.")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    assert await files(db) == {"pasted-1.txt": text}
    # more than a file holds
    await tab.box.fill("é" * 200_000)
    await tab.box.press("Enter")
    await expect(tab.page.get_by_role("alert")).to_contain_text("a file holds 256 KB")
    await expect(tab.box).to_have_value("é" * 200_000)


async def test_a_paste_larger_than_a_file_is_refused(
    environment: dict[str, str], context: BrowserContext, tab: Tab
) -> None:
    await tab.sign_up()
    await paste(context, tab, "é" * 140_000)
    await expect(tab.page.get_by_role("alert")).to_contain_text("This text is too long: 274 KB")
    await expect(chips(tab)).to_have_count(0)


async def refuse(route: Route) -> None:
    if route.request.method != "POST":
        await route.continue_()
        return
    error = {"code": "PT413", "message": "File too large: 10 bytes (limit 5)", "details": None, "hint": None}
    await route.fulfill(status=413, json=error, headers={"access-control-allow-origin": "*"})


async def test_a_refused_file_gives_everything_back(
    environment: dict[str, str], context: BrowserContext, tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    await tab.page.route("**/rest/v1/code_files?*", refuse)
    await paste(context, tab, LONG)
    await tab.say("Sum it up")
    await expect(tab.page.get_by_role("alert")).to_have_text("File too large: 10 bytes (limit 5)")
    await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
    await expect(tab.box).to_have_value("Sum it up")
    await tab.page.reload()
    await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
    await expect(tab.box).to_have_value("Sum it up")
    await tab.page.unroute_all()
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    await expect(chips(tab)).to_have_count(0)
    assert await files(db) == {"pasted-1.txt": LONG}
    row = await (await db.execute("select count(*) as messages from public.messages")).fetchone()
    assert row == {"messages": 1}
    tab.problems.clear()  # the browser reports the refused request


async def test_a_paste_beside_a_file_of_its_name_gets_another(
    environment: dict[str, str], context: BrowserContext, tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await tab.start()
    await paste(context, tab, LONG)
    await db.execute(
        "insert into public.code_files (session_id, path, content) values (%s, 'pasted-1.txt', 'mine')", (session_id,)
    )
    await tab.say("Sum it up")
    await expect(tab.questions.first).to_contain_text("See pasted-2.txt.")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    assert await files(db) == {"pasted-1.txt": "mine", "pasted-2.txt": LONG}
    tab.problems.clear()  # the browser reports the conflict


async def test_the_reason_of_an_earlier_refusal_does_not_stay(
    environment: dict[str, str], context: BrowserContext, tab: Tab
) -> None:
    await tab.start()
    await tab.page.route("**/rest/v1/code_files?*", refuse)
    await paste(context, tab, LONG)
    await tab.say("Sum it up")
    alert = tab.page.get_by_role("alert")
    await expect(alert).to_have_text("File too large: 10 bytes (limit 5)")
    await tab.press("Remove pasted-1.txt")
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    await expect(alert).to_have_count(0)
    tab.problems.clear()  # as above


async def test_a_refusal_in_a_hidden_session_is_shown_when_it_is_opened(
    environment: dict[str, str], context: BrowserContext, tab: Tab
) -> None:
    release = asyncio.Event()

    async def refuse_late(route: Route) -> None:
        await release.wait()
        await refuse(route)

    await tab.start("Code")
    await tab.page.route("**/rest/v1/code_files?*", refuse_late)
    await paste(context, tab, LONG)
    await tab.say("Sum it up")
    await expect(tab.questions.first).to_contain_text("Sending")
    # another session waits too
    await tab.press("New session", exact=True)
    created = await tab.hold("POST", "**/rest/v1/sessions?*")
    await tab.say("Hello")
    await expect(tab.questions.filter(visible=True)).to_contain_text(["Hello"])
    async with tab.page.expect_response(lambda found: "/code_files" in found.url and found.status == 413):
        release.set()
    created.set()
    await expect(tab.sessions).to_have_count(2)
    await tab.session_buttons.filter(has_text="Code").click()
    await expect(tab.page.get_by_role("alert")).to_have_text("File too large: 10 bytes (limit 5)")
    await expect(tab.box).to_have_value("Sum it up")
    await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
    tab.problems.clear()  # as above


async def test_a_message_that_its_files_make_too_long_is_sent_as_a_file(
    environment: dict[str, str], context: BrowserContext, tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.start()
    await paste(context, tab, LONG)
    await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
    text = "x" * 32_760
    await tab.say(text)
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    await expect(tab.questions.first).to_contain_text("See pasted-1.txt, pasted-2.txt.")
    assert await files(db) == {"pasted-1.txt": LONG, "pasted-2.txt": text}


async def test_a_file_with_half_an_emoji_is_not_added_twice(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    async def lose(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        await route.fetch()
        await route.abort()

    session_id = await tab.start()
    await tab.page.evaluate(
        """(id) => sessionStorage.setItem(
          `pasted:${id}`, JSON.stringify([{ path: "pasted-1.txt", content: "\\0half \\ud83d" }]))""",
        session_id,
    )
    await tab.page.reload()
    await expect(chips(tab)).to_contain_text(["pasted-1.txt"])
    await tab.page.route("**/rest/v1/code_files?*", lose)
    await tab.say("Sum it up")
    await expect(tab.page.get_by_role("alert")).to_have_text("Could not reach the server.")
    await tab.page.unroute_all()
    await tab.box.press("Enter")
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    await expect(tab.questions.first).to_contain_text("See pasted-1.txt.")
    assert await files(db) == {"pasted-1.txt": "half \ufffd"}
    tab.problems.clear()  # as above
