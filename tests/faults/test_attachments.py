"""Attachments and faults: objects that nobody needs go, those that a message names stay, and replies wait for Storage.

What the database notes, and when, is in tests/integration/schema/test_attachments.py.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from supabase import AsyncClient

from bridge import rest, storage
from devstack.stack import Stack
from tests.faults.proxy import Proxy, Rest
from tests.faults.walking import Notes, answer, is_waiting, outcomes, walk
from tests.support.attaching import ATTACHING, digest
from tests.support.database import Row
from tests.support.objects import PNG
from tests.support.storing import (
    BUCKET,
    ask_about,
    files_of,
    let_time_pass,
    make_older,
    objects_of,
    server_client,
    upload,
    upload_each,
)
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

GONE_SECONDS = 120  # a generous limit: nothing here asserts a pace
QUICK: dict[str, Any] = {**ATTACHING, "lease_seconds": 2, "sweep_seconds": 1}
REFUSED = {"statusCode": "403", "error": "Unauthorized", "message": "refused", "code": "AccessDenied"}
Connection = psycopg.AsyncConnection[Row]


@pytest.fixture(autouse=True)
async def server(environment: dict[str, str], db: Connection) -> AsyncIterator[AsyncClient]:
    """A client with the secret key; the bucket is empty, and a search for orphans is due."""
    async with server_client(environment) as server:
        await server.storage.empty_bucket(BUCKET)
        await db.execute("delete from bridge.orphans")
        await let_time_pass(db)
        yield server


async def prefixes(db: Connection) -> list[str]:
    """What is to be removed."""
    return [row["prefix"] for row in await (await db.execute("select prefix from bridge.orphans")).fetchall()]


async def are_gone(db: Connection, paths: list[str], *, orphans: int = 0) -> bool:
    """Whether these objects are gone, and so many orphans are left."""
    cursor = await db.execute("select from storage.objects where bucket_id = %s and name = any (%s)", (BUCKET, paths))
    return not await cursor.fetchall() and len(await prefixes(db)) == orphans


async def delete_session(user: Person, session_id: str) -> None:
    await user.client.table("sessions").delete().eq("id", session_id).execute()


# -- objects of deleted sessions


@pytest.mark.parametrize("workers", [1, 2])
async def test_objects_of_a_deleted_session_are_removed(
    workers: int, stack: Stack, environment: dict[str, str], user: Person, db: Connection, tmp_path: Path
) -> None:
    """More than a list of Storage has at once, with their bytes; and none of another session."""
    session_id, other = await user.open_session(title="named"), await user.open_session(title="named")
    paths = await upload_each(user.client, [session_id] * 250)
    kept = await upload(user.client, other)
    files, kept_files = await files_of(stack, db, paths), await files_of(stack, db, [kept])
    assert len(files) == 250
    async with AsyncExitStack() as running:
        for number in range(workers):
            log = tmp_path / f"{number}.log"
            await running.enter_async_context(worker_process(environment, log, **QUICK))
        await delete_session(user, session_id)
        await until(lambda: are_gone(db, paths), GONE_SECONDS)
    assert [file for file in files if file.exists()] == []
    assert await objects_of(db, other) == [kept]
    assert [file.exists() for file in kept_files] == [True]


async def test_objects_of_a_deleted_user_are_removed(
    environment: dict[str, str], user: Person, db: Connection, tmp_path: Path
) -> None:
    """Two hundred sessions at once: more than a worker is given at once, and it asks for more without a pause."""
    rows = [{"function": "Chat", "title": "named"}] * 200
    sessions: Any = (await user.client.table("sessions").insert(rows).execute()).data
    paths = await upload_each(user.client, [row["id"] for row in sessions])
    await db.execute("delete from auth.users where id = %s", (user.id,))
    assert len(await prefixes(db)) == 200
    # between two claims it could not remove them all in time, if it waited for each claim to say that there are more
    async with worker_process(environment, tmp_path / "worker.log", **ATTACHING, sweep_seconds=30):
        await until(lambda: are_gone(db, paths), 60)


@pytest.mark.parametrize("held", ["storage.list", "storage.remove", "bridge_orphans_done"])
async def test_worker_killed_while_it_removes_objects(
    held: str,
    environment: dict[str, str],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: Connection,
    tmp_path: Path,
) -> None:
    session_id, other = await user.open_session(title="named"), await user.open_session(title="named")
    paths, kept = await upload_each(user.client, [session_id] * 3), await upload(user.client, other)
    proxy.rest.only, proxy.rest.hangs = held, True
    async with worker_process(proxied, tmp_path / "one.log", **QUICK) as first:
        await delete_session(user, session_id)
        await until(lambda: proxy.held[held], GONE_SECONDS)
        await first.kill()
    assert await prefixes(db) == [f"{session_id}/"]
    assert len(await objects_of(db, session_id)) == (0 if held == "bridge_orphans_done" else 3)
    await let_time_pass(db)
    async with worker_process(environment, tmp_path / "two.log", **QUICK):
        await until(lambda: are_gone(db, paths), GONE_SECONDS)
    assert await objects_of(db, other) == [kept]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"status": 400, "says": REFUSED}, id="refused"),
        pytest.param({"status": 500}, id="500"),
    ],
)
async def test_object_that_cannot_be_removed_does_not_keep_others(
    faults: dict[str, Any], proxied: dict[str, str], proxy: Proxy, user: Person, db: Connection
) -> None:
    sessions = [await user.open_session(title="named") for _ in range(4)]
    paths = await upload_each(user.client, sessions)
    for session_id in sessions:
        await delete_session(user, session_id)
    stays = min(sessions)
    proxy.rest = Rest(**faults, only="storage.remove", about=stays)

    async def only_one_is_left() -> bool:
        await let_time_pass(db)
        return await prefixes(db) == [f"{stays}/"]

    async with working(proxied, **QUICK):
        await until(only_one_is_left, GONE_SECONDS)
        assert [path for path in paths if not await are_gone(db, [path], orphans=1)] == [paths[sessions.index(stays)]]
        await proxy.calm()
        await let_time_pass(db)
        await until(lambda: are_gone(db, paths), GONE_SECONDS)


async def test_worker_that_drains_leaves_orphans_to_others(
    environment: dict[str, str], proxied: dict[str, str], proxy: Proxy, user: Person, db: Connection, tmp_path: Path
) -> None:
    session_id = await user.open_session(title="named")
    paths = await upload_each(user.client, [session_id] * 3)
    await delete_session(user, session_id)
    proxy.rest = Rest(only="storage.remove", hangs=True)
    async with worker_process(proxied, tmp_path / "one.log", **QUICK) as first:
        await until(lambda: proxy.held["storage.remove"], GONE_SECONDS)
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    assert await objects_of(db, session_id) == sorted(paths)
    await let_time_pass(db)
    async with worker_process(environment, tmp_path / "two.log", **QUICK):
        await until(lambda: are_gone(db, paths), GONE_SECONDS)


# -- uploads that no message names


async def test_uploads_that_no_message_names_are_removed_after_a_day(
    environment: dict[str, str], user: Person, db: Connection, server: AsyncClient, notes: Notes
) -> None:
    """And no others: not those that questions and replies name, nor those of replies that run or wait."""
    session_id = await user.open_session("Give", title="named")
    unnamed, young, old = await upload_each(user.client, [session_id] * 3)
    async with working(environment, **QUICK):
        await user.reply(await ask_about(user, session_id, old))
        (given,) = {*await objects_of(db, session_id)} - {unnamed, young, old}
        running, waiting = await walk(user, ["step", "held"]), await walk(user, ["ask", "a"])
        await notes.begun("held")
        await user.reply(waiting, is_waiting)
        busy = [(await user.rows("messages", id=id))[0]["session_id"] for id in (running, waiting)]
        unfinished = await upload_each(user.client, busy)
        async with other_bucket(server) as other:
            await server.storage.from_(other).upload(unnamed, PNG, {"content-type": "image/png"})
            await make_older(db, [unnamed, old, given, *unfinished], hours=25)
            await make_older(db, [young], hours=23)
            await let_time_pass(db)
            await until(lambda: are_gone(db, [unnamed]), GONE_SECONDS)
            assert await server.storage.from_(other).download(unnamed) == PNG
        assert await objects_of(db, session_id) == sorted([young, old, given])
        assert [await objects_of(db, id) for id in busy] == [[path] for path in unfinished]
        # once these replies have ended, nobody is about to name theirs
        notes.let_go("held")
        await answer(user, waiting, "a")
        for id in (running, waiting):
            await user.reply(id)
        await let_time_pass(db)
        await until(lambda: are_gone(db, unfinished), GONE_SECONDS)
    assert await objects_of(db, session_id) == sorted([young, old, given])


@asynccontextmanager
async def other_bucket(server: AsyncClient) -> AsyncIterator[str]:
    await server.storage.create_bucket("other")
    try:
        yield "other"
    finally:
        await server.storage.empty_bucket("other")
        await server.storage.delete_bucket("other")


# -- Storage is away


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of Storage take a second at most."""
    monkeypatch.setattr(storage, "CALL_SECONDS", 1.0)
    monkeypatch.setattr(storage, "TRANSFER_SECONDS", 1.0)
    monkeypatch.setattr(rest, "CALL_SECONDS", 1.0)


