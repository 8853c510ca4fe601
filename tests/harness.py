"""People, workers and what they see: the parts that tests of the whole are made of. Everything is real."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import psycopg
from psycopg.rows import dict_row
from realtime.types import RealtimeSubscribeStates
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from bridge import settings
from bridge.connection import config, dismantle
from bridge.functions import Functions
from bridge.settings import Settings
from bridge.store import Store
from bridge.worker import Worker

ENDED = ("done", "failed", "cancelled")
# Settings of a worker whose replies are seen by their deltas alone until they end: no row has their text before.
BY_DELTAS: dict[str, Any] = {"checkpoint_seconds": 60, "lease_seconds": 600}
PASSWORD = "correct horse battery"
Row = dict[str, Any]


@dataclass
class Ear:
    """What one subscriber heard on a private topic, in order."""

    heard: list[tuple[str, Row]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, message: Mapping[str, Any]) -> None:
        self.heard.append((message["event"], dict(message["payload"])))
        self.times.append(time.monotonic())
        self.changed.set()

    def of(self, event: str, **fields: Any) -> list[Row]:
        """The payloads of `event` whose fields are as given."""
        return [
            payload
            for name, payload in self.heard
            if name == event and all(payload.get(key) == value for key, value in fields.items())
        ]

    async def until(self, reached: Callable[[Ear], object], *, within: float = 15) -> None:
        """Wait until `reached(self)`; raises TimeoutError."""
        async with asyncio.timeout(within):
            while not reached(self):
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Person:
    """A signed-up user with the official client."""

    client: AsyncClient
    http: httpx.AsyncClient
    id: str
    token: str
    email: str

    async def open_session(self, function: str = "Chat", **columns: Any) -> str:
        answer = await self.client.table("sessions").insert({"function": function, **columns}).execute()
        return str(cast(list[Row], answer.data)[0]["id"])

    async def ask(self, session_id: str, text: str, **columns: Any) -> str:
        """Insert a question; its id is chosen here, as frontends do."""
        message_id = str(uuid.uuid4())
        row = {"id": message_id, "session_id": session_id, "content": text, **columns}
        await self.client.table("messages").insert(row).execute()
        return message_id

    async def listen(self, topic: str, *events: str) -> Ear:
        """Subscribe to a private topic; it is joined when this returns."""
        ear = Ear()
        states: asyncio.Queue[tuple[RealtimeSubscribeStates, Exception | None]] = asyncio.Queue()
        await self.client.realtime.set_auth(self.token)
        channel = self.client.channel(topic, config(private=True, hears_itself=False))
        for event in events or ("delta", "message", "file"):
            channel.on_broadcast(event, ear.hear)
        await channel.subscribe(lambda state, error: states.put_nowait((state, error)))
        async with asyncio.timeout(15):
            state, error = await states.get()
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            raise PermissionError(f"{topic}: {state.value} {error}")
        return ear

    async def be_heard(self, session_id: str, ear: Ear) -> None:
        """Ask until `ear` hears a delta: a worker that joins the topic after its first reply has none to hear.

        From then on it stays joined, and nothing of a reply is missing among its deltas.
        """
        while not ear.of("delta"):
            await self.reply(await self.ask(session_id, "[[text=heard]]"))

    async def rows(self, table: str, **filters: str) -> list[Row]:
        query = self.client.table(table).select("*")
        for column, value in filters.items():
            query = query.eq(column, value)
        return cast(list[Row], (await query.execute()).data)

    async def reply(self, message_id: str, reached: Callable[[Row], bool] | None = None, *, within: float = 20) -> Row:
        """The reply's row once it has ended, or once `reached(row)`."""
        deadline = time.monotonic() + within
        rows: list[Row] = []
        while time.monotonic() < deadline:
            rows = await self.rows("messages", reply_to=message_id)
            if rows and (reached(rows[0]) if reached else rows[0]["status"] in ENDED):
                return rows[0]
            await asyncio.sleep(0.02)
        raise TimeoutError(f"the reply to {message_id} is {rows}")

    async def close(self) -> None:
        await dismantle(self.client.realtime)
        await self.http.aclose()


async def person(environment: Mapping[str, str]) -> Person:
    """Sign up somebody new."""
    http = httpx.AsyncClient(timeout=20)
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    client = await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"], options)
    email = f"{uuid.uuid4().hex}@example.com"
    answer = await client.auth.sign_up({"email": email, "password": PASSWORD})
    assert answer.user is not None
    assert answer.session is not None
    return Person(client, http, answer.user.id, answer.session.access_token, email)


def worker_settings(environment: Mapping[str, str], **changes: Any) -> Settings:
    """Settings of a worker in a test: quick sweeps and checkpoints, no quota, any health port."""
    names = {
        "BRIDGE_HEALTH_PORT": "0",
        "BRIDGE_HEALTH_HOST": "127.0.0.1",
        "BRIDGE_CHECKPOINT_SECONDS": "0.2",
        "BRIDGE_EVENTS_PER_SECOND": "100000",
        "BRIDGE_SWEEP_SECONDS": "30",
        "BRIDGE_DRAIN_SECONDS": "5",
        **{f"BRIDGE_{name.upper()}": str(value) for name, value in changes.items()},
    }
    return settings.load({**os.environ, **environment, **names})


@asynccontextmanager
async def working(
    environment: Mapping[str, str], *, ready: bool = True, name: str | None = None, **changes: Any
) -> AsyncIterator[Worker]:
    """A worker in this process, drained at the end. With `ready` it hears everything when the block begins."""
    chosen = worker_settings(environment, **changes)
    name = name or f"test-{uuid.uuid4().hex[:8]}"
    store = await Store.open(chosen, name)
    functions = Functions.load(chosen.functions, handlers=chosen.handlers)
    worker = Worker(chosen, store, functions, name)
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(20):
            while ready and not (
                worker.inbox.broadcasts.is_ready
                and worker.inbox.changes.is_ready
                and worker.outbox.is_ready
                and worker.claims.looked_at is not None
                and worker.is_waiting
            ):
                assert not running.done(), running.exception()
                await asyncio.sleep(0.01)
        yield worker
    finally:
        worker.drain()
        async with asyncio.timeout(30):
            await running
        await functions.close()
        await store.close()


@asynccontextmanager
async def database(url: str) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """A connection of the test's own, past REST."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with connection:
        yield connection


async def forget_everybody(url: str) -> None:
    """Delete all users with all they have, and the workers that are counted as live: of one that was killed, for 30 s.

    Sessions are locked first, as everything that writes into one does: a page may still have something on its way.
    """
    async with database(url) as connection, connection.transaction():
        await connection.execute("select from public.sessions for update")
        await connection.execute("delete from auth.users")
        await connection.execute("delete from bridge.workers")
