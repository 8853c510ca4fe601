"""What the baselines share: the official clients, and one BAML call as BAML's own documentation writes it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import httpx
from baml_py.baml_py import set_log_level
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from baml_client import b


async def supabase_client() -> AsyncClient:
    """The official client with the secret key; its connections are kept."""
    set_log_level("OFF")
    http = httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=100, max_keepalive_connections=100))
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    return await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"], options)


async def partials(message: str) -> AsyncIterator[str]:
    """Stream the BAML function `Chat`: all of the text so far at every step; at the end all of it once more."""
    stream = b.stream.Chat(messages=[], message=message, files=[])
    async for text in stream:
        yield text
    yield await stream.get_final_response()


def greet(**fields: object) -> None:
    """Say that the program is ready."""
    print(json.dumps({"ready": True, **fields}), flush=True)


async def until_stopped() -> None:
    """Wait for SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