@pytest.mark.parametrize("call", ["storage.sign", "storage.fetch"])
@pytest.mark.parametrize(
    "faults",
    [{"status": 503}, {"status": 429}, {"hangs": True}, {"swallows": True}, {"resets": True}],
    ids=["503", "429", "hanging", "swallowing", "resetting"],
)
async def test_reply_waits_for_storage(
    faults: dict[str, Any],
    call: str,
    impatient: None,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: Connection,
) -> None:
    """Its attempts fail, one after another. Other replies go on, and keep their leases."""
    session_id = await user.open_session("Read", title="named")
    path = await upload(user.client, session_id)
    async with working(proxied, **QUICK, max_failures=20, concurrency=4) as worker:
        proxy.rest = Rest(**faults, only=call)
        streaming = await user.ask(await user.open_session(title="named"), "[[tokens=100 delay=0.05]]")
        question = await ask_about(user, session_id, path)
        row = await user.reply(question, lambda row: row["attempt"] > 1, within=60)
        assert row["status"] in ("queued", "running")
        other = await user.reply(await user.ask(await user.open_session(title="named"), "[[text=other]]"))
        assert (other["content"], other["attempt"]) == ("other", 1)
        assert (await user.reply(streaming))["attempt"] == 1
        await proxy.calm()
        reply = await user.reply(question, within=60)
        assert worker.metrics.value("bridge_leases_lost_total") == 0
    assert (reply["status"], reply["content"]) == ("done", f"0.png {digest(PNG)}\n")
    runs = await (
        await db.execute(
            "select error ->> 'code' as code from bridge.runs where question_id = %s order by attempt", (question,)
        )
    ).fetchall()
    assert {row["code"] for row in runs[:-1]} == {"attachment_unavailable"}
    assert runs[-1]["code"] is None


