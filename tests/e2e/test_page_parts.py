"""How the page shows the parts of a reply, and what a user answers, whatever the parts hold."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import psycopg
import pytest
from playwright.async_api import Route, expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.e2e.test_page_hostile import FOUND, HOSTILE, WIDER
from tests.support.database import Row


def text(of: str) -> dict[str, Any]:
    return {"type": "text", "text": of}


def tool(key: str, state: str, name: str = "fetch_page", **rest: Any) -> dict[str, Any]:
    return {"type": "dynamic-tool", "toolCallId": key, "toolName": name, "state": state, **rest}


def ask(key: str, state: str = "approval-requested", *, approved: bool | None = None, **rest: Any) -> dict[str, Any]:
    approval = {"id": key} | ({} if approved is None else {"approved": approved})
    return tool(key, state, "ask", approval=approval, **rest)


def reply(*parts: dict[str, Any], status: str = "done") -> Turn:
    content = "".join(part["text"] for part in parts if part["type"] == "text")
    return Turn("Compare the two pages.", content, status=status, parts=parts)


STEP = {"type": "step-start"}
DONE = reply(
    {"type": "reasoning", "text": "There are **two** pages."},
    text("I compare them.\n\n- one\n"),
    STEP,
    text("- two"),
    tool(
        "fetch", "output-available", input={"url": "https://example.com/a"}, output={"title": "Page A", "words": 1200}
    ),
    STEP,
    tool("fetch#2", "output-available", input={"url": "https://example.com/b"}, output="line one\nline two"),
    tool("fetch#3", "output-error", input={"url": "https://example.com/c"}, errorText="There is no such page."),
    tool("now", "output-error", "now", input={}, errorText="Stopped."),
    {"type": "source-url", "sourceId": "a", "url": "https://example.com/a", "title": "Page A"},
    {"type": "file", "mediaType": "image/png", "filename": "chart.png", "url": "https://example.com/chart.png"},
    {"type": "data-progress", "data": {"percent": 100}},
    {"type": "something-new", "value": 1},
    ask("publish", "output-available", approved=True, input={"title": "Publish it?"}, output={"approved": True}),
    ask("mail", "output-available", approved=False, input={"title": "Mail it?"}, output={"approved": False}),
    ask("tone", "output-available", input={"title": "Which tone?", "choices": ["a", "b"]}, output={"choice": "b"}),
    tool("more", "output-error", "ask", input={"title": "More?"}, errorText="No answer in time."),
    text("That is all."),
)
WAITING = reply(
    text("The mail is written."),
    ask("send", input={"title": "Send the mail?", "to": "ann@example.com", "body": "Dear Ann,\n\nthanks!"}),
    ask("tone", input={"title": "In which tone?", "choices": ["Friendly", "Formal"]}),
    status="waiting",
)
RUNNING = reply(
    text("One moment."), tool("fetch", "input-available", input={"url": "https://example.com"}), status="running"
)
THINKING = reply({"type": "reasoning", "text": "Hm."}, status="running")


async def test_parts_are_shown_in_order(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    page = tab.page
    await rows.show(tab, db, Conversation("Parts", [DONE]))
    shown = tab.replies.first
    await expect(shown.locator(".bubble")).to_have_text(["I compare them. one two", "That is all."])
    await expect(shown.locator(".bubble").first.locator("ul")).to_have_count(1)  # one list, though a step ended in it
    calls = shown.get_by_role("list", name="Tools").locator("summary")
    await expect(calls).to_have_text(
        [
            "Fetch pageexample.com/aDone",
            "Fetch pageexample.com/bDone",
            "Fetch pageexample.com/cFailedThere is no such page.",
            "NowStopped",
        ]
    )
    await expect(shown.locator(".ask")).to_have_text(
        ["Publish it?You approved", "Mail it?You rejected", "Which tone?You chose “b”", "More?No answer in time."]
    )
    await expect(shown.get_by_role("link", name="chart.png")).to_have_attribute("href", "https://example.com/chart.png")
    await expect(shown.get_by_role("link", name="Page A")).to_have_attribute("href", "https://example.com/a")
    await expect(shown).not_to_contain_text("percent")

    # what a tool was given and gave is folded, and opened by the keyboard too
    await expect(shown).not_to_contain_text("Words")
    await calls.first.focus()
    await page.keyboard.press("Enter")
    await expect(shown.locator("details").filter(has=page.locator("summary").filter(has_text="/a"))).to_contain_text(
        "InputUrlhttps://example.com/aOutputTitlePage AWords1,200"
    )
    await calls.nth(1).click()
    await expect(shown.get_by_role("group", name="Text")).to_have_text("line one\nline two")
    await shown.get_by_text("Thought").click()
    await expect(shown.locator("strong")).to_have_text("two")


async def test_a_running_reply_shows_what_it_does(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await rows.show(tab, db, Conversation("Running", [RUNNING, THINKING, reply(text("Later."), status="waiting")]))
    calling, thinking, sleeping = (tab.replies.nth(index) for index in range(3))
    await expect(calling.locator(".call")).to_contain_text("Running")
    await expect(calling.locator(".spinner")).to_be_visible()
    await expect(calling).not_to_contain_text("Thinking")
    await expect(thinking.locator("summary")).to_have_text("Thinking…")
    await expect(sleeping).to_contain_text("The reply will continue by itself.")
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_visible()
    await tab.page.emulate_media(reduced_motion="reduce")
    assert await tab.page.evaluate("document.getAnimations().length") == 0


async def test_what_is_opened_stays_in_its_place(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    lines = "\n".join(f"line {n}" for n in range(200))
    calls = [tool(f"fetch#{n}", "output-available", input={"n": n}, output=lines) for n in range(30)]
    await rows.show(tab, db, Conversation("Long", [reply(*calls)]))
    last = tab.page.locator("summary").last
    await expect(last).to_be_in_viewport()
    await last.click()
    await expect(tab.page.get_by_role("group", name="Text")).to_be_visible()
    await expect(last).to_be_in_viewport()
    await expect(tab.page.get_by_role("button", name="Jump to the newest")).to_be_visible()
    await last.click()
    await expect(tab.page.get_by_role("button", name="Jump to the newest")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_in_parts(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], theme: Literal["light", "dark"]
) -> None:
    page = tab.page
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    await rows.show(tab, db, Conversation("Parts", [DONE, RUNNING, THINKING, WAITING]))
    await expect(tab.replies).to_have_count(4)
    found = {"folded": await violations(tab)}
    for summary in await page.locator("summary").all():
        await summary.click()
    await expect(page.get_by_role("group", name="Text")).to_be_visible()
    found["opened"] = await violations(tab)
    await page.set_viewport_size({"width": 390, "height": 780})
    found["phone"] = await violations(tab)
    assert await page.evaluate(WIDER) == []
    assert {where: what for where, what in found.items() if what} == {}


async def test_a_screen_reader_hears_that_the_reply_asks(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await rows.show(tab, db, Conversation("Waiting", [WAITING]))
    await expect(tab.page.get_by_role("group", name="Send the mail?")).to_contain_text("Toann@example.com")
    await expect(tab.page.get_by_role("status").first).to_have_text(
        "The assistant asks: Send the mail? The assistant asks: In which tone?"
    )
    # it does not wait with its news until the reply ends
    await expect(tab.page.get_by_role("log")).to_have_attribute("aria-busy", "false")


async def test_an_answer_is_sent_once_and_keeps_the_focus(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    page, keyboard = tab.page, tab.page.keyboard
    sent: list[Any] = []
    arrived = asyncio.Event()
    results: list[dict[str, Any]] = [
        {"status": 404, "json": {"code": "PT404", "message": "There is no such question."}},
        {"json": "taken"},
        {"json": "answered"},
    ]

    async def respond(route: Route) -> None:
        sent.append(route.request.post_data_json)
        result = results.pop(0)
        if result["json"] == "taken":
            await arrived.wait()
        await route.fulfill(**result)

    await page.route("**/rest/v1/rpc/answer_message", respond)
    await rows.show(tab, db, Conversation("Waiting", [WAITING]))
    card = page.get_by_role("group", name="Send the mail?")
    approve = card.get_by_role("button", name="Approve")
    await approve.focus()
    await keyboard.press("Enter")
    await expect(card.get_by_role("alert")).to_have_text("There is no such question.")
    tab.problems.clear()  # the browser reports it
    await expect(approve).to_be_focused()
    await keyboard.press("Enter")
    await expect(card.get_by_role("status")).to_have_text("Sending your answer…")
    await keyboard.press("Enter")
    await card.get_by_role("button", name="Reject").click(force=True)
    await approve.focus()
    arrived.set()
    await expect(card).to_contain_text("You approved")
    await expect(card.get_by_role("button")).to_have_count(0)
    await expect(card.locator(".outcome")).to_be_focused()

    await page.get_by_role("button", name="Formal").click()
    await expect(page.get_by_role("alert")).to_have_text("This has already been answered.")
    assert [(one["ask"], one["answer"]) for one in sent] == [
        ("send", {"approved": True}),
        ("send", {"approved": True}),
        ("tone", {"approved": True, "choice": "Formal"}),
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_parts_run_no_script(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], hostile: str
) -> None:
    foreign = tab.foreign_requests(environment)
    values = {hostile: hostile, "rows": [{hostile: hostile}]}
    links = [
        f"javascript:{hostile}",
        "data:text/html,<script>alert(1)</script>",
        f"https://example.com/{hostile}",
        hostile,
    ]
    parts = [
        {"type": "reasoning", "text": hostile},
        tool(hostile, "output-available", hostile, input=values, output=values),
        tool("text", "output-available", input=hostile, output=hostile),
        tool("list", "output-error", input=[hostile], errorText=hostile),
        *({"type": "source-url", "sourceId": link, "url": link, "title": hostile} for link in links),
        *({"type": "file", "url": link, "filename": hostile, "mediaType": hostile} for link in links),
        ask(hostile, input={"title": hostile, hostile: hostile}),
        ask("choose", input={"title": hostile, "choices": [hostile, "b"]}),
        ask("chosen", "output-available", input=hostile, output={"choice": hostile}),
        {"type": hostile, "text": hostile},
    ]
    await rows.show(tab, db, Conversation("Hostile", [reply(*parts, status="waiting")]))
    await expect(tab.page.locator(".ask")).to_have_count(3)
    for summary in await tab.page.locator("summary").all():
        await summary.click()
    await expect(tab.page.locator(".value")).to_have_count(5)
    assert await tab.page.evaluate(FOUND) == []
    assert foreign == []


async def test_long_words_in_parts_do_not_widen_the_page(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    word = "w" * 500
    parts = [
        tool("a", "output-available", word, input={word: word}, output=word),
        tool("b", "output-error", input={"x": word}, errorText=word),
        {"type": "source-url", "sourceId": "a", "url": f"https://{word}", "title": word},
        {"type": "file", "url": word, "filename": word, "mediaType": word},
        ask("c", input={"title": word, "choices": [word, "b"], word: word}),
        ask("d", "output-available", input={"title": word}, output={"choice": word}),
    ]
    await rows.show(tab, db, Conversation("Long", [reply(*parts, status="waiting")]))
    await expect(tab.page.locator(".ask")).to_have_count(2)
    for summary in await tab.page.locator("summary").all():
        await summary.click()
    await expect(tab.page.locator(".value")).to_have_count(3)
    for width in (1280, 390):
        await tab.page.set_viewport_size({"width": width, "height": 780})
        assert await tab.page.evaluate(WIDER) == []
