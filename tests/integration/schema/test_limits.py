"""Limits: the database enforces them, and reports which one and until when."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge.settings import Settings
from devstack import migrations
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.integration.schema.test_hostile_input import write
from tests.support import shipped
from tests.support.database import Row, set_limits
from tests.support.users import Person
from tests.support.workers import working


async def refused(call: Awaitable[Any]) -> dict[str, Any]:
    with pytest.raises(APIError) as error:
        await call
    return dict(error.value.json())


async def test_concurrent_inserts_are_counted_one_by_one(
    db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    await set_limits(db, user.id, messages_per_minute=20)
    other = await sign_up()
    sessions = [await user.open_session() for _ in range(10)]
    others = await other.open_session()

    async def timed() -> float:
        began = time.monotonic()
        await other.ask(others, "hello")
        return time.monotonic() - began

    asked = [user.ask(sessions[n % 10], f"question {n}") for n in range(50)]
    *answers, waited = await asyncio.gather(*asked, timed(), return_exceptions=True)
    taken = [answer for answer in answers if isinstance(answer, str)]
    errors = [answer.json() for answer in answers if isinstance(answer, APIError)]
    assert (len(taken), len(errors)) == (20, 30), answers
    assert {error["code"] for error in errors} == {"PT429"}
    assert isinstance(waited, float)
    detail = json.loads(errors[0]["details"])
    assert (detail["limit"], detail["value"]) == ("messages_per_minute", 20)
    assert "ends_at" in detail
    assert errors[0]["message"] == "Rate limit: 20 messages per minute"
    assert errors[0]["hint"].startswith("Try again in ")
    assert len(await user.rows("messages")) == 20
    # the minute is over
    await db.execute("update bridge.rates set minute_at = minute_at - interval '1 minute'")
    await user.ask(sessions[0], "again")


async def test_inserts_of_one_user_do_not_block_another(
    db: psycopg.AsyncConnection[Row],
    user: Person,
    sign_up: Callable[[], Awaitable[Person]],
    environment: dict[str, str],
) -> None:
    """While one user's insert holds that user's lock, another user's succeeds."""
    other = await sign_up()
    mine, theirs = await user.open_session(), await other.open_session()
    await user.ask(mine, "makes the row")
    async with db.transaction():
        await db.execute("select from bridge.rates where user_id = %s for update", (user.id,))
        blocked = asyncio.create_task(user.ask(mine, "waits"))
        async with asyncio.timeout(5):
            await other.ask(theirs, "does not wait")
        assert not blocked.done()
    await blocked


async def test_unfinished_replies_are_limited(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], user: Person
) -> None:
    await set_limits(db, user.id, unfinished_replies=2)
    session_id = await user.open_session(title="named")
    first, _ = await user.ask(session_id, "1"), await user.ask(session_id, "2")
    error = await refused(user.ask(session_id, "3"))
    assert (error["code"], json.loads(error["details"])["limit"]) == ("PT429", "unfinished_replies")
    async with working(environment):
        await user.reply(first)
        await user.reply(await user.ask(session_id, "3"))


async def test_duplicate_check_runs_before_any_limit(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    await set_limits(db, user.id, messages_per_minute=1)
    session_id = await user.open_session(on_new_message="reject")
    message_id = await user.ask(session_id, "1")
    row = {"id": message_id, "session_id": session_id, "content": "1"}
    error = await refused(user.client.table("messages").insert(row).execute())
    assert error["code"] == "23505"


async def test_retry_is_charged_and_deletion_refunds_nothing(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], user: Person
) -> None:
    await set_limits(db, user.id, messages_per_minute=3)
    session_id = await user.open_session(title="named")
    async with working(environment):
        message_id = await user.ask(session_id, "1")
        await user.reply(message_id)
        retry = user.client.rpc("retry_message", {"message_id": message_id})
        assert (await retry.execute()).data == "queued"
        await user.reply(message_id, lambda row: row["attempt"] == 2 and row["status"] == "done")
    await user.client.table("sessions").delete().eq("id", session_id).execute()
    session_id = await user.open_session()
    await user.ask(session_id, "2")
    assert (await refused(user.ask(session_id, "3")))["code"] == "PT429"


async def test_tokens_per_day_are_limited(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], user: Person
) -> None:
    await set_limits(db, user.id, tokens_per_day=10)
    session_id = await user.open_session(title="named")
    async with working(environment):
        await user.reply(await user.ask(session_id, "[[tokens=10]]"))
    error = await refused(user.ask(session_id, "more"))
    assert json.loads(error["details"])["limit"] == "tokens_per_day"
    await user.client.table("sessions").delete().eq("id", session_id).execute()
    session_id = await user.open_session()
    await refused(user.ask(session_id, "more"))
    await db.execute("update bridge.usage set day = day - 1")
    await user.ask(session_id, "a new day")


