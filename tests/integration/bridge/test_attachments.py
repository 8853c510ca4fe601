"""Attachments from a user's upload to the provider, from a handler to the user, and to their removal."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import psycopg
import pytest

from bridge.attachments import Attachments
from bridge.errors import BadAttachment, StoreRefused, StoreUnavailable
from bridge.media_types import EXTENSIONS, FIRST_BYTES
from bridge.metrics import Metrics
from bridge.model import Attachment
from bridge.orphans import Orphans
from bridge.store import Store
from tests.support.database import Row
from tests.support.objects import FILES, upload
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working


@pytest.fixture
async def store(environment: dict[str, str]) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment), "attachments-test")
    yield store
    await store.close()


async def test_handler_reads_attachments_and_gives_some(environment: dict[str, str], user: Person) -> None:
    """And in a second attempt, it stores none of them again."""
    async with working(environment, handlers="tests.support.handlers", functions="Copy"):
        session = await user.open_session("Copy", title="named")
        kinds = ("image/png", "text/plain", "application/pdf")
        named = [await upload(user, session, kind) for kind in kinds]
        row = await user.reply(await user.ask(session, "", attachments=named))
    assert (row["status"], row["content"], row["attempt"]) == ("done", "3 copied", 2)
    files = [part for part in row["parts"] if part["type"] == "file"]
    assert [(part["mediaType"], part["filename"]) for part in files] == [
        (kind, f"copy of a.{EXTENSIONS[kind]}") for kind in kinds
    ]
    bucket = user.client.storage.from_("attachments")
    for part, kind in zip(files, kinds, strict=True):
        path = part["url"].removeprefix("attachments/")
        assert path == f"{session}/{part['id']}.{EXTENSIONS[kind]}"
        assert await bucket.download(path) == FILES[kind]
    assert len(await bucket.list(session)) == 6


async def test_storage_signs_reads_writes_lists_and_removes(store: Store, user: Person) -> None:
    storage, session = store.storage, await user.open_session(title="named")
    path = (await upload(user, session, "image/png"))["path"]
    gone = f"{session}/{uuid.uuid4()}.png"
    urls = await storage.sign([path, gone], 600)
    assert list(urls) == [path]
    assert await storage.fetch(urls[path], FIRST_BYTES) == FILES["image/png"][:FIRST_BYTES]
    assert await storage.fetch(urls[path], 10_000) == FILES["image/png"]
    for _ in range(2):  # a replay stores it again
        await storage.upload(gone, b"hello", "text/plain")
    assert set(await storage.list(session)) == {path, gone}
    await storage.remove([path, gone])
    await storage.remove([path, gone])
    assert await storage.list(session) == []
    assert await storage.fetch(urls[path], 1) is None
    with pytest.raises(StoreRefused):
        await storage.fetch(urls[path].replace("token=", "token=x"), 1)
    with pytest.raises(StoreRefused):
        await storage.upload(gone, b"x", "video/mp4")
    attachments = Attachments(storage, 10_485_760)
    with pytest.raises(BadAttachment) as caught:
        await attachments.read(Attachment("a.png", None, "image/png", path, 5))
    assert caught.value.code == "attachment_gone"


async def test_storage_that_does_not_answer_is_unavailable(environment: dict[str, str]) -> None:
    settings = worker_settings({**environment, "SUPABASE_URL": "http://127.0.0.1:1"})
    away = await Store.open(settings, "away")
    with pytest.raises(StoreUnavailable):
        await away.storage.sign(["a/b.png"], 600)
    with pytest.raises(StoreUnavailable):
        await away.storage.upload("a/b.png", b"", "image/png")
    with pytest.raises(StoreUnavailable):
        await away.storage.fetch("http://127.0.0.1:1/a", 1)
    await away.close()


async def test_objects_of_a_deleted_session_are_removed(
    environment: dict[str, str], store: Store, user: Person
) -> None:
    async with working(environment, functions="Chat", sweep_seconds=1) as worker:
        session, other = await user.open_session(title="named"), await user.open_session(title="named")
        for _ in range(3):
            await upload(user, session, "image/png")
        kept = (await upload(user, other, "image/png"))["path"]
        await user.client.table("sessions").delete().eq("id", session).execute()

        async def are_gone() -> bool:
            return not await store.storage.list(session)

        await until(are_gone, 20)
        await until(lambda: worker.metrics.value("bridge_orphans_removed_total") >= 3, 5)  # and those of other tests
    assert await store.storage.list(other) == [kept]


async def test_what_is_no_session_is_not_removed(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the database says, no more is removed than an object or a session's folder."""
    session = await user.open_session(title="named")
    path = (await upload(user, session, "image/png"))["path"]
    for prefix in ("", "/", "%/", session[:8] + "/", "../" + session + "/"):
        await db.execute("insert into bridge.orphans (prefix) values (%s) on conflict do nothing", [prefix])
    orphans = Orphans(store, store.storage, Metrics())
    await orphans._remove_some()
    assert await store.storage.list(session) == [path]
    assert "nothing is removed" in caplog.text
    await db.execute("delete from bridge.orphans")
