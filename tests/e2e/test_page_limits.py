"""Limits on the page: one message says when to try again, nothing that was typed is lost, nothing is sent by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import psycopg
import pytest
from playwright.async_api import Locator, Route, expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, File, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row

MESSAGE = "Rate limit: 60 changes per minute"
HINT = "Try again in 42 s."
_LIMIT = {
    "code": "PT429",
    "message": MESSAGE,
    "hint": HINT,
    "details": json.dumps({"limit": "changes_per_minute", "value": 60, "ends_at": "2026-01-01T00:00:00+00:00"}),
}
_WRITES = ("POST", "PATCH", "DELETE")


@dataclass
class Limit:
    """Refuses every write of the page with a limit, as the database does, until it is lifted."""

    tab: Tab
    lifted: bool = False
    refused: list[str] = field(default_factory=list)

    async def apply(self) -> Limit:
        await self.tab.page.route("**/rest/v1/**", self._answer)
        return self

    async def _answer(self, route: Route) -> None:
        if self.lifted or route.request.method not in _WRITES:
            await route.continue_()
            return
        self.refused.append(f"{route.request.method} {route.request.url.split('/rest/v1/')[1].split('?')[0]}")
        await route.fulfill(status=429, json=_LIMIT, headers={"access-control-allow-origin": "*"})

    async def shown(self, where: Locator, *requests: str) -> None:
        """Wait until the limit is shown there, once, after these requests and no others."""
        await expect(where.get_by_role("alert")).to_have_text(f"{MESSAGE}. {HINT}")
        assert self.refused == list(requests)
        self.refused.clear()
        # the browser reports each refused request
        self.tab.problems[:] = [problem for problem in self.tab.problems if "429" not in problem]


@pytest.fixture
async def limit(environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]) -> Limit:
    """A conversation with a file, and a limit that the user has reached."""
    await rows.show(tab, db, Conversation("Old", [Turn("one", "two", status="failed")], [File("a.py", "x = 1\n")]))
    await expect(tab.replies).to_have_count(1)
    return await Limit(tab).apply()


async def test_a_refused_session_keeps_what_was_typed(tab: Tab, limit: Limit) -> None:
    await tab.press("New session", exact=True)
    await tab.say("Hello")
    await limit.shown(tab.page.get_by_role("main"), "POST sessions")
    await expect(tab.box).to_have_value("Hello")
    await expect(tab.sessions).to_have_count(1)
    limit.lifted = True
    await tab.box.press("Enter")
    await expect(tab.sessions).to_have_count(2)
    await expect(tab.questions.first).to_have_attribute("data-status", "queued")
    await expect(tab.page.get_by_role("alert")).to_have_count(0)


async def test_a_refused_title_stays_in_its_form(tab: Tab, limit: Limit) -> None:
    await tab.rename_session("New name")
    await limit.shown(tab.page.get_by_role("navigation"), "PATCH sessions")
    await expect(tab.page.get_by_label("Session title")).to_have_value("New name")
    limit.lifted = True
    await tab.press("Rename", exact=True)
    await expect(tab.page.get_by_role("heading", name="New name")).to_be_visible()
    await expect(tab.page.get_by_label("Session title")).to_have_count(0)


async def test_a_refused_deletion_deletes_nothing(tab: Tab, limit: Limit) -> None:
    delete = tab.page.get_by_test_id("sessions").get_by_role("button", name="Delete", exact=True)
    await tab.press("Delete session Old")
    await delete.click()
    await limit.shown(tab.page.get_by_role("navigation"), "DELETE sessions")
    await expect(tab.replies).to_have_count(1)
    limit.lifted = True
    await delete.click()
    await expect(tab.sessions).to_have_count(0)


async def test_a_refused_save_keeps_the_edit(tab: Tab, limit: Limit) -> None:
    pane = tab.page.get_by_role("complementary", name="Code files")
    await tab.tools("a.py").get_by_role("button", name="Edit").click()
    await tab.editor("a.py").fill("x = 'mine'\n")
    await tab.press("Save")
    await limit.shown(pane, "PATCH code_files")
    await expect(tab.editor("a.py")).to_have_value("x = 'mine'\n")
    limit.lifted = True
    await tab.press("Save")
    await expect(pane.get_by_test_id("file-content")).to_contain_text("x = 'mine'")


async def test_a_refused_file_deletion_deletes_nothing(tab: Tab, limit: Limit) -> None:
    pane = tab.page.get_by_role("complementary", name="Code files")
    await tab.tools("a.py").get_by_role("button", name="Delete").click()
    await tab.press("Delete file")
    await limit.shown(pane, "DELETE code_files")
    await expect(pane.get_by_test_id("file-content")).to_contain_text("x = 1")


async def test_a_refused_question_can_be_sent_again(tab: Tab, limit: Limit) -> None:
    await tab.say("Hello?")
    await expect(tab.questions.last.get_by_role("alert")).to_contain_text(f"Not sent: {MESSAGE}. {HINT}")
    assert limit.refused == ["POST messages"]
    await tab.page.reload()  # what was not sent comes back as the draft
    await expect(tab.box).to_have_value("Hello?")
    limit.lifted = True
    await tab.box.press("Enter")
    await expect(tab.questions.last).to_have_attribute("data-status", "queued")
    tab.problems.clear()


async def test_a_refused_retry_is_shown(tab: Tab, limit: Limit) -> None:
    await tab.press("Retry", exact=True)
    await expect(tab.page.get_by_text(f"{MESSAGE}. {HINT}")).to_be_visible()
    assert limit.refused == ["POST rpc/retry_message"]
    tab.problems.clear()


async def test_a_limit_of_the_database_is_shown(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    user = await rows.user_id(db, await tab.sign_up())
    await tab.new_session()
    await db.execute("insert into bridge.limits (name, user_id, value) values ('messages_per_minute', %s, 1)", (user,))
    await tab.say("one")
    await expect(tab.questions.last).to_have_attribute("data-status", "queued")
    await tab.say("two")
    await expect(tab.questions.last.get_by_role("alert")).to_contain_text(
        "Not sent: Rate limit: 1 messages per minute. Try again in "
    )
    tab.problems.clear()
