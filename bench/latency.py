"""From a question to its first words in a subscribed client, the model at no delay."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import websockets
from realtime.types import RealtimePostgresChangesListenEvent

from bench.report import Figure, Measured, Spread, ratio
from bench.world import World, heard_of, insert_chat, unique
from tests.support.users import Person


async def run(world: World) -> Measured:
    """Measure the bridge, an API server with WebSockets, and the tutorial's worker, in turns."""
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
        replies = await _replies(person)
        for number in range(count + 2):
            text = unique("tokens=20")
            began = time.monotonic()
            message_id = await person.ask(session, text)
            await heard_of(ear, "delta", reply_to=message_id)
            bridge = _first_delta(ear.heard, ear.times, message_id) - began
            await heard_of(ear, "message", reply_to=message_id, status="done")

            began = time.monotonic()
            await socket.send(json.dumps({"id": str(uuid.uuid4()), "chat_id": chat, "text": unique("tokens=20")}))
            heard = json.loads(await socket.recv())
            api = time.monotonic() - began
            while "done" not in heard:
                heard = json.loads(await socket.recv())

            began = time.monotonic()
            await insert_chat(person, unique("tokens=20"), str(uuid.uuid4()))
            tutorial = await _said(replies, ended=False) - began
            await _said(replies, ended=True)
            if number >= 2:
                for name, seconds in (("bridge", bridge), ("FastAPI", api), ("postgres_changes", tutorial)):
                    waits[name].append(seconds * 1000)
            await asyncio.sleep(0.02)
    spread = Spread.of(waits["postgres_changes"])
    figures = [
        ratio("first_delta", waits["bridge"], waits["FastAPI"], 2.0, unit="ms"),
        Figure(
            "first_delta_postgres_changes", spread.median, "ms", spread=(spread.first, spread.third),
            detail={"samples": spread.count, "what": "the tutorial's worker, for comparison"},
        ),
    ]  # fmt: skip
    return Measured(figures, {"question to first words": dict(waits)})


def _first_delta(heard: list[tuple[str, dict[str, object]]], times: list[float], message_id: str) -> float:
    for (event, payload), at in zip(heard, times, strict=True):
        if event == "delta" and payload["reply_to"] == message_id:
            return at
    raise AssertionError("waited for before")


async def _replies(person: Person) -> asyncio.Queue[tuple[float, str, str]]:
    """What the tutorial's client hears of its replies' rows: when, the status, the text."""
    heard: asyncio.Queue[tuple[float, str, str]] = asyncio.Queue()
    flowing = asyncio.Event()

    def on_change(change: Any) -> None:
        row = change["data"]["record"]
        heard.put_nowait((time.monotonic(), row["status"], row["content"]))

    channel = person.client.channel("replies")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.Update,
        on_change,
        table="chat_messages",
        schema="public",
        filter="role=eq.assistant",
    )
    channel.on_system(lambda _: flowing.set())
    await channel.subscribe()
    async with asyncio.timeout(20):
        await flowing.wait()
    return heard


async def _said(replies: asyncio.Queue[tuple[float, str, str]], *, ended: bool) -> float:
    """Wait for the first words, or for the end; give the time."""
    async with asyncio.timeout(30):
        while True:
            at, status, text = await replies.get()
            if status == "done" if ended else text:
                if not ended and status == "done":  # it all came at once
                    replies.put_nowait((at, status, text))
                return at
