"""Messages written without a connection wait for it, and are sent by themselves."""

from __future__ import annotations

import pytest
from playwright.async_api import BrowserContext, expect

from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
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
