"""From a question to the first words in a subscribed client, with a model without delay.

Each question comes in a conversation of HISTORY messages that goes on: its reader, and the bridge's worker, have joined
the session's topic with the question before, and the clients of the API servers have connected.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import websockets

from bench.baselines.conversation import EARLIER, HISTORY, follow
from bench.claim_path import claim_path
from bench.report import Measured, for_comparison, ratio
from bench.world import Model, Project, World, chat, conversation, first_delta, insert_chat, reply_ended, unique

# An event of the tutorial's reply: monotonic time, status, text.
Event = tuple[float, str, str]
# Asks a question and waits for the end of the reply; returns the seconds to its first words.
Ask = Callable[[], Awaitable[float]]


async def run(world: World) -> Measured:
    """Measure the bridge with and without dispatch, API servers with WebSockets, and the tutorial's worker, in turn."""
    project, model = await world.project(), await world.model()
    waits: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as opened:
        opening = {
            "bridge": _bridge(world, project, model, opened),
            "FastAPI": _api(world, project, model, opened, "official"),
            "FastAPI, the bridge's driver": _api(world, project, model, opened, "bridge"),
            "postgres_changes": _tutorial(world, project, model, opened),
        }
        systems = dict(zip(opening, await asyncio.gather(*opening.values()), strict=True))
        systems["bridge, claim path"] = systems["bridge"]
        take_claim_path = await opened.enter_async_context(claim_path(project))
        for number in range(world.pick(10, 40) + 2):
            for name, ask in systems.items():
                await take_claim_path("claim path" in name)
                seconds = await ask()
                if number >= 2:  # the first ones fill caches
                    waits[name].append(seconds * 1000)
            await asyncio.sleep(0.02)
    ours = waits["bridge"]
    figures = [
        ratio("first_delta", ours, waits["FastAPI"], unit="ms"),
        ratio("first_delta_own_driver", ours, waits["FastAPI, the bridge's driver"], unit="ms"),
        ratio("first_delta_claim_path", ours, waits["bridge, claim path"], unit="ms"),
        for_comparison("first_delta_postgres_changes", waits["postgres_changes"], "the tutorial's worker"),
    ]
    return Measured(figures, {"question to first words": dict(waits)})


async def _bridge(world: World, project: Project, model: Model, opened: AsyncExitStack) -> Ask:
    person = await opened.enter_async_context(world.person(project))
    async with project.database() as db:
        session = await conversation(db, person.id)
    await opened.enter_async_context(world.worker(project, model, history=HISTORY))
    ear = await person.listen(f"session:{session}")

    async def ask() -> float:
        began = time.monotonic()
        question = await person.ask(session, unique("tokens=20"))
        first = await first_delta(ear, question)
        await reply_ended(ear, question)
        return first - began

    return ask


async def _api(world: World, project: Project, model: Model, opened: AsyncExitStack, driver: str) -> Ask:
    person = await opened.enter_async_context(world.person(project))
    server = await opened.enter_async_context(world.baseline("fastapi_websocket", project, model, "--driver", driver))
    socket = await opened.enter_async_context(websockets.connect(f"{server.hello['url']}?token={person.token}"))
    chat_id = str(uuid.uuid4())

    async def ask() -> float:
        question = {"chat_id": chat_id, "text": unique("tokens=20"), "earlier": EARLIER}
        began = time.monotonic()
        await socket.send(json.dumps({"id": str(uuid.uuid4()), **question}))
        heard = json.loads(await socket.recv())
        first = time.monotonic()
        while "done" not in heard:
            heard = json.loads(await socket.recv())
        return first - began

    return ask


async def _tutorial(world: World, project: Project, model: Model, opened: AsyncExitStack) -> Ask:
    person = await opened.enter_async_context(world.person(project))
    async with project.database() as db:
        chat_id = await chat(db, person.id)
    await opened.enter_async_context(world.baseline("tutorial_worker", project, model))
    replies: asyncio.Queue[Event] = asyncio.Queue()

    def on_change(row: dict[str, Any]) -> None:
        replies.put_nowait((time.monotonic(), row["status"], row["content"]))

    await follow(person.client, "UPDATE", "assistant", on_change)

    async def ask() -> float:
        began = time.monotonic()
        await insert_chat(person, unique("tokens=20"), chat_id)
        return await _first_words(replies) - began

    return ask


async def _first_words(replies: asyncio.Queue[Event]) -> float:
    """Wait for the end of the reply; returns the time of its first words."""
    first: float | None = None
    async with asyncio.timeout(30):
        while True:
            at, status, text = await replies.get()
            if text and first is None:
                first = at
            if status == "done":
                return at if first is None else first
