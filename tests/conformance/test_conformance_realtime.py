"""Realtime with the official Python client: private channels, row changes, presence and lost connections."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from realtime import AsyncRealtimeChannel, RealtimePostgresChangesListenEvent
from supabase import AsyncClient

from tests.conformance.conftest import Supabase, User


@dataclass
class Received:
    """What a channel received, in order."""

    patience: float
    items: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue)

    def of(self, kind: str) -> Callable[..., None]:
        return lambda *values: self.items.put_nowait((kind, values[0]))

    async def until(self, kind: str, wanted: Callable[[Any], object] = lambda _: True) -> Any:
        """Return the next item of a kind that matches; discard the items before it."""
        async with asyncio.timeout(self.patience):
            while True:
                found, value = await self.items.get()
                if found == kind and wanted(value):
                    return value


@pytest.fixture
def join(supabase: Supabase) -> Callable[..., Awaitable[tuple[AsyncRealtimeChannel, Received]]]:
    """Joins a private channel as a user; returns once the join has been accepted or rejected."""

    async def join(
        user: User, topic: str, *, state: str = "SUBSCRIBED", changes: str | None = None
    ) -> tuple[AsyncRealtimeChannel, Received]:
        received = Received(supabase.patience)
        await user.client.realtime.set_auth(user.token)
        options: Any = {"config": {"private": True, "broadcast": {"self": False, "ack": True}, "presence": None}}
        channel = user.client.channel(topic, options)
        channel.on_broadcast("e", lambda message: received.of("broadcast")(message["payload"]))
        channel.on_system(lambda message: received.of("system")(message))
        channel.on_presence_join(lambda key, current, new: received.of("presence")(key))
        if changes is not None:
            channel.on_postgres_changes(
                RealtimePostgresChangesListenEvent.All,
                schema="public",
                table="conformance_notes",
                filter=changes or None,
                callback=lambda change: received.of("change")(change["data"]),
            )
        await channel.subscribe(lambda found, error: received.of("state")(found.value))
        assert await received.until("state") == state
        if changes is not None:
            await received.until("system", lambda message: message.status == "ok")
        return channel, received

    return join


Join = Callable[..., Awaitable[tuple[AsyncRealtimeChannel, Received]]]


@pytest.fixture
async def other_client(alice: User, connect: Callable[[str], Awaitable[AsyncClient]], supabase: Supabase) -> User:
    """A second client of the same user."""
    return User(await connect(supabase.publishable_key), alice.id, "", alice.token, "")


async def test_client_broadcast_reaches_other_clients(alice: User, other_client: User, join: Join) -> None:
    topic = f"conformance:{alice.id}"
    (sender, own), (_, received) = await join(alice, topic), await join(other_client, topic)
    await sender.send_broadcast("e", {"n": 1, "s": "ü"})
    assert await received.until("broadcast") == {"n": 1, "s": "ü"}
    assert own.items.empty()


async def test_join_of_private_topic_is_rejected(alice: User, bob: User, join: Join) -> None:
    await join(bob, f"conformance:{alice.id}", state="CHANNEL_ERROR")


async def test_broadcast_without_write_permission_is_dropped(
    alice: User, other_client: User, join: Join, server: AsyncClient
) -> None:
    topic = f"conformance:{alice.id}:silent"
    (sender, _), (_, received) = await join(alice, topic), await join(other_client, topic)
    await sender.send_broadcast("e", {"n": 1})
    await send(server, {"n": 2}, topic)
    assert (await received.until("broadcast"))["n"] == 2


async def send(server: AsyncClient, payload: Any, topic: str, *, private: bool = True) -> None:
    arguments: Any = {"payload": payload, "event": "e", "topic": topic, "private": private}
    await server.rpc("conformance_send", arguments).execute()


async def test_database_broadcast_reaches_channel(alice: User, server: AsyncClient, join: Join) -> None:
    topic = f"conformance:{alice.id}"
    _, received = await join(alice, topic)
    await send(server, {"public": True}, topic, private=False)
    await send(server, {"n": 1}, topic)
    payload = await received.until("broadcast")
    assert payload["n"] == 1
    assert uuid.UUID(payload["id"])


async def test_http_broadcast_checks_permission(
    alice: User, bob: User, http: httpx.AsyncClient, supabase: Supabase, join: Join
) -> None:
    topic = f"conformance:{alice.id}"
    _, received = await join(alice, topic)
    for token, number in ((bob.token, 1), (alice.token, 2)):
        headers = {"apikey": supabase.publishable_key, "Authorization": f"Bearer {token}"}
        messages = [{"topic": topic, "event": "e", "payload": {"n": number}, "private": True}]
        response = await http.post("/realtime/v1/api/broadcast", headers=headers, json={"messages": messages})
        assert (response.status_code, response.content) == (202, b""), "even if the message is dropped"
    assert await received.until("broadcast") == {"n": 2}


async def test_row_changes_respect_filter_and_rls(alice: User, bob: User, join: Join) -> None:
    _, received = await join(alice, f"conformance:{alice.id}", changes="rank=gt.1")
    table = alice.client.table("conformance_notes")
    mine: Any = [{"body": "low", "rank": 1}, {"body": "high", "rank": 2}]
    await bob.client.table("conformance_notes").insert(mine, returning="minimal").execute()  # type: ignore[arg-type]  # as PostgREST calls it
    await table.insert(mine, returning="minimal").execute()  # type: ignore[arg-type]  # the same
    inserted = await received.until("change")
    assert (inserted["type"], inserted["record"]["body"], inserted["record"]["owner"]) == ("INSERT", "high", alice.id)
    assert "secret" not in inserted["record"], "users may not read that column"
    await table.update({"body": "higher"}, returning="minimal").eq("rank", 2).execute()  # type: ignore[arg-type]  # the same
    updated = await received.until("change")
    assert (updated["type"], updated["record"]["body"]) == ("UPDATE", "higher")
    assert updated["old_record"] == {"id": inserted["record"]["id"]}


async def test_presence_join_is_received(alice: User, join: Join) -> None:
    channel, received = await join(alice, f"conformance:{alice.id}")
    await channel.track({"here": True})
    await received.until("presence")


async def test_new_token_keeps_channel_open(alice: User, server: AsyncClient, join: Join) -> None:
    topic = f"conformance:{alice.id}"
    _, received = await join(alice, topic)
    refreshed = await alice.client.auth.refresh_session()
    assert refreshed.session is not None
    await alice.client.realtime.set_auth(refreshed.session.access_token)
    await send(server, {"n": 1}, topic)
    assert (await received.until("broadcast"))["n"] == 1


async def test_token_of_other_user_closes_channel(alice: User, bob: User, join: Join) -> None:
    topic = f"conformance:{alice.id}"
    _, received = await join(alice, topic)
    await alice.client.realtime.set_auth(bob.token)
    assert await received.until("state", lambda state: state == "CLOSED")


async def test_expired_token_is_rejected(alice: User, sign: Callable[..., str], join: Join) -> None:
    late = User(alice.client, alice.id, "", sign(alice.id, lifetime=-5), "")
    await join(late, f"conformance:{alice.id}", state="CHANNEL_ERROR")


@pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is:DeprecationWarning")  # realtime 2.34.1 uses them
async def test_client_reconnects_after_lost_connection(
    supabase: Supabase, alice: User, server: AsyncClient, join: Join
) -> None:
    """The client reconnects and rejoins by itself."""
    topic = f"conformance:{alice.id}"
    _, received = await join(alice, topic)
    connection = alice.client.realtime._ws_connection
    assert connection is not None
    connection.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    async with asyncio.timeout(4 * supabase.patience):
        assert await received.until("state") == "CHANNEL_ERROR"
        messages: list[Any] = []
        while not messages:  # the client does not report when it has reconnected
            await send(server, {"n": 1}, topic)
            await asyncio.sleep(0.2)
            while not received.items.empty():
                kind, value = received.items.get_nowait()
                messages += [value] if kind == "broadcast" else []
    assert alice.client.realtime._ws_connection is not connection
    assert messages[0]["n"] == 1
