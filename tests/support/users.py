"""Signed-up users with the official Python client, and the events that they receive on a topic."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
from realtime.types import RealtimeSubscribeStates
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from bridge.realtime.connection import channel_config, close
from tests.support.database import Row

ENDED = ("done", "failed", "cancelled")
PASSWORD = "correct horse battery"


@dataclass
class Ear:
    """The events that a subscriber received on a private topic, in order."""

    heard: list[tuple[str, Row]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, message: Mapping[str, Any]) -> None:
        self.heard.append((message["event"], dict(message["payload"])))
        self.times.append(time.monotonic())
        self.changed.set()

    def of(self, event: str, **fields: Any) -> list[Row]:
        """The payloads of `event` that have these fields."""
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
        response = await self.client.table("sessions").insert({"function": function, **columns}).execute()
        return str(cast(list[Row], response.data)[0]["id"])

    async def ask(self, session_id: str, text: str, **columns: Any) -> str:
        """Insert a question. Its id is chosen here, as in a frontend."""
        message_id = str(uuid.uuid4())
        row = {"id": message_id, "session_id": session_id, "content": text, **columns}
        await self.client.table("messages").insert(row).execute()
        return message_id

    async def listen(self, topic: str, *events: str) -> Ear:
        """Join a private topic."""
        ear = Ear()
        states: asyncio.Queue[tuple[RealtimeSubscribeStates, Exception | None]] = asyncio.Queue()
        await self.client.realtime.set_auth(self.token)
        channel = self.client.channel(topic, channel_config(private=True, echo=False))
        for event in events or ("delta", "message", "file"):
            channel.on_broadcast(event, ear.hear)
        await channel.subscribe(lambda state, error: states.put_nowait((state, error)))
        async with asyncio.timeout(15):
            state, error = await states.get()
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            raise PermissionError(f"{topic}: {state.value} {error}")
        return ear

    async def be_heard(self, session_id: str, ear: Ear) -> None:
        """Ask until `ear` receives a delta.

        A worker joins a topic with its first reply there, whose deltas may come too early. It stays joined, so that
        later replies are complete in their deltas.
        """
        while not ear.of("delta"):
            await self.reply(await self.ask(session_id, "[[text=heard]]"))

    async def rows(self, table: str, **filters: str) -> list[Row]:
        query = self.client.table(table).select("*")
        for column, value in filters.items():
            query = query.eq(column, value)
        return cast(list[Row], (await query.execute()).data)

    async def reply(self, message_id: str, reached: Callable[[Row], bool] | None = None, *, within: float = 20) -> Row:
        """The reply's row when it has ended, or as soon as `reached(row)`."""
        deadline = time.monotonic() + within
        rows: list[Row] = []
        while time.monotonic() < deadline:
            rows = await self.rows("messages", reply_to=message_id)
            if rows and (reached(rows[0]) if reached else rows[0]["status"] in ENDED):
                return rows[0]
            await asyncio.sleep(0.02)
        raise TimeoutError(f"after {within:g} s the reply to {message_id} is {rows}")

    async def close(self) -> None:
        await close(self.client.realtime)
        await self.http.aclose()


async def person(environment: Mapping[str, str]) -> Person:
    """Sign up a new user."""
    http = httpx.AsyncClient(timeout=20)
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    client = await acreate_client(environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"], options)
    email = f"{uuid.uuid4().hex}@example.com"
    response = await client.auth.sign_up({"email": email, "password": PASSWORD})
    assert response.user is not None
    assert response.session is not None
    return Person(client, http, response.user.id, response.session.access_token, email)
