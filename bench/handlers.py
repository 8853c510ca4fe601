"""Handlers whose steps are measured: BRIDGE_HANDLERS of the rows about steps. Each reports its times in its data."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any

from bench.prose import words
from bridge import Turn, handler

FUNCTIONS = "Chat,Steps,Ask,Killed"
_began: dict[str, float] = {}  # by question: when this process came to its first line


async def give(size: int, number: int) -> str:
    """What a step gives: so many characters that compress like prose."""
    return prose(size, number)


async def now() -> float:
    """The time."""
    return time.time()


@cache
def prose(size: int, number: int) -> str:
    """The text of a step: another one for each number."""
    return "".join(words(size // 2 + number, structured=False))[:size]


@handler("Steps")
async def take_steps(turn: Turn) -> AsyncGenerator[Any, None]:
    """Say something and take a step, so many times; with `steps` false, only say it. With `tool`, the steps are shown.

    The question is JSON: {count, size, steps?, tool?}.
    """
    asked = json.loads(turn.message)
    waits, began = [], time.time()
    for number in range(asked["count"]):
        yield f"This is step {number}. "
        at = time.perf_counter()
        if asked.get("tool"):
            await turn.tool("give", give, size=asked["size"], number=number)
        elif asked.get("steps", True):
            await turn.step("give", give, asked["size"], number)
        waits.append((time.perf_counter() - at) * 1000)
    yield {"ms": waits, "began": began, "ended": time.time()}


@handler("Ask")
async def ask(turn: Turn) -> AsyncGenerator[Any, None]:
    """Take so many steps, ask the user, and take another step: when did it begin? The question is JSON: {steps}."""
    began = _began.setdefault(turn.question_id, time.time())
    for number in range(json.loads(turn.message)["steps"]):
        await turn.step(f"step {number}", give, 200, number)
    await turn.ask("go", "Go on?")
    answered = time.time()
    following = await turn.step("next", now)
    yield {"began": began, "answered": answered, "next": following}


@handler("Killed")
async def is_killed(turn: Turn) -> AsyncGenerator[Any, None]:
    """Take so many steps, and another one, in which the worker stays that took them: when does the next one begin it?

    The question is JSON: {steps}.
    """
    stays = False

    async def take(number: int) -> str:
        nonlocal stays
        stays = True
        return prose(200, number)

    async def follow() -> float:
        began = time.time()
        if stays:
            await asyncio.sleep(100)  # longer than any row waits
        return began

    for number in range(json.loads(turn.message)["steps"]):
        await turn.step(f"step {number}", take, number)
    yield {"next": await turn.step("next", follow)}
