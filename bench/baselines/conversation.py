"""What the baselines share: a conversation, the official client, the BAML call in two ways, and `postgres_changes`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import httpx
from baml_py.baml_py import set_log_level
from realtime.types import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from baml_client import b
from baml_client.types import Message as ChatMessage
from bridge.functions import Functions
from bridge.model import Message, Role, Session, Turn

# What was said before each question: as many messages for every system that is compared by its latency.
HISTORY = 10
EARLIER: list[tuple[Role, str]] = [
    ("user", "And what would change if the second part came before the first one?"),
    ("assistant", "Not much: the second part needs the result of the first only when both are put together."),
] * (HISTORY // 2)
Earlier = Sequence[tuple[Role, str]]


async def supabase_client() -> AsyncClient:
    """The official client with the secret key; it keeps its connections open."""
    set_log_level("OFF")
    http = httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=100, max_keepalive_connections=100))
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    return await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"], options)


async def partials(message: str, earlier: Earlier = ()) -> AsyncIterator[str]:
    """Stream the BAML function `Chat` as BAML documents it: at every step the text so far, and the whole at the end."""
    said = [ChatMessage.model_validate({"role": role, "content": content}) for role, content in earlier]
    stream = b.stream.Chat(messages=said, message=message, files=[], images=[], pdfs=[], attachments=[])
    async for text in stream:
        yield text
    yield await stream.get_final_response()


async def partials_of_bridge(functions: Functions, message: str, earlier: Earlier = ()) -> AsyncIterator[str]:
    """The same by the bridge's own driver."""
    said = tuple(Message(role, content) for role, content in earlier)
    turn = Turn("Chat", message, said, (), Session("", "", None, "Chat", {}), "")
    async with aclosing(functions.run(turn)) as values:
        async for value in values:
            yield value.text


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
