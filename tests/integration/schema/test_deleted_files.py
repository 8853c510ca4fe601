"""Events about deleted code files, and about sessions that move up in the list."""

from __future__ import annotations

import psycopg

from tests.support.database import Row
from tests.support.users import Ear, Person


async def add_files(user: Person, session_id: str, *paths: str) -> dict[str, str]:
    """Add code files; return their ids by path."""
    rows = [{"session_id": session_id, "path": path, "content": path} for path in paths]
    await user.client.table("code_files").insert(rows).execute()
    return {row["path"]: row["id"] for row in await user.rows("code_files", session_id=session_id)}


async def marked(ear: Ear, user: Person, session_id: str) -> None:
    """Wait until every event so far has arrived."""
    await user.client.table("code_files").insert({"session_id": session_id, "path": "mark", "content": ""}).execute()
    await ear.until(lambda ear: ear.of("file", path="mark"))


async def test_deleted_files_are_announced_once_per_statement(user: Person) -> None:
    session_id, other_id = await user.open_session(), await user.open_session()
    ear = await user.listen(f"session:{session_id}", "file", "files_deleted")
    ids = await add_files(user, session_id, "a.py", "b.py", "c.py")
    await add_files(user, other_id, "a.py")
    files = user.client.table("code_files")
    await files.delete().eq("id", ids["a.py"]).execute()
    await files.delete().in_("path", ["a.py", "b.py", "c.py"]).execute()  # in both sessions
    await files.delete().eq("path", "none").execute()
    await marked(ear, user, session_id)
    assert [event["ids"] for event in ear.of("files_deleted")] == [[ids["a.py"]], sorted([ids["b.py"], ids["c.py"]])]


async def test_deleted_session_does_not_announce_its_files(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session_id = await user.open_session()
    await add_files(user, session_id, "a.py", "b.py")
    sent = "select count(*) as count from realtime.messages where topic = %s and event = 'files_deleted'"
    topic = (f"session:{session_id}",)
    await user.client.table("sessions").delete().eq("id", session_id).execute()
    assert await (await db.execute(sent, topic)).fetchall() == [{"count": 0}]


async def test_event_with_too_many_ids_omits_them(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session_id = await user.open_session()
    ear = await user.listen(f"session:{session_id}", "file", "files_deleted")
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")  # past the limit, without events
        await db.execute(
            "insert into public.code_files (session_id, path) select %s, n::text from generate_series(1, 900) n",
            (session_id,),
        )
    await db.execute("delete from public.code_files where session_id = %s", (session_id,))
    await ear.until(lambda ear: ear.of("files_deleted"))
    (event,) = ear.of("files_deleted")
    assert event.pop("id"), "Realtime gives every broadcast an id"
    assert event == {"omitted": ["ids"]}


async def test_failing_broadcast_does_not_stop_a_row(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    session_id = await user.open_session()
    await add_files(user, session_id, "a.py")
    await user.open_session()  # so that a message moves the first session up
    await db.execute("alter function realtime.send rename to send_away")
    try:
        await user.client.table("code_files").delete().eq("session_id", session_id).execute()
        await user.ask(session_id, "Hello?")
    finally:
        await db.execute("alter function realtime.send_away rename to send")
    assert len(await user.rows("messages", session_id=session_id)) == 1
    assert await user.rows("code_files", session_id=session_id) == []


async def test_only_sessions_that_move_up_are_announced(user: Person) -> None:
    first = await user.open_session(title="first")
    second = await user.open_session(title="second")
    ear = await user.listen(f"user:{user.id}", "session")

    async def mark() -> None:
        await user.client.table("sessions").update({"title": "mark"}).eq("id", second).execute()
        await ear.until(lambda ear: ear.of("session", title="mark"))

    await user.ask(first, "moves up")
    await user.ask(first, "is the newest already")
    await user.ask(second, "moves up")
    await user.ask(second, "is the newest already")
    await user.ask(first, "moves up again")
    await mark()
    moved = ear.of("session")[:-1]
    assert [row["id"] for row in moved] == [first, second, first]
    assert [row["last_ordinal"] for row in moved] == [2, 2, 6]
    assert [row["updated_at"] for row in moved] == sorted(row["updated_at"] for row in moved)
    assert {row["user_id"] for row in moved} == {user.id}
