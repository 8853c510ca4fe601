"""User input stops no worker and reaches no other user: unreadable JSON, ids of deleted rows, others' sessions."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge.model import Checkpoint, Result
from bridge.store import Store
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import ENDED, Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working


def nested(levels: int) -> str:
    """Return an object that is this many levels deep."""
    return '{"x":' + "[" * (levels - 1) + "1" + "]" * (levels - 1) + "}"


TOO_DEEP = [nested(33), nested(1200)]
TOO_LARGE = ['{"n":1e5000}', '{"n":[{"m":-1e400}]}']


@pytest.fixture
async def other(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    return await sign_up()


@asynccontextmanager
async def opened(environment: dict[str, str], name: str) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment), name)
    try:
        yield store
    finally:
        await store.close()


async def write(stack: Stack, user: Person, statement: str, *values: object) -> None:
    """Run a statement as PostgREST does for a user, which passes JSON on unparsed; client libraries do not."""
    claims = json.dumps({"sub": user.id, "role": "authenticated"})
    async with database.database(stack.admin_url) as connection, connection.transaction():
        await connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        await connection.execute("set local role authenticated")
        await connection.execute(statement.encode(), values)


@pytest.mark.parametrize("value", [*TOO_DEEP, *TOO_LARGE], ids=["33 deep", "1200 deep", "huge", "huge within"])
async def test_unreadable_json_is_refused(stack: Stack, user: Person, value: str) -> None:
    session_id = await user.open_session(title="named")
    for statement, values in (
        ("insert into public.messages (session_id, content, data) values (%s, 'x', %s::jsonb)", (session_id, value)),
        ("insert into public.sessions (metadata) values (%s::jsonb)", (value,)),
        ("update public.sessions set metadata = %s::jsonb where id = %s", (value, session_id)),
    ):
        with pytest.raises(psycopg.Error, match="is nested too deeply or contains a number that is too large") as error:
            await write(stack, user, statement, *values)
        assert error.value.sqlstate == "PT400"


async def test_json_at_the_limits_is_accepted_and_read(environment: dict[str, str], user: Person) -> None:
    data = {**json.loads(nested(32)), "n": 1e308, "text": "9" * 5000}
    session_id = await user.open_session(title="named", metadata=data)
    await user.ask(session_id, "hello", data=data)
    async with opened(environment, "bounds") as store:
        (job,) = (await store.claim(1, [])).jobs
    assert job.turn is not None
    assert job.turn.data == job.turn.session.metadata == data


@pytest.mark.parametrize("value", [TOO_DEEP[1], TOO_LARGE[0]], ids=["deep", "huge"])
@pytest.mark.parametrize("column", ["data", "metadata"])
async def test_unreadable_row_fails_only_its_own_question(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], column: str, value: str
) -> None:
    session_id, other_session = await user.open_session(title="named"), await user.open_session(title="named")
    bad, good = await user.ask(session_id, "[[text=bad]]"), await user.ask(other_session, "[[text=good]]")
    if column == "data":
        await db.execute("update public.messages set data = %s::jsonb where id = %s", (value, bad))
    else:
        await db.execute("alter table public.sessions disable trigger check_json")
        await db.execute("update public.sessions set metadata = %s::jsonb where id = %s", (value, session_id))
        await db.execute("alter table public.sessions enable trigger check_json")
    query = "select status, error from public.messages where id = %s"

    async def has_ended() -> bool:
        return bool([row for row in await (await db.execute(query, (bad,))).fetchall() if row["status"] in ENDED])

    async with working(environment, ready=False):
        await until(has_ended, 20)
        assert (await user.reply(good))["content"] == "good"
    (question,) = await (await db.execute(query, (bad,))).fetchall()
    assert (question["status"], question["error"]["code"]) == ("failed", "unreadable")


async def test_ids_of_deleted_rows_are_refused(
    environment: dict[str, str], user: Person, other: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session(title="named")
    message_id = await user.ask(session_id, "what is mine?")
    theirs = await other.open_session(title="named")

    async def take() -> list[str | None]:
        """Anyone can learn the ids of deleted rows through postgres_changes, and clients choose ids."""
        codes = []
        for table, row in (
            ("sessions", {"id": session_id}),
            ("messages", {"id": message_id, "session_id": theirs, "content": "what is theirs?"}),
        ):
            with pytest.raises(APIError) as error:
                await other.client.table(table).insert(row).execute()
            codes.append(error.value.code)
        return codes

    async with opened(environment, "first") as first:
        (job,) = (await first.claim(5, [])).jobs
        await user.client.table("sessions").delete().eq("id", session_id).execute()
        assert await take() == ["PT409", "PT409"]
        # so the worker that is still answering reaches no one
        assert (await first.claim(5, [message_id])).jobs == ()
        late = [Checkpoint(message_id, job.attempt, 1, "a secret")]
        assert (await first.beat(late)).states == {message_id: "lost"}
        done = Result(message_id, job.attempt, "done", text="a secret")
        assert (await first.finish([done])).states == {message_id: "gone"}
    # nor when the user is deleted
    await db.execute("delete from auth.users where id = %s", (user.id,))
    assert await take() == ["PT409", "PT409"]


async def test_deleted_id_is_free_again_after_a_week(
    user: Person, other: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    recent, old = [await user.open_session(title="named") for _ in range(2)]
    old_question = await user.ask(old, "long ago")
    await db.execute("update public.messages set updated_at = now() - interval '8 days' where id = %s", (old_question,))

    async def kept() -> set[str]:
        rows = await (await db.execute("select id::text from bridge.deleted_ids")).fetchall()
        return {row["id"] for row in rows} & {recent, old, old_question}

    await user.client.table("sessions").delete().eq("id", recent).execute()
    assert await kept() == {recent}
    # the oldest of all: a deletion forgets the oldest 500
    await db.execute("update bridge.deleted_ids set deleted_at = now() - interval '8 years' where id = %s", (recent,))
    await user.client.table("sessions").delete().eq("id", old).execute()
    assert await kept() == {old}
    assert await other.open_session(id=recent) == recent


async def test_file_for_another_users_session_does_not_wait_for_its_lock(
    stack: Stack, user: Person, other: Person
) -> None:
    session_id = await user.open_session(title="named")
    row: dict[str, Any] = {"id": str(uuid.uuid4()), "session_id": session_id, "path": "a.py", "content": "x"}
    async with database.database(stack.admin_url) as connection, connection.transaction():
        await connection.execute("select from public.sessions where id = %s for no key update", (session_id,))
        with pytest.raises(APIError) as error:
            await other.client.table("code_files").insert(row).execute()
    assert error.value.code == "42501"
    await user.client.table("code_files").insert(row).execute()


async def test_large_metadata_is_refused_before_it_is_searched(user: Person) -> None:
    """To search 10 MB for its depth took 8 s of the database. This is too large and too deep: its size comes first."""
    body = {"metadata": {"deep": json.loads(nested(40)), "large": [[n] for n in range(20_000)]}}
    session_id = await user.open_session()
    for call in (
        user.client.table("sessions").insert(body),
        user.client.table("sessions").update(body).eq("id", session_id),
    ):
        with pytest.raises(APIError) as error:
            await call.execute()
        assert (error.value.code, "at most 16384 bytes" in str(error.value.message)) == ("23514", True)


UNPRINTABLE = ["\x1b", "\x07", "\n", "\r", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\u200b"]


@pytest.mark.parametrize("character", UNPRINTABLE)
async def test_function_with_characters_that_cannot_be_printed_is_refused(user: Person, character: str) -> None:
    session_id = await user.open_session()
    for call in (
        user.client.table("sessions").insert({"function": f"Chat{character}"}),
        user.client.table("sessions").update({"function": f"{character}Chat"}).eq("id", session_id),
    ):
        with pytest.raises(APIError) as error:
            await call.execute()
        assert error.value.code == "23514"


async def test_broadcasts_about_a_deleted_session_are_removed(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], user: Person
) -> None:
    gone, kept = [await user.open_session(title="named") for _ in range(2)]
    async with working(environment):
        for session_id in (gone, kept):
            await user.reply(await user.ask(session_id, "[[text=secret]]"))

    async def stored(session_id: str) -> int:
        rows = await db.execute(
            "select count(*)::int as n from realtime.messages where topic = 'session:' || %(id)s"
            " or (event = 'session' and payload ->> 'id' = %(id)s)",
            {"id": session_id},
        )
        return int((await rows.fetchall())[0]["n"])

    assert await stored(gone) > 3
    await user.client.table("sessions").delete().eq("id", gone).execute()
    assert await stored(gone) == 0
    assert await stored(kept) > 3
