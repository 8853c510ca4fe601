"""Failures: Postgres outages, and clients that are slow, silent or send malformed frames."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from devstack.postgres import Postgres
from devstack.realtime import channel, wal
from tests.integration.devstack.realtime.client import Client
from tests.integration.devstack.realtime.service import (
    PASSWORD,
    Service,
    Sql,
    execute,
    running_postgres,
    served,
    token,
)
from tests.support.cold_start import cold_start

INSERTS = [{"event": "INSERT", "schema": "public", "table": "perf"}]


@pytest.fixture
async def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    """A Postgres that a test may stop."""
    setup = (
        "create table public.perf (id bigint generated always as identity primary key, v text);"
        " alter publication supabase_realtime add table public.perf;"
        " create policy everybody on realtime.messages for select to authenticated using (true)"
    )
    async with running_postgres(tmp_path_factory.mktemp("own"), setup) as server:
        yield server


async def test_channels_survive_postgres_restart(own_postgres: Postgres) -> None:
    dsn = own_postgres.dsn("postgres", PASSWORD)
    async with served(own_postgres) as service:
        client = await service.connect()
        await client.join("room:1", token(), private=True, postgres_changes=INSERTS)
        await client.subscribed()
        before = time.monotonic()
        await own_postgres.stop()
        assert time.monotonic() - before < 5  # on shutdown, Postgres waits until its streams have been read
        await own_postgres.start()

        async def receives(statement: str, event: str) -> None:
            async with asyncio.timeout(15):
                while True:
                    await execute(dsn, statement)
                    for message in await client.silent():
                        if message["event"] == event:
                            return

        await receives("select realtime.send('{}', 'e', 'room:1')", "broadcast")
        await receives("insert into public.perf(v) values ('x')", "postgres_changes")
        # new joins are authorised too
        other = await service.connect()
        assert (await other.join("room:1", token(), private=True))["status"] == "ok"


async def test_private_join_without_postgres_is_rejected(own_postgres: Postgres) -> None:
    async with served(own_postgres) as service:
        client = await service.connect()
        await own_postgres.stop()
        reply = await client.join("room:1", token(), private=True)
        assert reply["status"] == "error"
        assert "unable to connect to the project database" in reply["response"]["reason"]
        assert (await client.join("room:1", token()))["status"] == "ok"  # public: no authorisation needed
        await own_postgres.start()


async def test_changes_without_subscribers_are_discarded(service: Service, sql: Sql) -> None:
    client = await service.connect()
    await client.join("x", postgres_changes=INSERTS)
    await client.subscribed()
    await client.websocket.close()
    await sql("insert into public.perf(v) select 'x' from generate_series(1, 1000)")
    watcher = await service.connect()
    await watcher.join("x", postgres_changes=[INSERTS[0] | {"filter": "v=eq.last"}])
    await watcher.subscribed()
    await sql("insert into public.perf(v) values ('last')")
    assert (await watcher.event("postgres_changes"))["data"]["record"]["v"] == "last"


async def test_slots_advance_with_wal(postgres: Postgres, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "STATUS_SECONDS", 0.1)
    async with served(postgres):
        await sql("insert into public.perf(v) select repeat('x', 1000) from generate_series(1, 2000)")
        await eventually(
            sql,
            "select max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) < 1000000"
            " from pg_replication_slots where slot_name like 'realtime_%'",
        )


async def test_stop_drops_slots(postgres: Postgres, sql: Sql) -> None:
    async with served(postgres):
        # the slots of the previous test may not have been dropped yet
        await eventually(sql, "select count(*) = 2 from pg_replication_slots")
    await eventually(sql, "select count(*) = 0 from pg_replication_slots")


async def eventually(sql: Sql, question: str) -> None:
    """Repeat a query until it returns true."""
    async with asyncio.timeout(15):
        while (await sql(question))[0][0] is not True:
            await sql("select pg_sleep(0.02)")


async def test_stop_closes_sockets_with_1012(postgres: Postgres) -> None:
    async with served(postgres) as service:
        clients = [await service.connect() for _ in range(3)]
        await clients[0].join("x", postgres_changes=INSERTS)
        await clients[1].send("realtime:secret", "phx_join", {"config": {"private": True}})
        waiting = [asyncio.create_task(closed(client)) for client in clients]
        before = time.monotonic()
        await service.realtime.stop()
        assert time.monotonic() - before < 5
        assert [await code for code in waiting] == [1012, 1012, 1012]
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await service.connect()


async def closed(client: Client) -> int | None:
    async with asyncio.timeout(10):
        while not client.websocket.closed:
            await client.websocket.receive()
    return client.websocket.close_code


async def test_realtime_restarts(postgres: Postgres, sql: Sql) -> None:
    async with served(postgres) as service:
        before = await service.connect()
        await before.join("x", postgres_changes=INSERTS)
        _, code = await asyncio.gather(service.realtime.stop(), closed(before))
        assert code == 1012
        await service.realtime.start()
        client = await service.connect()
        await client.join("x", postgres_changes=INSERTS)
        await client.subscribed()
        await sql("insert into public.perf(v) values ('again')")
        assert (await client.event("postgres_changes"))["data"]["record"]["v"] == "again"


async def test_join_is_answered_before_database_is_heard(postgres: Postgres) -> None:
    """Postgres creates a replication slot only when all open write transactions have ended; what was sent is lost."""
    dsn = postgres.dsn("postgres", PASSWORD)
    async with served(postgres) as service, cold_start(service.realtime, dsn) as writing:
        client, other = await service.connect(), await service.connect()
        ready = {"replication_ready": True}
        assert (await client.join("room:1", broadcast=ready, postgres_changes=INSERTS))["status"] == "ok"
        # as on the hosted server, this proves nothing
        assert (await client.event("system"))["message"] == "Subscribed to PostgreSQL"
        await execute(dsn, "select realtime.send('{}'::jsonb, 'lost', 'room:1', false)")
        assert (await other.join("room:1"))["status"] == "ok"
        await other.send("realtime:room:1", "broadcast", {"type": "broadcast", "event": "sent", "payload": {}})
        assert (await client.event("broadcast"))["event"] == "sent"
        assert await client.silent() == []
        await writing.rollback()
        assert (await client.event("system"))["message"] == "Replication connection established"
        await execute(dsn, "select realtime.send('{}'::jsonb, 'heard', 'room:1', false)")
        assert (await client.event("broadcast"))["event"] == "heard"


async def test_unheard_channel_is_closed_in_the_end(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "READY_SECONDS", 0.2)
    async with served(postgres) as service, cold_start(service.realtime, postgres.dsn("postgres", PASSWORD)):
        client = await service.connect()
        await client.join("room:1", broadcast={"replication_ready": True})
        assert (await client.event("system"))["message"] == "Replication connection was not established in time"
        await client.event("phx_close")


async def test_socket_is_limited_to_100_channels(service: Service) -> None:
    client = await service.connect()
    for number in range(100):
        assert (await client.join(f"topic {number}"))["status"] == "ok"
    reply = await client.join("one too many")
    assert reply["response"] == {"reason": "ChannelRateLimitReached: Too many channels"}


async def test_unusual_table_and_column_names_are_quoted(service: Service, sql: Sql) -> None:
    await sql(
        'create table public."odd % ""t" ("k %s" text primary key, "v ""%" char(3), n bit(3));'
        'alter table public."odd % ""t" enable row level security;'
        'create policy everything on public."odd % ""t" for select using (true);'
        'alter publication supabase_realtime add table public."odd % ""t"'
    )
    try:
        client = await service.connect()
        binding = {"event": "*", "schema": "public", "table": 'odd % "t', "filter": 'v "%=eq.abc'}
        await client.join("odd", postgres_changes=[binding])
        await client.subscribed()
        await sql("""insert into public."odd % ""t" values ('a%s', 'abc', '101')""")
        record = (await client.event("postgres_changes"))["data"]["record"]
        assert record == {"k %s": "a%s", 'v "%': "abc", "n": "101"}
    finally:
        await sql('drop table public."odd % ""t"')


async def test_failing_policy_does_not_affect_other_subscribers(service: Service, sql: Sql) -> None:
    await sql(
        "create table public.fragile (id bigint primary key); alter table public.fragile enable row level security;"
        " create policy fragile on public.fragile for select to authenticated"
        " using (1 / (case when (select auth.jwt()) ->> 'x' = 'bad' then 0 else 1 end) = 1);"
        " alter publication supabase_realtime add table public.fragile"
    )
    try:
        good, bad = await service.connect(), await service.connect()
        binding = [{"event": "*", "schema": "public", "table": "fragile"}]
        await bad.join("x", token(x="bad"), postgres_changes=binding)
        await bad.subscribed()
        await good.join("x", token(), postgres_changes=binding)
        await good.subscribed()
        await sql("insert into public.fragile values (1)")
        await good.event("postgres_changes")
        assert await bad.silent() == []
    finally:
        await sql("drop table public.fragile")


async def test_idle_client_is_disconnected(postgres: Postgres) -> None:
    async with served(postgres, idle_seconds=0.2) as service:
        client = await service.connect()
        assert await closed(client) == 1000


async def test_slow_reader_is_disconnected(service: Service) -> None:
    slow, quick, sender = [await service.connect() for _ in range(3)]
    for client in (slow, quick, sender):
        await client.join("flood")
    payload = {"event": "e", "type": "broadcast", "payload": {"x": "y" * 1_000_000}}
    for _ in range(40):  # more than fits into the socket buffers and the server's own
        await sender.send("realtime:flood", "broadcast", payload)
        await quick.event("broadcast")
    assert await closed(slow) == 1006


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
async def test_malformed_frames_are_ignored(service: Service, vsn: str) -> None:
    client = await service.connect(vsn)
    deep = "[" * 100_000 + "]" * 100_000
    for text in ("", "x", "null", "{}", "[]", deep, '["1","1",5,"x",{}]', '{"topic":1,"event":2,"payload":3,"ref":4}'):
        await client.websocket.send_str(text)
    for data in (b"", b"\x09", os.urandom(50), b"\x03\xff\xff\xff\xff\xff\x01x"):
        await client.websocket.send_bytes(data)
    surrogate = {"topic": "realtime:x", "event": "phx_join", "payload": {"config": {"\ud800": 1}}, "ref": "1"}
    await client.websocket.send_str(json.dumps(surrogate))
    await client.websocket.send_str('{"topic":"phoenix","event":"heartbeat","payload":NaN,"ref":"1"}')
    assert await client.silent() == []
    configs: list[Any] = [5, [], "x", {"postgres_changes": [5]}, {"presence": 3}]
    payloads: list[Any] = [None, 5, [], *({"config": value} for value in configs)]
    for payload in payloads:
        ref = await client.send("realtime:malformed", "phx_join", payload)
        assert (await client.reply(ref))["status"] in ("ok", "error")
