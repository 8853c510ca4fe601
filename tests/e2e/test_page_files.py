"""Code files, structured results, Markdown and session titles on the page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
from playwright.async_api import BrowserContext, Route, expect

from devstack.model import ModelServer
from tests.e2e import rows
from tests.e2e.rows import Conversation, File, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working


async def test_a_file_can_be_edited_and_restored(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await rows.show(tab, db, Conversation("Files", files=[File("a.py", "x = 1\n")]))
    page, content = tab.page, tab.page.get_by_test_id("file-content")
    await expect(content).to_contain_text("x = 1")
    edit = tab.tools("a.py").get_by_role("button", name="Edit")
    await edit.click()
    editor = tab.editor("a.py")
    await expect(editor).to_be_focused()
    # a pressed button stays highlighted when nothing hovers over it
    await editor.hover()
    await edit.evaluate("(button) => button.getAnimations().forEach((animation) => animation.finish())")
    await expect(edit).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
    await editor.fill("x = 2\n")
    await tab.press("Save")
    await expect(content).to_contain_text("x = 2")
    await expect(page.get_by_text("revision 2")).to_be_visible()

    await tab.tools("a.py").get_by_role("button", name="Versions").click()
    await page.get_by_role("list", name="Versions of a.py").get_by_role("button", name="revision 1").click()
    await expect(page.get_by_test_id("version-content")).to_contain_text("x = 1")
    await tab.press("Restore")
    await tab.tools("a.py").get_by_role("button", name="Versions").click()
    await expect(content).to_contain_text("x = 1")
    await expect(page.get_by_text("revision 3")).to_be_visible()


async def test_an_edit_does_not_overwrite_a_newer_revision(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await rows.show(tab, db, Conversation("Files", files=[File("a.py", "x = 1\n")]))
    page = tab.page
    await tab.tools("a.py").get_by_role("button", name="Edit").click()
    await tab.editor("a.py").fill("x = 'mine'\n")
    await db.execute(
        "update public.code_files set content = %s where session_id = %s", ("x = 'the reply''s'\n", session_id)
    )
    await expect(page.get_by_role("alert")).to_contain_text("This file changed while you were editing")
    await expect(page.get_by_role("button", name="Save")).to_be_disabled()
    await expect(tab.editor("a.py")).to_have_value("x = 'mine'\n")
    await tab.press("Keep my version")
    await expect(page.get_by_test_id("file-content")).to_contain_text("x = 'mine'")
    await tab.tools("a.py").get_by_role("button", name="Versions").click()
    versions = page.get_by_role("list", name="Versions of a.py").get_by_role("button")
    await expect(versions).to_have_count(2)
    await versions.first.click()
    await expect(page.get_by_test_id("version-content")).to_contain_text("the reply")


async def test_a_conflicting_reply_becomes_a_version(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment):
        await tab.start("Code")
        await tab.say('[[json={"reply": "Made.", "files": [{"path": "a.py", "content": "x = 1"}]}]]')
        await tab.until_reply("done")
        reply = '{"reply": "Changed, and this takes a while.", "files": [{"path": "a.py", "content": "x = 2"}]}'
        await tab.say(f"[[json={reply} hold=3]]")
        await tab.until_text("Changed")
        await tab.tools("a.py").get_by_role("button", name="Edit").click()
        await tab.editor("a.py").fill("x = 'mine'")
        await tab.press("Save")
        await expect(tab.page.get_by_text("revision 2", exact=True)).to_be_visible()
        await tab.until_reply("running")
        model.let_go(times=len(reply))
        await tab.until_reply("done")
        await expect(tab.page.get_by_text("Your text was kept")).to_be_visible()
        await expect(tab.page.get_by_test_id("file-content")).to_contain_text("x = 'mine'")
        await tab.press("Show versions")
        conflict = tab.page.get_by_role("list", name="Versions of a.py").get_by_role("button", name="conflict")
        await conflict.click()
        await expect(tab.page.get_by_test_id("version-content")).to_contain_text("x = 2")


async def test_a_file_can_be_copied_and_downloaded(
    environment: dict[str, str],
    tab: Tab,
    context: BrowserContext,
    db: psycopg.AsyncConnection[Row],
    tmp_path: Path,
) -> None:
    text = "x = 'ä'\n"
    await rows.show(tab, db, Conversation("Files", files=[File("src/a.py", text)]))
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.tools("src/a.py").get_by_role("button", name="Copy").click()
    await expect(tab.tools("src/a.py").get_by_text("Copied")).to_be_visible()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == text
    async with tab.page.expect_download() as downloading:
        await tab.tools("src/a.py").get_by_role("button", name="Download").click()
    download = await downloading.value
    assert download.suggested_filename == "a.py"
    await download.save_as(tmp_path / "a.py")
    assert (tmp_path / "a.py").read_text() == text


async def test_an_edit_survives_a_new_file_above_it(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await rows.show(tab, db, Conversation("Files", files=[File("b.py", "x = 1\n")]))
    await tab.tools("b.py").get_by_role("button", name="Edit").click()
    editor = tab.editor("b.py")
    await editor.fill("x = 'mine'\n")
    await db.execute("insert into public.code_files (session_id, path) values (%s, 'a.py')", (session_id,))
    await expect(tab.page.get_by_test_id("files").get_by_role("button")).to_have_text(["a.py", "b.py"])
    await editor.press("Escape")
    await expect(editor).to_have_value("x = 'mine'\n")


async def test_the_last_chosen_version_is_shown(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await rows.show(tab, db, Conversation("Files", files=[File("a.py", "x = 1\n")]))
    for text in ("x = 2\n", "x = 3\n"):
        await db.execute("update public.code_files set content = %s where session_id = %s", (text, session_id))
    await tab.tools("a.py").get_by_role("button", name="Versions").click()
    versions = tab.page.get_by_role("list", name="Versions of a.py").get_by_role("button")
    await expect(versions).to_have_count(2)
    second = asyncio.Event()

    async def late(route: Route) -> None:
        """Hold the first response back until the second one is shown."""
        if not held:
            held.append(route)
            await second.wait()
        await route.continue_()

    held: list[Route] = []
    await tab.page.route("**/code_file_versions?select=content*", late)
    await versions.filter(has_text="revision 1").click()
    await versions.filter(has_text="revision 2").click()
    content = tab.page.get_by_test_id("version-content")
    await expect(content).to_have_text("x = 2\n")
    async with tab.page.expect_response("**/code_file_versions?select=content*") as answered:
        second.set()
    await (await answered.value).finished()
    await tab.page.evaluate("new Promise(requestAnimationFrame)")
    await expect(content).to_have_text("x = 2\n")


async def test_closing_a_view_returns_the_focus(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await rows.show(tab, db, Conversation("Files", files=[File("a.py", "x = 1\n"), File("b.py", "y = 1\n")]))
    edit, delete = (tab.tools("a.py").get_by_role("button", name=name) for name in ("Edit", "Delete"))
    await edit.press("Enter")
    await tab.editor("a.py").press("Escape")
    await expect(edit).to_be_focused()
    await delete.press("Enter")
    await tab.page.get_by_role("button", name="Delete file").press("Escape")
    await expect(delete).to_be_focused()
    await delete.press("Enter")
    await tab.page.get_by_role("button", name="Delete file").press("Enter")
    await expect(tab.page.get_by_test_id("files").get_by_role("button", name="b.py")).to_be_focused()
    # the pane disappears with the last file, and a narrow page shows the conversation again
    await tab.page.set_viewport_size({"width": 390, "height": 780})
    await tab.press("Files (1)")
    await tab.tools("b.py").get_by_role("button", name="Delete").press("Enter")
    await tab.page.get_by_role("button", name="Delete file").press("Enter")
    await expect(tab.box).to_be_focused()


async def test_deleting_the_last_file_shows_the_conversation(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await rows.show(tab, db, Conversation("Files", files=[File("a.py", "x = 1\n")]))
    await tab.page.set_viewport_size({"width": 390, "height": 780})
    await tab.press("Files (1)")
    await expect(tab.box).to_be_hidden()
    await db.execute("delete from public.code_files where session_id = %s", (session_id,))
    await expect(tab.box).to_be_visible()


async def test_markdown_and_structured_results_are_rendered(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    data = {
        "reply": "**Bold** and `code`.",
        "files": [],
        "total_price": 1234.5,
        "rate": 0.00012345,
        "paid": False,
        "lines": [{"item": "Nut", "price": 1}, {"item": "Bolt", "price": None}],
    }
    turn = Turn("What?", "**Bold** and `code`.\n\n```python\nimport os\n```", data)
    await rows.show(tab, db, Conversation("Data", [turn]))
    await expect(tab.replies.locator("strong")).to_have_text("Bold")
    await expect(tab.replies.locator("pre .hljs-keyword")).to_have_text("import")
    result = tab.page.get_by_test_id("data")
    await expect(result.get_by_role("columnheader")).to_have_text(["Item", "Price"])
    await expect(result.get_by_role("row")).to_have_count(3)
    await expect(result.get_by_role("rowheader")).to_have_text(["Nut", "Bolt"])
    await expect(result.get_by_role("cell")).to_have_text(["1", "–"])
    await expect(result).to_contain_text("Total price1,234.5")
    await expect(result).to_contain_text("Rate0.00012345")
    await expect(result).to_contain_text("Paidno")
    await expect(result).not_to_contain_text("Bold")  # that is the reply's text


async def test_streamed_markdown_keeps_its_blocks_whole(environment: dict[str, str], tab: Tab) -> None:
    text = "# One\\n\\nFirst *words*.\\n\\n```python\\nimport os\\n\\nprint(os)\\n```\\n\\n1. a\\n\\n2. b\\n\\nEnd."
    async with working(environment):
        await tab.start()
        await tab.say(f'[[text="{text}" delay=0.03]]')
        await tab.until_reply("done")
    reply = tab.replies.last
    await expect(reply.get_by_role("heading", name="One")).to_be_visible()
    await expect(reply.locator("pre")).to_have_count(1)
    await expect(reply.locator("pre")).to_have_text("import os\n\nprint(os)")
    await expect(reply.locator("ol")).to_have_count(1)
    await expect(reply.locator("ol li")).to_have_count(2)


async def test_a_session_can_be_renamed_and_deleted(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
    await tab.press("Rename session")
    await tab.page.get_by_label("Session title").fill("  My own name ")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("heading", name="My own name")).to_be_visible()
    await tab.page.reload()
    await expect(tab.sessions).to_contain_text(["My own name"])
    await tab.press("Delete session My own name")
    await tab.press("Delete", exact=True)
    await expect(tab.sessions).to_have_count(0)
    await expect(tab.page.get_by_role("heading", name="What would you like to talk about?")).to_be_visible()
