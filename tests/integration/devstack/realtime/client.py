"""A minimal client for the channel protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from typing import Any

import aiohttp

SECONDS = 10.0  # to wait for an expected message


class Client:
    """A socket. `next` returns messages in order; `until` picks one and keeps the others."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, vsn: str) -> None:
        self.websocket = websocket
        self.vsn = vsn
        self.unread: deque[Any] = deque()
        self._refs = itertools.count(1)

    async def send(self, topic: str, event: str, payload: Any, ref: Any = "", join_ref: Any = None) -> Any:
        """Send a message and return its ref."""
        ref = str(next(self._refs)) if ref == "" else ref
        if self.vsn == "1.0.0":
            frame: Any = {
                "topic": topic,
                "event": event,
                "payload": payload,
                "ref": ref,
                "join_ref": join_ref,
            }
        else:
            frame = [join_ref, ref, topic, event, payload]
        await self.websocket.send_str(json.dumps(frame))
        return ref

    async def join(self, topic: str, token: str | None = None, **config: Any) -> dict[str, Any]:
        """Join a topic and return the payload of the reply."""
        payload: dict[str, Any] = {"config": config}
        if token is not None:
            payload["access_token"] = token
        ref = str(next(self._refs))
        await self.send(f"realtime:{topic}", "phx_join", payload, ref, ref)
        return await self.reply(ref)

    async def reply(self, ref: Any) -> dict[str, Any]:
        """Return the payload of the reply to `ref`."""
        return (await self.until(lambda m: m["event"] == "phx_reply" and m["ref"] == ref))["payload"]  # type: ignore[no-any-return]  # JSON

    async def event(self, name: str) -> dict[str, Any]:
        """Return the payload of the next event with this name."""
        return (await self.until(lambda m: m["event"] == name))["payload"]  # type: ignore[no-any-return]  # JSON

    async def subscribed(self) -> None:
        """Wait until the subscription to row changes is active."""
        payload = await self.event("system")
        assert payload["status"] == "ok", payload

    async def until(self, matches: Any) -> dict[str, Any]:
        """Return the first unread message that matches; the others stay unread."""
        async with asyncio.timeout(SECONDS):
            skipped: list[Any] = []
            try:
                while True:
                    message = await self._read()
                    if isinstance(message, dict) and matches(message):
                        return message
                    skipped.append(message)
            finally:
                self.unread.extendleft(reversed(skipped))

    async def next(self) -> Any:
        """Return the next message: a dict, or bytes if the frame is binary."""
        async with asyncio.timeout(SECONDS):
            return await self._read()

    async def silent(self) -> list[Any]:
        """Send a heartbeat and return the messages received before its reply; the server handles frames in order."""
        ref = await self.send("phoenix", "heartbeat", {})
        await self.reply(ref)
        before, self.unread = list(self.unread), deque()
        return before

    async def _read(self) -> Any:
        if self.unread:
            return self.unread.popleft()
        received = await self.websocket.receive()
        if received.type is aiohttp.WSMsgType.BINARY:
            return received.data
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"closed: {received.type!r} {self.websocket.close_code}")
        value = json.loads(received.data)
        if isinstance(value, list):
            value = dict(zip(("join_ref", "ref", "topic", "event", "payload"), value, strict=True))
        return value
