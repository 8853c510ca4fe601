"""From a question to the first words in a subscribed client, with a model without delay."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import websockets

from bench.baselines.conversation import follow
from bench.report import Measured, for_comparison, ratio
from bench.world import World, first_delta, insert_chat, reply_ended, unique

# An event of the tutorial's reply: monotonic time, status, text.
Event = tuple[float, str, str]


async def run(world: World) -> Measured:
    """Measure the bridge, an API server with WebSockets, and the tutorial's worker, alternating."""
    project, model = await world.project(), await world.model()
    waits: dict[str, list[float]] = defaultdict(list)
    count = world.pick(10, 40)
    async with AsyncExitStack() as opened:
        person = await opened.enter_async_context(world.person(project))
        _, _, server = await world.enter(
            opened,
            world.worker(project, model),
            world.baseline("tutorial_worker", project, model),
            world.baseline("fastapi_websocket", project, model),
        )
        socket = await opened.enter_async_context(websockets.connect(f"{server.hello['url']}?token={person.token}"))
        session, chat = await person.open_session(title="latency"), str(uuid.uuid4())
        ear = await person.listen(f"session:{session}")
        replies: asyncio.Queue[Event] = asyncio.Queue()

        def on_change(row: dict[str, Any]) -> None:
            replies.put_nowait((time.monotonic(), row["status"], row["content"]))

        await follow(person.client, "UPDATE", "assistant", on_change)
        for number in range(count + 2):
            began = time.monotonic()
            question = await person.ask(session, unique("tokens=20"))
            bridge = await first_delta(ear, question) - began
            await reply_ended(ear, question)

            began = time.monotonic()
            await socket.send(json.dumps({"id": str(uuid.uuid4()), "chat_id": chat, "text": unique("tokens=20")}))
            heard = json.loads(await socket.recv())
            api = time.monotonic() - began
            while "done" not in heard:
                heard = json.loads(await socket.recv())

            began = time.monotonic()
            await insert_chat(person, unique("tokens=20"), str(uuid.uuid4()))
            tutorial = await _first_words(replies) - began
            if number >= 2:  # the first ones fill caches
                for name, seconds in (("bridge", bridge), ("FastAPI", api), ("postgres_changes", tutorial)):
                    waits[name].append(seconds * 1000)
            await asyncio.sleep(0.02)
    figures = [
        ratio("first_delta", waits["bridge"], waits["FastAPI"], unit="ms"),
        for_comparison("first_delta_postgres_changes", waits["postgres_changes"], "the tutorial's worker"),
    ]
    return Measured(figures, {"question to first words": dict(waits)})


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