async def test_sessions_and_files_are_limited(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    await set_limits(db, user.id, sessions=2, files_per_session=1, file_bytes=10)
    session_id, _ = await user.open_session(), await user.open_session()
    assert json.loads((await refused(user.open_session()))["details"])["limit"] == "sessions"
    files = user.client.table("code_files")
    file = {"session_id": session_id, "path": "a", "content": "0123456789"}
    await files.insert(file).execute()
    error = await refused(files.insert(file | {"path": "b"}).execute())
    assert json.loads(error["details"])["limit"] == "files_per_session"
    error = await refused(files.update({"content": "01234567890"}).eq("path", "a").execute())
    assert error["code"] == "PT413"


async def test_upsert_of_existing_path_ignores_file_limit(
    stack: Stack, db: psycopg.AsyncConnection[Row], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    await set_limits(db, user.id, files_per_session=1)
    session_id, another = await user.open_session(), await user.open_session()
    files = user.client.table("code_files")
    file = {"session_id": session_id, "path": "a", "content": "0"}
    by_path = "session_id,path"
    await files.upsert(file, on_conflict=by_path).execute()
    await files.upsert(file | {"content": "1"}, on_conflict=by_path).execute()
    await files.upsert(file | {"content": "2"}, on_conflict=by_path, ignore_duplicates=True).execute()
    # as PostgREST writes an upsert: it sets every column it was sent
    await write(
        stack,
        user,
        "insert into public.code_files (session_id, path, content) values (%s, 'a', '3') on conflict (session_id, path)"
        " do update set session_id = excluded.session_id, path = excluded.path, content = excluded.content",
        session_id,
    )
    (row,) = await user.rows("code_files")
    assert (row["session_id"], row["content"], row["revision"]) == (session_id, "3", 3)
    assert {version["content"] for version in await user.rows("code_file_versions")} == {"0", "1"}
    error = await refused(files.upsert(file | {"path": "b"}, on_conflict=by_path).execute())
    assert json.loads(error["details"])["limit"] == "files_per_session"
    # a file cannot move to another session, and other users can neither write nor detect it
    error = await refused(files.update({"session_id": another}).eq("path", "a").execute())
    assert (error["code"], error["message"]) == ("PT400", "A file cannot move to another session")
    other = await sign_up()
    errors = [
        await refused(other.client.table("code_files").upsert(file | {"path": path}, on_conflict=by_path).execute())
        for path in ("a", "b")
    ]
    assert errors[0] == errors[1]
    assert errors[0]["code"] == "42501"
    (row,) = await user.rows("code_files")
    assert row["content"] == "3"
    # nor does the limit of another user's session leak
    await set_limits(db, user.id, file_bytes=1)
    own = {"session_id": await other.open_session(), "path": "own", "content": "long"}
    await other.client.table("code_files").insert(own).execute()
    assert (await refused(other.client.table("code_files").insert(own | {"session_id": session_id}).execute()))[
        "code"
    ] == "42501"
    moved = other.client.table("code_files").update({"session_id": session_id}).eq("path", "own")
    assert (await refused(moved.execute()))["message"] == "A file cannot move to another session"


async def test_versions_per_file_are_limited(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    await set_limits(db, user.id, versions_per_file=3)
    session_id = await user.open_session()
    files = user.client.table("code_files")
    await files.insert({"session_id": session_id, "path": "a", "content": "0"}).execute()
    for n in range(1, 8):
        await files.update({"content": str(n)}).eq("path", "a").execute()
    versions = await user.rows("code_file_versions")
    assert sorted(version["content"] for version in versions) == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("row", "code", "text"),
    [
        ({"content": ""}, "PT400", "The message is empty"),
        ({"content": " \n"}, "PT400", "The message is empty"),
        ({"content": "x" * 32769}, "PT413", "32769 bytes (limit 32768)"),
        ({"content": "é" * 16385}, "PT413", "32770 bytes"),
        ({"content": "x", "data": [1]}, "PT400", "JSON object"),
        ({"content": "x", "data": {"a": "x" * 32768}}, "PT400", "32768 bytes"),
    ],
)
async def test_invalid_message_is_refused(user: Person, row: dict[str, Any], code: str, text: str) -> None:
    session_id = await user.open_session()
    error = await refused(user.client.table("messages").insert({"session_id": session_id, **row}).execute())
    assert error["code"] == code
    assert text in error["message"]
    assert await user.rows("messages") == []


@pytest.mark.parametrize(
    ("most", "taken", "refused_at"),
    [(131_072, 131_072, 131_073), (None, 131_072, 131_073), (10_000_000, 131_072, 131_073), (40_000, 40_000, 40_001)],
)
async def test_limit_row_alone_allows_long_messages(
    db: psycopg.AsyncConnection[Row], user: Person, most: int | None, taken: int, refused_at: int
) -> None:
    await db.execute(
        "insert into bridge.limits (name, user_id, value) values ('message_bytes', %s, %s)", (user.id, most)
    )
    session_id = await user.open_session()
    await user.ask(session_id, "x" * taken)
    for text in ("x" * refused_at, "é" * (refused_at // 2 + 1)):
        error = await refused(user.ask(session_id, text))
        assert error["code"] == "PT413"
        assert f"(limit {taken})" in error["message"]
    assert [len(row["content"]) for row in await user.rows("messages")] == [taken]


async def test_long_message_reaches_the_model_whole(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    await set_limits(db, user.id, message_bytes=131_072)
    text = "[[text=read]]" + "".join(f"{n:06d} é😀 " for n in range(9_000))[:100_000]
    session_id = await user.open_session(title="named")
    async with working(environment):
        row = await user.reply(await user.ask(session_id, text))
        assert (row["status"], row["content"]) == ("done", "read")
        assert model.requests[-1].body["messages"][-1]["content"].strip() == text.strip()
        # and in the history of the next question
        await user.reply(await user.ask(session_id, "[[text=again]]"))
        assert any(m["content"].strip() == text.strip() for m in model.requests[-1].body["messages"])


async def test_message_for_unknown_session_is_refused(user: Person) -> None:
    error = await refused(user.ask("00000000-0000-0000-0000-000000000000", "hello"))
    assert error["code"] == "42501"
    assert "does not exist or is not yours" in error["message"]


async def test_sessions_opened_in_a_minute_are_limited(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    await set_limits(db, user.id, sessions_per_minute=3)
    sessions = [await user.open_session() for _ in range(3)]
    await user.client.table("sessions").delete().eq("id", sessions[0]).execute()  # gives no allowance back
    error = await refused(user.open_session())
    assert (error["code"], error["message"]) == ("PT429", "Rate limit: 3 sessions per minute")
    assert json.loads(error["details"])["limit"] == "sessions_per_minute"
    assert re.fullmatch(r"Try again in [1-9]\d* s\.", error["hint"])
    # in one request as well
    await db.execute("update bridge.rates set minute_at = minute_at - interval '1 minute'")
    await refused(user.client.table("sessions").insert([{}, {}, {}, {}]).execute())
    await user.client.table("sessions").insert([{}, {}, {}]).execute()


async def test_rows_changed_in_a_minute_are_limited(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], user: Person
) -> None:
    session_id, other = await user.open_session(title="named"), await user.open_session(title="named")
    file = {"session_id": session_id, "path": "a", "content": "0"}
    await set_limits(db, user.id, changes_per_minute=6)
    sessions, files = user.client.table("sessions"), user.client.table("code_files")
    await sessions.update({"title": "1"}).eq("id", session_id).execute()
    await files.insert(file).execute()
    await files.update({"content": "1"}).eq("path", "a").execute()
    await files.upsert(file, on_conflict="session_id,path").execute()  # one change as well
    await files.delete().eq("path", "a").execute()
    # questions and replies change rows, and these are not the user's changes
    async with working(environment):
        await user.reply(await user.ask(session_id, "hello"))
    await sessions.delete().eq("id", other).execute()
    for refusal in (
        sessions.update({"title": "2"}).eq("id", session_id),
        sessions.delete().eq("id", session_id),
        files.insert(file),
    ):
        error = await refused(refusal.execute())
        assert (error["code"], error["message"]) == ("PT429", "Rate limit: 6 changes per minute")
    (row,) = await user.rows("sessions")
    assert row["title"] == "1"


async def test_session_with_files_is_one_change(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    session_id = await user.open_session()
    files = [{"session_id": session_id, "path": str(n), "content": "0"} for n in range(20)]
    await user.client.table("code_files").insert(files).execute()
    await set_limits(db, user.id, changes_per_minute=21)
    await user.client.table("sessions").delete().eq("id", session_id).execute()
    assert await user.rows("code_files") == []


async def test_limit_without_an_end_says_what_helps(db: psycopg.AsyncConnection[Row], user: Person) -> None:
    await set_limits(db, user.id, sessions=1)
    await user.open_session()
    assert (await refused(user.open_session()))["hint"] == "Wait for a reply to finish, or delete something."


async def test_shipped_limits_cannot_ruin(db: psycopg.AsyncConnection[Row]) -> None:
    """The migrations' own rows: tests lift them."""
    schemas = migrations.schemas(shipped.project())
    text = "".join(file.read_text() for file in schemas if file.name == "limits.sql")
    values = dict(re.findall(r"\('(\w+)', (\d+|null)\)", text))
    assert "null" not in values.values()
    assert int(values["running_replies"]) * 2 < Settings.model_fields["concurrency"].default