async def test_reply_fails_after_its_attempts_without_storage(
    impatient: None, proxied: dict[str, str], proxy: Proxy, user: Person, db: Connection
) -> None:
    session_id = await user.open_session("Read", title="named")
    path = await upload(user.client, session_id)
    async with working(proxied, **QUICK, max_failures=2):
        proxy.rest = Rest(status=503, only="storage")
        question = await ask_about(user, session_id, path)
        reply = await user.reply(question, within=60)
        assert (reply["status"], reply["error"]["code"]) == ("failed", "attachment_unavailable")
        assert await outcomes(db, question) == ["failed"] * 2
        await proxy.calm()
        await user.client.rpc("retry_message", {"message_id": question}).execute()
        reply = await user.reply(question, lambda row: row["status"] == "done", within=60)
    assert reply["content"] == f"0.png {digest(PNG)}\n"


@pytest.mark.parametrize("call", ["storage.sign", "storage.fetch"])
async def test_stop_does_not_wait_for_storage(call: str, proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    """Its own limits would be 27 s, and three minutes."""
    session_id = await user.open_session("Read", title="named")
    path = await upload(user.client, session_id)
    async with working(proxied, **QUICK):
        proxy.rest = Rest(hangs=True, only=call)
        question = await ask_about(user, session_id, path)
        await until(lambda: proxy.held[call], 20)
        await user.client.rpc("cancel_message", {"message_id": question}).execute()
        assert (await user.reply(question, within=10))["status"] == "cancelled"


async def test_object_removed_before_the_attempt_ends_the_reply(
    environment: dict[str, str], user: Person, db: Connection, server: AsyncClient
) -> None:
    session_id = await user.open_session("Read", title="named")
    path = await upload(user.client, session_id)
    question = await ask_about(user, session_id, path)
    await server.storage.from_(BUCKET).remove([path])
    async with working(environment, **QUICK):
        reply = await user.reply(question)
        assert (reply["status"], reply["error"]["code"]) == ("failed", "attachment_gone")
        assert await outcomes(db, question) == ["failed"]
        # the session goes on
        assert (await user.reply(await user.ask(session_id, "again")))["status"] == "done"


# -- attachments of replies


@pytest.mark.parametrize("fault", [{"hangs": True}, {"swallows": True}], ids=["before", "after"])
@pytest.mark.parametrize("held", ["storage.upload", "bridge_step"])
@pytest.mark.parametrize("end", ["killed", "drained"])
async def test_worker_ended_while_it_gives_an_attachment(
    fault: dict[str, Any],
    held: str,
    end: str,
    environment: dict[str, str],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: Connection,
    tmp_path: Path,
) -> None:
    """Before or after its upload, and before or after the write of the step that follows: one object, and one part."""
    session_id = await user.open_session("Give", title="named")
    proxy.rest = Rest(only=held, about='"note"' if held == "bridge_step" else "", **fault)  # of the second step
    async with worker_process(proxied, tmp_path / "one.log", **QUICK, drain_seconds=1) as first:
        question = await user.ask(session_id, "draw")
        await until(lambda: proxy.held[held], 20)
        if end == "killed":
            await first.kill()
        else:
            first.signal(signal.SIGTERM)
            assert await first.ended() == 0
    assert len(await objects_of(db, session_id)) == (0 if held == "storage.upload" and "hangs" in fault else 1)
    await proxy.calm()
    async with worker_process(environment, tmp_path / "two.log", **QUICK):
        reply = await user.reply(question, within=40)
    assert (reply["status"], reply["content"], reply["attempt"]) == ("done", "dot noted", 2)
    (path,) = await objects_of(db, session_id)
    (part,) = [part for part in reply["parts"] if part["type"] == "file"]
    assert part["url"] == f"attachments/{path}"
    assert await user.client.storage.from_(BUCKET).download(path) == PNG
    cursor = await db.execute("select path from bridge.attachments where message_id = %s", (reply["id"],))
    assert await cursor.fetchall() == [{"path": path}]


async def test_upload_that_ends_after_its_session_is_removed(
    proxied: dict[str, str], proxy: Proxy, user: Person, db: Connection, server: AsyncClient
) -> None:
    """A worker, or a user, was uploading when the session was deleted."""
    session_id = await user.open_session("Give", title="named")
    async with working(proxied, **QUICK):
        path = await upload(user.client, session_id)
        await delete_session(user, session_id)
        await until(lambda: are_gone(db, [path]), GONE_SECONDS)
        await upload(server, session_id)
        await let_time_pass(db)
        await until(lambda: is_empty(db, session_id), GONE_SECONDS)


async def is_empty(db: Connection, session_id: str) -> bool:
    return not await objects_of(db, session_id)
