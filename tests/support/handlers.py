"""Handlers that tests name in BRIDGE_HANDLERS."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator

from bridge import FileWrite, Turn, handler


@handler("Freeze")
async def freeze(turn: Turn) -> AsyncGenerator[str, None]:
    """Block the event loop, as a careless handler does."""
    yield "so long"
    time.sleep(60)  # noqa: ASYNC251  # that is the point


@handler("Die")
async def die(turn: Turn) -> AsyncGenerator[str, None]:
    """Take the worker along, as a fault in a native library does."""
    yield "so long"
    os._exit(7)


@handler("Loud")
async def loud(turn: Turn) -> AsyncGenerator[str | FileWrite | dict[str, int], None]:
    """Text, a file and a structured value."""
    for word in turn.message.split():
        yield word.upper() + " "
    yield {"words": len(turn.message.split())}
    yield FileWrite("loud.txt", turn.message.upper())
