"""What the baselines share: the official client, one BAML call as BAML documents it, and `postgres_changes`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from baml_py.baml_py import set_log_level
from realtime.types import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from baml_client import b


async def supabase_client() -> AsyncClient:
    """The official client with the secret key; it keeps its connections open."""
    set_log_level("OFF")
    http = httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=100, max_keepalive_connections=100))
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    return await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"], options)


async def partials(message: str) -> AsyncIterator[str]:
    """Stream the BAML function `Chat`: at every step the text so far, at the end the whole text."""
    stream = b.stream.Chat(messages=[], message=message, files=[])
    async for text in stream:
        yield text
    yield await stream.get_final_response()


async def follow(client: AsyncClient, event: str, role: str, on_row: Callable[[dict[str, Any]], None]) -> None:
    """Subscribe to changes of a role's `chat_messages`; returns once the server delivers rows."""
    flowing = asyncio.Event()
    channel = client.channel(f"chat_messages of {role}")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent(event),
        lambda change: on_row(change["data"]["record"] or {}),
        table="chat_messages",
        schema="public",
        filter=f"role=eq.{role}",
    )
    channel.on_system(lambda _: flowing.set())
    await channel.subscribe()
    async with asyncio.timeout(20):
        await flowing.wait()
