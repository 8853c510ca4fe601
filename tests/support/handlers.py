"""Handlers for tests, to name in BRIDGE_HANDLERS."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time
from collections.abc import AsyncGenerator
from typing import Literal

from pydantic import BaseModel, Field

from bridge import Attachment, FileWrite, Turn, TurnFailure, Usage, handler

_lags: list[float] = []  # how late the event loop was, in seconds
_busy: list[float] = []  # … for which its own thread was busy: not the machine, with other processes
_measuring: list[asyncio.Task[None]] = []


@handler("Lag")
async def measure_lag(turn: Turn) -> AsyncGenerator[str, None]:
    """Measure how late the event loop is, until the process ends. From the second call on, give what was measured."""
    if not _measuring:
        _measuring.append(asyncio.create_task(_measure()))
        yield "measuring"
    else:
        yield "; ".join(map(_quantiles, (_lags, _busy)))


def _quantiles(measured: list[float]) -> str:
    ordered = sorted(measured)
    return " ".join(f"{1000 * ordered[int((len(ordered) - 1) * share)]:.1f}" for share in (0.5, 0.99, 1))


async def _measure() -> None:
    while True:
        due, used = time.perf_counter() + 0.01, time.thread_time()
        await asyncio.sleep(0.01)
        _lags.append(time.perf_counter() - due)
        _busy.append(time.thread_time() - used)


@handler("Freeze")
async def freeze(turn: Turn) -> AsyncGenerator[str, None]:
    """Block the event loop, like a careless handler."""
    yield "so long"
    time.sleep(60)  # noqa: ASYNC251  # on purpose


@handler("Hold")
async def hold_the_gil(turn: Turn) -> AsyncGenerator[str, None]:
    """Block every thread of Python, like a careless native library."""
    yield "so long"
    ctypes.PyDLL(None).sleep(60)  # unlike `CDLL`, it keeps the GIL


@handler("Die")
async def die(turn: Turn) -> AsyncGenerator[str, None]:
    """End the process, like a crash in a native library."""
    yield "so long"
    os._exit(7)


class Bare(TurnFailure):
    """A failure without the fields of one."""

    def __init__(self) -> None:
        Exception.__init__(self, "bare")


@handler("Faulty")
async def faulty(turn: Turn) -> AsyncGenerator[str | Usage, None]:
    """Raise a failure that cannot be read, or report an impossible cost."""
    if "cost" in turn.message:
        yield Usage(input_tokens=-1)
        return
    yield "so long"
    raise Bare


class Note(BaseModel):
    """Part of the options of `Tell`."""

    text: str


class Options(BaseModel):
    """What a question to `Tell` may say beside its text: a field of each kind."""

    tone: Literal["plain", "formal"]
    copies: int = Field(1, ge=1, le=9, title="Number of copies", description="At most nine")
    budget: float | None = None
    is_urgent: bool = False
    language: str | None = Field(None, max_length=20)
    notes: list[Note] = []


@handler(
    "Tell",
    title="Tell me",
    description="Says what it was told",
    suggestions=["What did I say?"],
    parameters=Options,
)
async def tell(turn: Turn) -> AsyncGenerator[str, None]:
    """Repeat the arguments, in the order of the alphabet."""
    yield json.dumps(turn.data, sort_keys=True)


class Loudness(BaseModel):
    """What a question to `Loud` may say beside its text."""

    exclamation: bool = False


@handler("Loud", title="Loud words", suggestions=["good morning"], parameters=Loudness)
async def loud(turn: Turn) -> AsyncGenerator[str | FileWrite | dict[str, int], None]:
    """Yield text, a structured value and a file."""
    for word in turn.message.split():
        yield word.upper() + " "
    yield {"words": len(turn.message.split())}
    yield FileWrite("loud.txt", turn.message.upper())


@handler("Copy", accepts=["image/png", "text/plain"])
async def copy(turn: Turn) -> AsyncGenerator[str | Attachment, None]:
    """Give each attachment back, and then fail once."""
    for attachment in turn.attachments:
        yield Attachment(f"copy of {attachment.name}", await turn.read(attachment), attachment.type)

    async def done() -> int:
        return len(turn.attachments)

    count = await turn.step("copied", done)
    if turn.attempt == 1:
        raise OSError
    yield f"{count} copied"
