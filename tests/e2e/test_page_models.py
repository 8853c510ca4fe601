"""The choice of a session's model on the page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import psycopg
import pytest
from playwright.async_api import Locator, Route, expect

from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.e2e.test_page_hostile import WIDER
from tests.support.database import Row

REFUSAL = {"code": "23503", "message": "no such model", "details": None, "hint": None}


@pytest.fixture(autouse=True)
async def models(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[None]:
    """Two models to choose from."""
    await db.execute(
        "insert into public.models (name, title, ordinal) values ('Large', 'Careful', 1), ('Small', null, 2)"
    )
    yield
    await db.execute("delete from public.models")


def choice(tab: Tab) -> Locator:
    return tab.page.get_by_role("combobox", name="Model")


async def model_of(db: psycopg.AsyncConnection[Row], session_id: str) -> str | None:
    row = await (await db.execute("select model from public.sessions where id = %s", (session_id,))).fetchone()
    assert row is not None
    model: str | None = row["model"]
    return model


async def test_the_model_of_a_session_can_be_changed(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await tab.start()
    await expect(choice(tab).get_by_role("option")).to_have_text(["Default model", "Careful", "Small"])
    await expect(choice(tab)).to_have_value("")
    for name in ("Large", "Small"):
        async with tab.page.expect_response(lambda response: response.request.method == "PATCH"):
            await choice(tab).select_option(name)
        assert await model_of(db, session_id) == name
    await tab.page.reload()
    await expect(choice(tab)).to_have_value("Small")
    async with tab.page.expect_response(lambda response: response.request.method == "PATCH"):
        await choice(tab).select_option("Default model")
    assert await model_of(db, session_id) is None
    # another session has its own
    await choice(tab).select_option("Careful")
    await tab.new_session()
    await expect(choice(tab)).to_have_value("")


async def test_a_new_session_gets_the_chosen_model(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    await choice(tab).select_option("Careful")
    assert await violations(tab) == []
    session_id = await tab.begin("Chat", "Hello")
    assert await model_of(db, session_id) == "Large"
    await expect(choice(tab)).to_have_value("Large")
    # the one after it does not
    await tab.press("New session", exact=True)
    await expect(choice(tab)).to_have_value("")


async def test_what_is_asked_waits_for_the_model_that_was_just_chosen(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    """And of two choices in a row, the last one stays."""
    session_id = await tab.start()
    await tab.say("first")
    await expect(tab.page.get_by_text("Queued…")).to_have_count(1)
    order: list[str] = []
    is_held, go_on = asyncio.Event(), asyncio.Event()

    async def note(route: Route) -> None:
        if route.request.method == "PATCH":
            is_held.set()
            await go_on.wait()
        if route.request.method in ("PATCH", "POST"):
            order.append(route.request.method)
        await route.continue_()

    await tab.page.route(re.compile(r"/rest/v1/(sessions|messages)\b"), note)
    await choice(tab).select_option("Large")
    await choice(tab).select_option("Small")
    await is_held.wait()
    await tab.say("second")
    await expect(tab.page.get_by_text("second")).to_be_visible()
    await tab.press("Edit and ask again")
    await tab.say("third")
    assert order == []
    go_on.set()
    await expect(tab.page.get_by_text("Queued…")).to_have_count(2)  # the edited question is withdrawn
    assert order[:2] == ["PATCH", "PATCH"]
    assert sorted(order[2:]) == ["POST", "POST"]
    await expect(choice(tab)).to_have_value("Small")
    assert await model_of(db, session_id) == "Small"


async def test_a_message_comes_back_if_its_model_cannot_be_set(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    go_on = asyncio.Event()

    async def fail(route: Route) -> None:
        if route.request.method == "PATCH":
            await go_on.wait()
            await route.fulfill(status=409, json=REFUSAL, headers={"access-control-allow-origin": "*"})
        else:
            await route.continue_()

    await tab.start()
    await tab.page.route("**/rest/v1/sessions?*", fail)
    await choice(tab).select_option("Small")
    await tab.say("Hello")
    await expect(tab.box).to_have_value("")
    go_on.set()
    await expect(tab.box).to_have_value("Hello")
    await expect(tab.page.get_by_role("alert")).to_be_visible()
    asked = "select from public.messages"
    assert await (await db.execute(asked.encode())).fetchall() == []
    # the next one is sent: to the model that is shown
    await expect(choice(tab)).to_have_value("")
    await tab.press("Send")
    await expect(tab.page.get_by_text("Queued…")).to_be_visible()
    tab.problems.clear()  # the browser reports the refusal


async def test_a_model_that_cannot_be_set_is_not_shown_as_chosen(environment: dict[str, str], tab: Tab) -> None:
    async def fail(route: Route) -> None:
        if route.request.method != "PATCH":
            await route.continue_()
            return
        await route.fulfill(status=409, json=REFUSAL, headers={"access-control-allow-origin": "*"})

    await tab.start()
    await tab.page.route("**/rest/v1/sessions?*", fail)
    await choice(tab).select_option("Small")
    await expect(tab.page.get_by_role("alert")).to_be_visible()
    await expect(choice(tab)).to_have_value("")
    tab.problems.clear()  # the browser reports it


async def test_one_model_is_no_choice(environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]) -> None:
    await db.execute("delete from public.models where name = 'Small'")
    async with tab.page.expect_response(lambda response: "/rest/v1/models" in response.url):
        await tab.start()
    await expect(choice(tab)).to_have_count(0)


@pytest.mark.parametrize("width", [1280, 390])
async def test_the_choice_fits_beside_a_long_title(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], width: int
) -> None:
    await db.execute("update public.models set title = %s where name = 'Large'", ("w" * 200,))
    session_id = await tab.start()
    await choice(tab).select_option("Large")
    await db.execute("update public.sessions set title = %s where id = %s", ("t" * 150, session_id))
    await expect(tab.page.get_by_role("heading", name="ttt")).to_be_visible()
    await tab.page.set_viewport_size({"width": width, "height": 780})
    await expect(choice(tab)).to_be_in_viewport(ratio=1)
    assert await tab.page.evaluate(WIDER) == []
    assert await violations(tab) == []
