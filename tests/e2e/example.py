"""A tab on one of the pages of `client/examples`."""

from __future__ import annotations

import re
import uuid

from playwright.async_api import BrowserContext, Locator, expect

from tests.e2e.tab import PASSWORD, Tab


class Example(Tab):
    """A page of the gallery: all of them have a log, a box to write in, and buttons to send and stop."""

    @classmethod
    async def signed_up(cls, context: BrowserContext, address: str, name: str) -> Example:
        """Open a page as somebody new, in a new session."""
        example = cls(await context.new_page(), address)
        page = example.page
        await page.goto(f"{address}{name}")
        await page.get_by_label("Email").fill(f"{uuid.uuid4().hex[:10]}@example.com")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign up").click()
        await expect(example.box).to_be_visible()
        return example

    @property
    def replies(self) -> Locator:
        return self.page.locator('[data-role="assistant"]')

    @property
    def questions(self) -> Locator:
        return self.page.locator('[data-role="user"]')

    @property
    def status(self) -> Locator:
        """What says how the chat stands, where a page says it for the whole chat."""
        return self.page.get_by_role("log")

    async def until_text(self, text: str | re.Pattern[str], *, within: float = 20) -> None:
        await self.explained(expect(self.replies.last).to_contain_text(text, timeout=within * 1000))

    async def reply_text(self) -> str:
        return (await self.replies.last.inner_text()).strip()

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name).click()
