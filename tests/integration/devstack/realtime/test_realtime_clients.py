"""The official Python and JavaScript clients, with their default serializers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from realtime import RealtimeChannelOptions, RealtimePostgresChangesListenEvent
from supabase import acreate_client

from devstack.node import node
from tests.integration.devstack.realtime.service import PUBLISHABLE, SECRET_KEY, USER_1, Service, Sql, token
from tests.support import ROOT
from tests.support.presence import send_presence_state_first

SECONDS = 20.0


@pytest.mark.parametrize("state_first", [False, True], ids=["reply first", "presence state first"])
async def test_python_client_receives_broadcasts_and_changes(
    service: Service, sql: Sql, monkeypatch: pytest.MonkeyPatch, state_first: bool
) -> None:
    if state_first:
        send_presence_state_first(monkeypatch)
    received: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    supabase = await acreate_client(service.url.removesuffix("/realtime/v1"), SECRET_KEY)
    options: RealtimeChannelOptions = {
        "config": {
            "private": True,
            "broadcast": {"self": True, "ack": True},
            "presence": None,
        }
    }
    channel = supabase.channel("room:python", options)
    channel.on_broadcast("evt", lambda payload: received.put_nowait(("broadcast", payload)))
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.Insert,
        schema="public",
        table="messages",
        filter="role=eq.user",
        callback=lambda payload: received.put_nowait(("change", payload)),
    )
    channel.on_system(lambda payload: received.put_nowait(("system", payload.status)))
    try:
        async with asyncio.timeout(SECONDS):
            await channel.subscribe(lambda state, _: received.put_nowait(("state", state.value)))
            assert {await received.get(), await received.get()} == {("state", "SUBSCRIBED"), ("system", "ok")}
            await channel.send_broadcast("evt", {"n": 1})
            assert (await received.get())[1]["payload"] == {"n": 1}
            await sql("""select realtime.send('{"id": "x", "n": 2}', 'evt', 'room:python')""")
            assert (await received.get())[1]["payload"] == {"id": "x", "n": 2}
            await sql("insert into public.messages(session_id, role) values (%s, 'assistant')", USER_1)
            await sql("insert into public.messages(session_id, role) values (%s, 'user')", USER_1)
            kind, change = await received.get()
            assert (kind, change["data"]["record"]["role"]) == ("change", "user")
    finally:
        await supabase.realtime.close()
        await sql("delete from public.messages")


SCRIPT = """
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
const require = createRequire(process.argv[1] + '/package.json');
const { createClient } = require('@supabase/supabase-js');
const [, , base, key, token] = process.argv;
const print = (kind, value) => console.log(JSON.stringify([kind, value]));
const transport = globalThis.WebSocket ?? require('ws');
const supabase = createClient(base, key, { realtime: { transport }, accessToken: async () => token });
await supabase.realtime.setAuth();
const channel = supabase.channel('room:js', { config: { private: true, broadcast: { self: true, ack: true } } });
channel
  .on('broadcast', { event: 'evt' }, ({ payload }) => print('broadcast', payload))
  .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'messages' }, (c) => print('change', c.new))
  .on('system', {}, ({ status }) => print('system', status))
  .on('presence', { event: 'join' }, ({ newPresences }) => print('presence', newPresences.length))
  .subscribe(async (status) => {
    print('state', status);
    if (status !== 'SUBSCRIBED') return;
    print('sent', await channel.send({ type: 'broadcast', event: 'evt', payload: { n: 1 } }));
    print('tracked', await channel.track({ here: true }));
    print('posted', await channel.httpSend('evt', { n: 2 }));
  });
createInterface({ input: process.stdin }).on('close', async () => {
  await supabase.removeAllChannels();
  process.exit(0);
});
"""


@pytest.mark.parametrize("state_first", [False, True], ids=["reply first", "presence state first"])
async def test_javascript_client_receives_broadcasts_changes_and_presence(
    service: Service, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_first: bool
) -> None:
    if state_first:
        send_presence_state_first(monkeypatch)
    script = tmp_path / "client.mjs"
    script.write_text(SCRIPT.replace("process.argv[1]", json.dumps(str(ROOT))))
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(node),
        str(script),
        service.url.removesuffix("/realtime/v1"),
        PUBLISHABLE,
        token(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    received: list[Any] = []

    async def until(*wanted: Any) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while not all(item in received for item in wanted):
                line = await process.stdout.readline()
                assert line, received
                received.append(json.loads(line))

    try:
        await until(
            ["state", "SUBSCRIBED"],
            ["system", "ok"],
            ["broadcast", {"n": 1}],
            ["sent", "ok"],
            ["tracked", "ok"],
            ["presence", 1],
            ["posted", {"success": True}],
            ["broadcast", {"n": 2}],
        )
        await sql("""select realtime.send('{"id": "x", "n": 3}', 'evt', 'room:js')""")
        await until(["broadcast", {"id": "x", "n": 3}])
        rows = await sql(
            "insert into public.messages(session_id, role) values (%s, 'user') returning to_jsonb(messages)", USER_1
        )
        await until(["change", rows[0][0]])
    finally:
        process.stdin.close()
        async with asyncio.timeout(SECONDS):
            await process.wait()
        await sql("delete from public.messages")
