"""The limits of a plan: how rates are measured, and what happens when they are exceeded."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from devstack.postgres import Postgres
from devstack.realtime.limits import Limits, Rate, Window
from tests.integration.devstack.realtime.service import PASSWORD, SECRET_KEY, execute, served
from tests.support.waiting import until


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_new_rate_averages_over_elapsed_intervals() -> None:
    clock = Clock()
    rate = Rate(100, clock)
    rate.add(499)
    clock.now += 5
    assert not rate.is_exceeded(), "499 in 5 s"
    rate.add(501)
    assert not rate.is_exceeded(), "it is updated every 5 s"
    clock.now += 5
    assert (rate.is_exceeded(), rate.average) == (True, 100)


def test_rate_averages_over_one_minute() -> None:
    clock = Clock()
    rate = Rate(100, clock)
    rate.add(1)
    clock.now += 60
    rate.add(5_998)
    clock.now += 5
    assert not rate.is_exceeded()
    rate.add(2)
    clock.now += 5
    assert rate.is_exceeded()
    clock.now += 49
    assert rate.is_exceeded()
    clock.now += 6
    assert not rate.is_exceeded()


def test_rate_resets_after_five_idle_minutes() -> None:
    clock = Clock()
    rate = Rate(100, clock)
    rate.add(1)
    clock.now += 310
    rate.add(500)
    clock.now += 5
    assert rate.is_exceeded()


def test_rate_without_limit_is_never_exceeded() -> None:
    rate = Rate(None)
    rate.add(10**9)
    assert not rate.is_exceeded()


def test_window_starts_at_first_call() -> None:
    clock = Clock()
    window = Window(2, 30, clock)
    assert [window.allows() for _ in range(3)] == [True, True, False]
    clock.now += 30
    assert not window.allows()
    clock.now += 1
    assert window.allows()


async def test_event_limit_closes_receivers_and_drops_messages(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver that exceeds the limit is closed; messages from the database and over HTTP are dropped."""
    clock = Clock()
    async with served(postgres, limits=Limits(events_per_second=1), clock=clock) as service:
        sender, receiver = await service.connect(), await service.connect()
        for client in (sender, receiver):
            assert (await client.join("busy", broadcast={"ack": True}))["status"] == "ok"
        message = {"type": "broadcast", "event": "e", "payload": {}}
        for _ in range(3):
            await sender.reply(await sender.send("realtime:busy", "broadcast", message))
        clock.now += 5
        await sender.reply(await sender.send("realtime:busy", "broadcast", message))
        assert (await receiver.event("system"))["message"] == "Too many messages per second"
        await receiver.event("phx_close")
        assert len([m for m in await receiver.silent() if m["event"] == "broadcast"]) == 4, "including the last one"
        assert await sender.silent() == [], "it received nothing"

        assert (await receiver.join("busy"))["status"] == "ok", "it may rejoin"
        await execute(postgres.dsn("supabase_admin", PASSWORD), "select realtime.send('{}', 'e', 'busy', false)")
        await until(
            lambda: "dropped a message to busy: too many" in caplog.text, within=10
        )  # the insert has been replicated
        body = {"messages": [{"topic": "busy", "event": "e", "payload": {}}]}
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET_KEY}"}) as http:
            async with http.post(f"{service.url}/api/broadcast", json=body) as response:
                assert (response.status, await response.json()) == (
                    429,
                    {"message": "You have exceeded your rate limit"},
                )
            clock.now += 70
            async with http.post(f"{service.url}/api/broadcast", json={"messages": body["messages"] * 2}) as response:
                assert response.status == 429
                assert (await response.json())["message"].startswith("Too many messages to broadcast")
            async with http.post(f"{service.url}/api/broadcast", json=body) as response:
                assert response.status == 202
        assert len([m for m in await receiver.silent() if m["event"] == "broadcast"]) == 1


async def test_join_limit_closes_socket(postgres: Postgres) -> None:
    clock = Clock()
    async with served(postgres, limits=Limits(joins_per_second=1), clock=clock) as service:
        client = await service.connect()
        for number in range(5):
            assert (await client.join(f"room{number}"))["status"] == "ok"
        clock.now += 5
        rejected = await client.join("one more")
        assert rejected["response"] == {"reason": "ClientJoinRateLimitReached: Too many joins per second"}
        with pytest.raises(ConnectionError):
            await client.next()


async def test_client_limit_rejects_joins(postgres: Postgres) -> None:
    async with served(postgres, limits=Limits(clients=2)) as service:
        clients = [await service.connect() for _ in range(3)]
        for client in clients[:2]:
            assert (await client.join("room"))["status"] == "ok"
            assert (await client.join("another"))["status"] == "ok"
        rejected = await clients[2].join("room")
        assert rejected["response"] == {"reason": "ConnectionRateLimitReached: Too many connected users"}
        await clients[0].websocket.close()
        async with asyncio.timeout(5):
            while (await clients[2].join("room"))["status"] != "ok":
                pass  # each rejection takes as long as the back-off


async def test_presence_limit_closes_channel(postgres: Postgres) -> None:
    clock = Clock()
    async with served(postgres, limits=Limits(presence_per_second=1), clock=clock) as service:
        client = await service.connect()
        await client.join("room", presence={"enabled": True, "key": "me"})
        for number in range(4):
            track = {"type": "presence", "event": "track", "payload": {"n": number}}
            assert (await client.reply(await client.send("realtime:room", "presence", track)))["status"] == "ok"
        clock.now += 5
        await client.send("realtime:room", "presence", {"event": "track", "payload": {"n": 9}})
        assert (await client.event("system"))["message"] == "Too many presence messages per second"


async def test_oversized_presence_closes_channel(postgres: Postgres) -> None:
    async with served(postgres) as service:
        client = await service.connect()
        await client.join("room", presence={"enabled": True, "key": "me"})
        await client.send("realtime:room", "presence", {"event": "track", "payload": {"x": "y" * 3_100_000}})
        assert (await client.event("system"))["message"] == "Track message size exceeded"


async def test_events_are_counted_by_topic(postgres: Postgres) -> None:
    """A send and each delivery, as they are billed; the ids of topics are left out."""
    async with served(postgres) as service:
        sender, receiver = await service.connect(), await service.connect()
        message = {"type": "broadcast", "event": "e", "payload": {}}
        for topic in ("room:1", "room:2", "lobby"):
            for client in (sender, receiver):
                assert (await client.join(topic, broadcast={"ack": True}))["status"] == "ok"
            await sender.reply(await sender.send(f"realtime:{topic}", "broadcast", message))
        assert service.realtime.events_by_topic == {"room": 4, "lobby": 2}
        assert service.realtime.events == 6
