"""Attachments on the page: adding, uploading, sending and showing them, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import uuid
import zlib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import aiohttp
import psycopg
import pytest
from playwright.async_api import FileChooser, FilePayload, Locator, Route, expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.e2e.test_accessibility import violations
from tests.e2e.test_page_hostile import HOSTILE, WIDER
from tests.support.database import Row

TYPES = ("image/png", "image/jpeg", "application/pdf", "audio/wav", "text/plain")
UPLOADS = "**/storage/v1/object/upload/sign/**"

# what a browser gives to the handlers of a paste or a drop
_DISPATCH = """(target, { type, files, text }) => {
  const data = new DataTransfer();
  for (const { name, mimeType, base64 } of files) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: mimeType }));
  }
  if (text !== null) data.setData("text/plain", text);
  const init = { bubbles: true, cancelable: true };
  const event = type === "paste"
    ? new ClipboardEvent(type, { ...init, clipboardData: data })
    : new DragEvent(type, { ...init, dataTransfer: data });
  return !target.dispatchEvent(event);
}"""
_NATURAL_WIDTH = "(image) => image.complete ? image.naturalWidth : 0"


def png(width: int = 40, height: int = 30) -> bytes:
    """A picture of one colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = (b"\0" + b"\x0b\x7a\x58" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def wav() -> bytes:
    """A tenth of a second of silence."""
    sound = bytes(800)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    return struct.pack("<4sI4s", b"RIFF", 36 + len(sound), b"WAVE") + form + struct.pack("<4sI", b"data", 800) + sound


def picture(name: str) -> FilePayload:
    return FilePayload(name=name, mimeType="image/png", buffer=png())


PICTURE = picture("chart.png")
NOTES = FilePayload(name="notes.md", mimeType="text/markdown", buffer=b"# Notes\n")
SOUND = FilePayload(name="call.wav", mimeType="audio/wav", buffer=wav())
PAPER = FilePayload(name="paper.pdf", mimeType="application/pdf", buffer=b"%PDF-1.4\n%%EOF\n")


@pytest.fixture
async def tab(tab: Tab, db: psycopg.AsyncConnection[Row]) -> Tab:
    """The page, signed out, where Chat reads attachments of these types and Code reads none."""
    await db.execute(
        "update public.functions set accepts = case name when 'Chat' then %s::jsonb else '[]' end", (json.dumps(TYPES),)
    )
    return tab


async def attach(tab: Tab, *files: FilePayload) -> None:
    """Choose files, as in the browser's dialog."""
    await tab.page.locator("input[type=file]").set_input_files(list(files))


async def dispatch(target: Locator, kind: str, *files: FilePayload, text: str | None = None) -> bool:
    """Paste or drop files. Returns whether the page dealt with it, and the browser does not."""
    encoded = [
        {"name": file["name"], "mimeType": file["mimeType"], "base64": b64encode(file["buffer"]).decode()}
        for file in files
    ]
    return bool(await target.evaluate(_DISPATCH, {"type": kind, "files": encoded, "text": text}))


def chips(tab: Tab) -> Locator:
    """The attachments in the message box."""
    return tab.page.locator("form.composer").get_by_role("list", name="Attachments").get_by_role("listitem")


def talk(tab: Tab) -> Locator:
    return tab.page.locator("section.talk")


def shown(message: Locator) -> Locator:
    """The attachments of a message."""
    return message.get_by_role("list", name="Attachments").get_by_role("listitem")


async def until_uploaded(tab: Tab, count: int = 1) -> None:
    await expect(chips(tab)).to_have_count(count)
    await expect(tab.page.locator('form.composer [data-state="done"]')).to_have_count(count)


async def until_picture(picture: Locator) -> None:
    """Wait until a picture is loaded."""
    handle = await picture.element_handle()
    await picture.page.wait_for_function(_NATURAL_WIDTH, arg=handle)


async def sent(db: psycopg.AsyncConnection[Row]) -> list[tuple[str, list[Any]]]:
    """The questions in the database: text, and names and types of attachments."""
    found = await db.execute("select content, attachments from public.messages where role = 'user' order by ordinal")
    return [
        (row["content"], [(one["name"], one["type"]) for one in row["attachments"] or []])
        for row in await found.fetchall()
    ]


async def held(tab: Tab) -> asyncio.Event:
    """Hold back uploads until the event is set."""
    return await tab.hold("PUT", UPLOADS)


async def refuse_upload(route: Route) -> None:
    if route.request.method != "PUT":
        await route.continue_()
        return
    body = {"statusCode": "400", "error": "Error", "message": "The disk is full."}
    await route.fulfill(status=400, json=body, headers={"access-control-allow-origin": "*"})


async def store(environment: Mapping[str, str], session_id: str, name: str, kind: str, content: bytes) -> str:
    """Store an object as a worker does. Returns its path."""
    path = f"{session_id}/{uuid.uuid4()}.{name.rpartition('.')[2]}"
    key = environment["SUPABASE_SECRET_KEY"]
    headers = {"apikey": key, "content-type": kind}
    url = f"{environment['SUPABASE_URL']}/storage/v1/object/attachments/{path}"
    async with aiohttp.ClientSession() as http, http.post(url, data=content, headers=headers) as answer:
        assert answer.ok, await answer.text()
    return path


def part(path: str, name: str, kind: str) -> dict[str, Any]:
    return {"type": "file", "id": path[37:73], "mediaType": kind, "filename": name, "url": f"attachments/{path}"}


# -- adding and sending ----------------------------------------------------------------------------------------


async def test_files_are_uploaded_sent_and_shown(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    await tab.start()
    release = await held(tab)
    await attach(tab, PICTURE, NOTES, SOUND, PAPER)
    await expect(chips(tab)).to_contain_text(["chart.png", "notes.md", "call.wav", "paper.pdf"])
    await expect(tab.page.get_by_role("progressbar", name="Uploading chart.png")).to_be_visible()
    await expect(tab.box).to_be_focused()
    await until_picture(chips(tab).first.locator("img"))
    release.set()
    await until_uploaded(tab, 4)
    await expect(tab.page.locator("form.composer").get_by_role("status")).to_contain_text("is uploaded.")
    await tab.say("What do you see?")
    question = tab.questions.first
    await expect(chips(tab)).to_have_count(0)
    await expect(question).to_have_attribute("data-status", "queued")
    assert await sent(db) == [
        (
            "What do you see?",
            [
                ("chart.png", "image/png"),
                ("notes.md", "text/plain"),
                ("call.wav", "audio/wav"),
                ("paper.pdf", "application/pdf"),
            ],
        )
    ]

    for _ in ("as it was sent", "as it was read"):
        await until_picture(shown(question).locator("img").first)
        await expect(shown(question).locator("audio")).to_have_attribute("preload", "none")
        await expect(shown(question).locator("audio")).to_have_attribute("src", re.compile("/object/sign/attachments/"))
        async with tab.page.expect_download() as download:
            await question.get_by_role("button", name="Download notes.md").click()
        file = await download.value
        assert file.suggested_filename == "notes.md"
        await file.save_as(tmp_path / "notes.md")
        assert (tmp_path / "notes.md").read_bytes() == NOTES["buffer"]
        await tab.page.reload()


async def test_a_new_session_is_created_for_a_message_of_attachments_alone(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.sign_up()
    await attach(tab, PICTURE)
    await expect(chips(tab)).to_contain_text(["chart.png"])
    await expect(tab.sessions).to_have_count(0)
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    await expect(tab.questions.locator(".bubble")).to_have_count(0)
    await until_picture(shown(tab.questions).locator("img"))
    assert await sent(db) == [("", [("chart.png", "image/png")])]
    await expect(tab.sessions).to_have_count(1)


async def test_a_message_waits_for_its_uploads_and_can_be_taken_back(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.start()
    release = await held(tab)
    await attach(tab, PICTURE)
    await tab.say("What do you see?")
    question = tab.questions.first
    await expect(question.get_by_role("status")).to_have_text("Uploading attachments…")
    await expect(question.get_by_role("progressbar", name="Attachments")).to_be_visible()
    await until_picture(shown(question).locator("img"))
    assert await violations(tab) == []
    await question.get_by_role("button", name="Do not send").click()
    await expect(tab.questions).to_have_count(0)
    await expect(tab.box).to_have_value("What do you see?")
    await expect(chips(tab)).to_contain_text(["chart.png"])
    await tab.box.press("Enter")
    await expect(question.get_by_role("status")).to_have_text("Uploading attachments…")
    # and the next one waits for it
    await tab.say("And now?")
    release.set()
    await expect(tab.questions.last).to_have_attribute("data-status", "queued")
    assert await sent(db) == [("What do you see?", [("chart.png", "image/png")]), ("And now?", [])]


@pytest.mark.parametrize("where", ["message box", "conversation"])
async def test_dropped_files_are_attached(
    environment: dict[str, str], tab: Tab, where: Literal["message box", "conversation"]
) -> None:
    await tab.start()
    target = tab.box if where == "message box" else tab.page.get_by_role("log")
    assert await dispatch(target, "dragover", PICTURE)
    await expect(talk(tab)).to_have_css("outline-style", "dashed")
    await dispatch(target, "dragleave", PICTURE)
    await expect(talk(tab)).not_to_have_css("outline-style", "dashed")
    await dispatch(target, "dragover", PICTURE)
    assert await dispatch(target, "drop", PICTURE, NOTES)
    await expect(talk(tab)).not_to_have_css("outline-style", "dashed")
    await expect(chips(tab)).to_contain_text(["chart.png", "notes.md"])


async def test_a_file_dropped_elsewhere_does_not_replace_the_page(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
    sidebar = tab.page.get_by_role("navigation", name="Sessions")
    assert await dispatch(sidebar, "dragover", PICTURE)
    assert await dispatch(sidebar, "drop", PICTURE)
    # but text can be dropped
    assert not await dispatch(sidebar, "drop", text="text")
    assert not await dispatch(tab.box, "drop", text="text")
    await expect(chips(tab)).to_have_count(0)


async def test_a_pasted_picture_is_attached_and_text_with_a_picture_is_text(
    environment: dict[str, str], tab: Tab
) -> None:
    await tab.start()
    assert await dispatch(tab.box, "paste", picture("image.png"))
    assert await dispatch(tab.box, "paste", picture("image.png"))
    await expect(chips(tab)).to_contain_text(["image.png", "image (2).png"])
    # the cells of a table come with a picture of them
    assert not await dispatch(tab.box, "paste", PICTURE, text="a\tb\n1\t2")
    # the text of files copied in a file manager is their names
    assert await dispatch(tab.box, "paste", PICTURE, NOTES, text="/home/ann/chart.png\nnotes.md")
    await expect(chips(tab)).to_contain_text(["image.png", "image (2).png", "chart.png", "notes.md"])


# -- what cannot be attached -----------------------------------------------------------------------------------


async def test_what_cannot_be_attached_is_said_in_words_before_anything_is_uploaded(
    environment: dict[str, str], tab: Tab
) -> None:
    uploads: list[str] = []
    tab.page.on("request", lambda request: uploads.append(request.url) if "/storage/v1/" in request.url else None)
    alert = tab.page.get_by_role("alert")
    await tab.start()
    archive = FilePayload(name="a.zip", mimeType="application/zip", buffer=b"PK\x03\x04\xff")
    assert await dispatch(tab.box, "drop", archive)
    await expect(alert).to_have_text(
        "a.zip was not added: Chat reads images (PNG, JPEG), audio (WAV), PDF files and text files."
    )
    await attach(tab, FilePayload(name="empty.txt", mimeType="text/plain", buffer=b""))
    await expect(alert).to_have_text("empty.txt was not added: there is nothing in it.")
    await attach(tab, FilePayload(name="chart.png", mimeType="image/png", buffer=png() + bytes(10 * 2**20)))
    await expect(alert).to_have_text(
        "chart.png was not added: the attachments of a message take 10 MB together at most."
    )
    assert uploads == []
    await attach(tab, *(picture(f"{n}.png") for n in range(10)))
    await expect(alert).to_have_text("8.png and 9.png were not added: a message takes 8 attachments at most.")
    await until_uploaded(tab, 8)
    assert await violations(tab) == []


async def test_a_function_that_reads_no_attachments_says_so(environment: dict[str, str], tab: Tab) -> None:
    await tab.start("Code")
    await expect(tab.page.get_by_role("button", name="Attach files")).to_have_count(0)
    await dispatch(tab.box, "dragover", PICTURE)
    await expect(talk(tab)).not_to_have_css("outline-style", "dashed")
    assert await dispatch(tab.box, "drop", PICTURE)
    await expect(tab.page.get_by_role("alert")).to_have_text("chart.png was not added: Code reads no attachments.")
    # a new session's function can change after a file was chosen
    await tab.press("New session", exact=True)
    await tab.page.get_by_role("radio", name="Chat").check(force=True)
    await attach(tab, PICTURE)
    await tab.page.get_by_role("radio", name="Code").check(force=True)
    await tab.say("What do you see?")
    await expect(tab.page.get_by_role("alert")).to_have_text("chart.png cannot be sent: Code reads no attachments.")
    await expect(tab.box).to_have_value("What do you see?")


async def test_an_edited_question_keeps_its_attachments(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.start()
    await attach(tab, PICTURE)
    await tab.say("What do you see?")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    await attach(tab, NOTES)
    await tab.questions.get_by_role("button", name="Edit").click()
    await expect(chips(tab)).to_have_count(0)
    await expect(tab.page.get_by_role("button", name="Attach files")).to_have_count(0)
    await dispatch(tab.box, "drop", PICTURE)
    await expect(tab.page.get_by_role("alert")).to_contain_text("An edited message keeps its attachments")
    await tab.say("What do you see there?")
    await expect(tab.questions).to_have_count(2)
    await expect(shown(tab.questions.last)).to_have_count(1)
    await expect(tab.questions.last).to_have_attribute("data-status", "queued")
    await expect(chips(tab)).to_contain_text(["notes.md"])
    assert (await sent(db))[-1] == ("What do you see there?", [("chart.png", "image/png")])


# -- failures --------------------------------------------------------------------------------------------------


async def test_a_failed_upload_can_be_tried_again_or_removed(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.start()
    await tab.page.route(UPLOADS, refuse_upload)
    await attach(tab, PICTURE, NOTES)
    await expect(chips(tab).locator(".reason")).to_have_text(["The disk is full."] * 2)
    await expect(tab.page.locator("form.composer").get_by_role("status")).to_contain_text(
        "could not be uploaded: The disk is full."
    )
    assert await violations(tab) == []
    await tab.say("What do you see?")
    await expect(tab.page.get_by_role("alert")).to_have_text("chart.png is not uploaded. Try again, or remove it.")
    await expect(tab.box).to_have_value("What do you see?")
    await tab.page.unroute_all()
    await tab.press("Try again to upload chart.png")
    await expect(tab.page.locator('[data-state="done"]')).to_contain_text(["chart.png"])
    await tab.press("Remove notes.md")
    await expect(tab.box).to_be_focused()
    await expect(chips(tab)).to_contain_text(["chart.png"])
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    assert await sent(db) == [("What do you see?", [("chart.png", "image/png")])]
    tab.problems.clear()  # the browser reports the failed requests


async def test_an_upload_that_fails_after_sending_gives_the_message_back(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    release = asyncio.Event()

    async def refuse_late(route: Route) -> None:
        if route.request.method == "PUT":
            await release.wait()
        await refuse_upload(route)

    await tab.sign_up()
    await tab.page.route(UPLOADS, refuse_late)
    await attach(tab, PICTURE)
    await tab.say("What do you see?")
    await expect(tab.questions.get_by_role("status")).to_have_text("Uploading attachments…")
    release.set()
    await expect(tab.page.get_by_role("alert")).to_have_text("chart.png could not be uploaded: The disk is full.")
    await expect(tab.box).to_have_value("What do you see?")
    await expect(chips(tab)).to_contain_text(["The disk is full."])
    await tab.page.unroute_all()
    await tab.press("Try again to upload chart.png")
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    assert await sent(db) == [("What do you see?", [("chart.png", "image/png")])]
    tab.problems.clear()  # as above


async def test_a_cancelled_upload_is_not_finished(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
    release = await held(tab)
    await attach(tab, PICTURE)
    async with tab.page.expect_event("requestfailed") as failed:
        await tab.press("Cancel chart.png")
    assert (await failed.value).method == "PUT"
    await expect(chips(tab)).to_have_count(0)
    await expect(tab.box).to_be_focused()
    release.set()


# -- drafts ----------------------------------------------------------------------------------------------------


async def test_each_session_keeps_the_attachments_of_its_draft(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    first = await tab.start()
    await attach(tab, PICTURE)
    await until_uploaded(tab)
    release = await held(tab)
    await attach(tab, NOTES)
    await tab.new_session()
    await expect(chips(tab)).to_have_count(0)
    await attach(tab, PAPER)
    await expect(chips(tab)).to_contain_text(["paper.pdf"])
    # the upload goes on meanwhile
    async with tab.page.expect_response(lambda response: response.request.method == "PUT" and first in response.url):
        release.set()
    await until_uploaded(tab)
    await tab.page.evaluate("(id) => { location.hash = id; }", first)
    await expect(tab.page.locator(f'[data-session="{first}"]')).to_be_visible()
    await until_uploaded(tab, 2)
    await expect(chips(tab)).to_contain_text(["chart.png", "notes.md"])

    await tab.page.reload()
    await until_uploaded(tab, 2)
    await until_picture(chips(tab).first.locator("img"))
    await tab.say("Both")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    assert await sent(db) == [("Both", [("chart.png", "image/png"), ("notes.md", "text/plain")])]
    await tab.page.reload()
    await expect(tab.questions).to_have_count(1)
    await expect(chips(tab)).to_have_count(0)


async def test_a_message_that_had_not_arrived_comes_back_with_its_attachments(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await tab.start()
    await tab.page.route("**/rest/v1/messages?*", lambda route: route.abort())
    await attach(tab, PICTURE)
    await until_uploaded(tab)
    await tab.say("What do you see?")
    await expect(tab.questions).to_contain_text("Could not reach the server.")
    await tab.page.reload()
    await expect(tab.box).to_have_value("What do you see?")
    await expect(chips(tab)).to_contain_text(["chart.png"])
    await tab.page.unroute_all()
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    await expect(chips(tab)).to_have_count(0)
    assert await sent(db) == [("What do you see?", [("chart.png", "image/png")])]
    tab.problems.clear()  # the browser reports the failed requests


async def test_signing_out_stops_uploads_and_forgets_attachments(environment: dict[str, str], tab: Tab) -> None:
    await tab.start()
    await attach(tab, PICTURE)
    await until_uploaded(tab)
    release = await held(tab)
    await attach(tab, NOTES)
    await expect(tab.page.get_by_role("progressbar")).to_be_visible()
    async with tab.page.expect_event("requestfailed", lambda request: request.method == "PUT"):
        await tab.press("Sign out")
    release.set()
    await expect(tab.page.get_by_label("Email")).to_be_visible()
    assert await tab.page.evaluate("sessionStorage.length") == 0
    await tab.sign_up()
    await expect(tab.page.get_by_role("button", name="Attach files")).to_be_visible()
    await expect(chips(tab)).to_have_count(0)


# -- showing ---------------------------------------------------------------------------------------------------


async def test_the_files_of_a_reply_are_shown(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    conversation = Conversation("Files", [Turn("Draw it.", "")])
    chart = await store(environment, conversation.id, "chart.png", "image/png", png(300, 200))
    sound = await store(environment, conversation.id, "call.wav", "audio/wav", wav())
    notes = await store(environment, conversation.id, "notes.txt", "text/plain", b"Notes")
    parts = [
        {"type": "text", "text": "Here it is."},
        part(chart, "chart.png", "image/png"),
        part(sound, "call.wav", "audio/wav"),
        part(notes, "notes.txt", "text/plain"),
        part(chart[:-40] + f"{uuid.uuid4()}.png", "lost.png", "image/png"),
    ]
    await rows.show(tab, db, Conversation("Files", [Turn("Draw it.", "Here it is.", parts=parts)], id=conversation.id))
    await expect(shown(tab.replies)).to_have_count(4)
    await until_picture(tab.replies.get_by_role("img", name="chart.png"))
    await expect(shown(tab.replies).last).to_have_text("lost.pngno longer there")
    # played by its own player
    await tab.replies.locator("audio").evaluate("(audio) => audio.play()")
    async with tab.page.expect_download() as download:
        await tab.press("Download notes.txt")
    assert (await download.value).suggested_filename == "notes.txt"

    await tab.press("Enlarge chart.png")
    dialog = tab.page.get_by_role("dialog", name="chart.png")
    await until_picture(dialog.get_by_role("img"))
    assert await violations(tab) == []
    async with tab.page.expect_download() as download:
        await dialog.get_by_role("button", name="Download chart.png").click()
    assert (await download.value).suggested_filename == "chart.png"
    await tab.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(tab.page.get_by_role("button", name="Enlarge chart.png")).to_be_focused()

    # removed while it is shown
    await db.execute("set session_replication_role = replica")
    await db.execute("delete from storage.objects where name = %s", (notes,))
    await db.execute("reset session_replication_role")
    await tab.press("Download notes.txt")
    await expect(tab.replies.get_by_role("alert")).to_have_text("It is no longer there.")
    tab.problems.clear()  # the browser reports that


async def test_pictures_are_read_when_they_come_near(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    conversation = Conversation("Pictures")
    paths = [await store(environment, conversation.id, f"{n}.png", "image/png", png()) for n in range(3)]
    first, second, third = (part(path, f"{n}.png", "image/png") for n, path in enumerate(paths))
    text = {"type": "text", "text": "word " * 2_000}
    turns = [Turn("Draw.", "", parts=parts) for parts in ([first, text], [text, second, text], [text, third])]
    read: list[str] = []
    tab.page.on("request", lambda request: read.append(request.url) if "/object/sign/" in request.url else None)
    await rows.show(tab, db, Conversation("Pictures", turns, id=conversation.id))
    await until_picture(tab.page.get_by_role("img", name="2.png"))
    await expect(tab.replies).to_have_count(3)
    # at once: the key's own scrolling is animated, and what is laid out on the way may end it
    await tab.page.get_by_role("log").evaluate("(log) => { log.scrollTop = 0; }")
    await until_picture(tab.page.get_by_role("img", name="0.png"))
    assert not any(paths[1] in url for url in read)


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_names_run_no_script(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], hostile: str
) -> None:
    foreign = tab.foreign_requests(environment)
    conversation = Conversation("Hostile")
    path = await store(environment, conversation.id, "a.png", "image/png", png())
    parts = [
        part(path, hostile, "image/png"),
        part(path, hostile, hostile),
        part(path, hostile, f"audio/{hostile}"),
        part(path, hostile, f"image/{hostile}"),
        {**part(path, hostile, "image/png"), "url": f"attachments/{hostile}"},
        {**part(path, hostile, "image/png"), "url": f"https://example.com/attachments/{path}"},
        {**part(path, hostile, "image/png"), "url": f"attachments/../{path}"},
        {**part(path, hostile, "image/png"), "url": f"data:image/png;base64,attachments/{path}"},
    ]
    await rows.show(tab, db, Conversation("Hostile", [Turn("Draw.", "", parts=parts)], id=conversation.id))
    await expect(shown(tab.replies)).to_have_count(4)
    await until_picture(tab.replies.locator("img").first)
    assert await tab.page.locator("#root [onerror], #root [onload], #root script, #root iframe").count() == 0
    assert foreign == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_in_attachments(
    environment: dict[str, str], tab: Tab, theme: Literal["light", "dark"]
) -> None:
    page = tab.page
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    await tab.start()
    long = picture(f"{'w' * 200}.png")
    await attach(tab, long, NOTES, SOUND)
    await tab.box.press("Enter")
    await expect(tab.questions).to_have_attribute("data-status", "queued")
    await until_picture(tab.questions.locator("img").first)
    release = await held(tab)
    await attach(tab, long, NOTES, SOUND, PAPER)
    await expect(page.get_by_role("progressbar")).to_have_count(3)
    found = {"uploading": await violations(tab)}
    await page.set_viewport_size({"width": 390, "height": 780})
    found["phone"] = await violations(tab)
    assert await page.evaluate(WIDER) == []
    assert await page.evaluate("document.querySelector('.composer').scrollWidth <= innerWidth")
    await expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    release.set()
    await until_uploaded(tab, 4)
    found["uploaded"] = await violations(tab)
    assert {where: what for where, what in found.items() if what} == {}


async def test_the_keyboard_attaches_and_removes(environment: dict[str, str], tab: Tab) -> None:
    chosen: asyncio.Future[FileChooser] = asyncio.get_running_loop().create_future()
    # well before it is opened, or the browser opens its own
    tab.page.on("filechooser", lambda chooser: chosen.set_result(chooser))
    await tab.start()
    await tab.page.keyboard.press("Shift+Tab")
    await expect(tab.page.get_by_role("button", name="Attach files")).to_be_focused()
    await tab.page.keyboard.press("Enter")
    chooser = await asyncio.wait_for(chosen, 15)
    assert chooser.is_multiple()
    await chooser.set_files([PICTURE])
    await until_uploaded(tab)
    await expect(tab.box).to_be_focused()
    await tab.page.keyboard.press("Shift+Tab")
    await tab.page.keyboard.press("Shift+Tab")
    await expect(tab.page.get_by_role("button", name="Remove chart.png")).to_be_focused()
    await tab.page.keyboard.press("Enter")
    await expect(chips(tab)).to_have_count(0)
    await expect(tab.box).to_be_focused()
    await expect(tab.page.locator("form.composer").get_by_role("status")).to_have_text("")
