"""Other users and anonymous clients get no access through REST, broadcasts or postgres_changes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from postgrest.exceptions import APIError
from realtime import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from tests.support.users import Ear, Person
from tests.support.workers import working

TABLES = ("sessions", "messages", "code_files", "code_file_versions")
WORKER_CALLS: dict[str, dict[str, Any]] = {
    "bridge_claim": {"worker": "w", "slots": 1, "holding": [], "lease_seconds": 30, "history": 1},
    "bridge_beat": {"worker": "w", "jobs": []},
    "bridge_finish": {"worker": "w", "results": []},
    "bridge_leave": {"worker": "w"},
    "bridge_probe": {"nonce": "n"},
    "bridge_status": {},
}


@pytest.fixture
async def owner(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    return await sign_up()


@pytest.fixture
async def other(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    return await sign_up()


@pytest.fixture
async def anonymous(environment: dict[str, str]) -> Any:
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"], options)


async def filled(owner: Person, environment: dict[str, str]) -> tuple[str, str]:
    async with working(environment):
        session_id = await owner.open_session("Code")
        reply = '{"reply": "secret", "files": [{"path": "a.py", "content": "secret"}]}'
        message_id = await owner.ask(session_id, f"[[json={reply}]]")
        assert (await owner.reply(message_id))["status"] == "done"
    await owner.client.table("code_files").update({"content": "mine"}).eq("path", "a.py").execute()
    for table in TABLES:
        assert await owner.rows(table), table
    return session_id, message_id


async def refused(call: Any) -> str:
    with pytest.raises(APIError) as error:
        await call.execute()
    return str(error.value.code)


async def test_rest_gives_other_users_no_access(
    environment: dict[str, str], owner: Person, other: Person, anonymous: AsyncClient
) -> None:
    session_id, message_id = await filled(owner, environment)
    message = {"session_id": session_id, "content": "let me in"}
    file = {"session_id": session_id, "path": "b.py", "content": ""}

    for table in TABLES:
        assert await other.rows(table) == []
        assert await refused(anonymous.table(table).select("*")) == "42501"
    for client in (other.client, anonymous):
        assert await refused(client.table("messages").insert(message)) == "42501"
        assert await refused(client.table("code_files").insert(file)) == "42501"
        for call in ("cancel_message", "retry_message"):
            assert await refused(client.rpc(call, {"message_id": message_id})) in ("PT404", "42501")
        for call, arguments in WORKER_CALLS.items():
            assert await refused(client.rpc(call, arguments)) in ("42501", "PGRST202"), call
        for call in ("promote", "end_job", "enqueue"):
            assert await refused(client.schema("bridge").rpc(call, {})) in ("PGRST106", "42501"), call
        for table in ("jobs", "runs", "dead_letters", "workers"):
            assert await refused(client.schema("bridge").table(table).select("*")) in ("PGRST106", "42501")
    # updates and deletes do not see the rows, so they change nothing
    await other.client.table("sessions").update({"title": "taken"}).eq("id", session_id).execute()
    await other.client.table("sessions").delete().eq("id", session_id).execute()
    await other.client.table("code_files").update({"content": "taken"}).eq("session_id", session_id).execute()
    (session,) = await owner.rows("sessions")
    assert session["title"] != "taken"
    (now,) = await owner.rows("code_files")
    assert now["content"] == "mine"


@pytest.mark.parametrize(
    "row",
    [
        {"role": "assistant"},
        {"status": "done"},
        {"ordinal": 1},
        {"attempt": 9},
        {"reply_to": str(uuid.uuid4())},
        {"error": {}},
    ],
)
async def test_a_user_writes_only_granted_columns(owner: Person, row: dict[str, Any]) -> None:
    session_id = await owner.open_session()
    assert await refused(owner.client.table("messages").insert({"session_id": session_id, "content": "x", **row})) == (
        "42501"
    )


async def test_a_user_cannot_change_or_delete_messages(environment: dict[str, str], owner: Person) -> None:
    await filled(owner, environment)
    assert await refused(owner.client.table("messages").update({"content": "never"}).neq("content", "")) == "42501"
    assert await refused(owner.client.table("messages").delete().neq("content", "")) == "42501"
    assert await refused(owner.client.table("sessions").insert({"user_id": str(uuid.uuid4())})) == "42501"
    assert await refused(owner.client.table("code_file_versions").delete().neq("path", "")) == "42501"


async def test_only_the_owner_can_join_a_topic(environment: dict[str, str], owner: Person, other: Person) -> None:
    session_id = await owner.open_session(title="named")
    of_others = (f"session:{session_id}", f"user:{owner.id}")
    for topic in (*of_others, "bridge:inbox", "worker:w", "session:nonsense", "other"):
        with pytest.raises(PermissionError):
            await other.listen(topic)
    for topic in ("bridge:inbox", "worker:w"):
        with pytest.raises(PermissionError):
            await owner.listen(topic)
    await owner.listen(f"session:{session_id}")
    await owner.listen(f"user:{owner.id}")


async def test_a_client_cannot_send_on_a_topic(environment: dict[str, str], owner: Person) -> None:
    session_id = await owner.open_session(title="named")
    ear = await owner.listen(f"session:{session_id}")
    forged = {"message_id": str(uuid.uuid4()), "attempt": 99, "seq": 1, "text": "forged"}
    for channel in owner.client.realtime.get_channels():
        await channel.send_broadcast("delta", forged)
    async with httpx.AsyncClient(timeout=20) as http:
        answer = await http.post(
            f"{environment['SUPABASE_URL']}/realtime/v1/api/broadcast",
            headers={"apikey": environment["SUPABASE_PUBLISHABLE_KEY"], "Authorization": f"Bearer {owner.token}"},
            json={
                "messages": [{"topic": f"session:{session_id}", "event": "delta", "payload": forged, "private": True}]
            },
        )
    assert answer.status_code == 202  # even if a policy drops the message
    async with working(environment):
        await owner.be_heard(session_id, ear)
        question = await owner.ask(session_id, "[[text=true]]")
        await owner.reply(question)
        await ear.until(lambda ear: ear.of("message", reply_to=question, status="done"))
    assert "".join(delta["text"] for delta in ear.of("delta", reply_to=question)) == "true"
    assert {delta["text"] for delta in ear.of("delta")} == {"heard", "true"}


async def test_a_client_cannot_dispatch_to_a_worker(environment: dict[str, str], owner: Person) -> None:
    session_id = await owner.open_session(title="named")
    forged: dict[str, Any] = {
        "question_id": str(uuid.uuid4()),
        "attempt": 1,
        "failures": 0,
        "cancel": False,
        "broken": "forged",
        "at_ms": 0,
    }
    async with working(environment, name="w") as worker, httpx.AsyncClient(timeout=20) as http:
        for is_private in (True, False):
            message = {"topic": "worker:w", "event": "job", "payload": forged, "private": is_private}
            answer = await http.post(
                f"{environment['SUPABASE_URL']}/realtime/v1/api/broadcast",
                headers={"apikey": environment["SUPABASE_PUBLISHABLE_KEY"], "Authorization": f"Bearer {owner.token}"},
                json={"messages": [message]},
            )
            assert answer.status_code == 202  # even if a policy drops the message
        await owner.reply(await owner.ask(session_id, "[[text=true]]"))
        assert worker.metrics.value("bridge_dispatched_total") == 1
        assert not worker.jobs.is_known(forged["question_id"])


async def changes(user: Person) -> Ear:
    """Subscribe to all changes of messages. They arrive once this returns."""
    ear = Ear()
    flowing = asyncio.Event()
    await user.client.realtime.set_auth(user.token)
    channel = user.client.channel("changes")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.All,
        lambda change: ear.hear({"event": change["data"]["type"], "payload": change["data"]}),
        table="messages",
    )
    channel.on_system(lambda _: flowing.set())
    await channel.subscribe()
    async with asyncio.timeout(15):
        await flowing.wait()
    return ear


def contents(ear: Ear) -> list[str]:
    return [change["record"]["content"] for event, change in ear.heard if event != "DELETE"]


async def test_postgres_changes_show_own_rows(environment: dict[str, str], owner: Person, other: Person) -> None:
    owners, others = await changes(owner), await changes(other)
    session_id = await owner.open_session(title="named")
    theirs = await other.open_session(title="named")
    async with working(environment):
        await owner.reply(await owner.ask(session_id, "[[text=secret]]"))
        await owners.until(lambda ear: "secret" in contents(ear))
        await owner.client.table("sessions").delete().eq("id", session_id).execute()
        await other.reply(await other.ask(theirs, "[[text=after]]"))
        await others.until(lambda ear: "after" in contents(ear) and ear.of("DELETE"))
    # Realtime does not filter DELETE events, but they contain only the id
    for event, change in others.heard:
        if event == "DELETE":
            assert set(change["old_record"]) == {"id"}
        else:
            assert change["record"]["session_id"] == theirs
