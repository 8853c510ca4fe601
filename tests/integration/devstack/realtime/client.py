"""A client of the channel protocol, for tests: sends frames as they are and keeps what comes back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from typing import Any

import aiohttp

SECONDS = 10.0  # to wait for what must come


class Client:
    """One socket. Received messages are read in order by `next`, or picked by `until`."""

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
        """Join a topic and return the answer's payload."""
        payload: dict[str, Any] = {"config": config}
        if token is not None:
            payload["access_token"] = token
        ref = str(next(self._refs))
        await self.send(f"realtime:{topic}", "phx_join", payload, ref, ref)
        return await self.answer(ref)

    async def answer(self, ref: Any) -> dict[str, Any]:
        """Return the payload of the answer to `ref`."""
        return (await self.until(lambda m: m["event"] == "phx_reply" and m["ref"] == ref))["payload"]  # type: ignore[no-any-return]  # JSON

    async def event(self, name: str) -> dict[str, Any]:
        """Return the payload of the next event of that name."""
        return (await self.until(lambda m: m["event"] == name))["payload"]  # type: ignore[no-any-return]  # JSON

    async def subscribed(self) -> None:
        """Wait until row changes flow."""
        payload = await self.event("system")
        assert payload["status"] == "ok", payload

    async def until(self, wanted: Any) -> dict[str, Any]:
        """Return the first unread message that is wanted; others stay unread."""
        async with asyncio.timeout(SECONDS):
            seen: list[Any] = []
            try:
                while True:
                    message = await self._read()
                    if isinstance(message, dict) and wanted(message):
                        return message
                    seen.append(message)
            finally:
                self.unread.extendleft(reversed(seen))

    async def next(self) -> Any:
        """Return the next message: a dict, or bytes if the frame is binary."""
        async with asyncio.timeout(SECONDS):
            return await self._read()

    async def silent(self) -> list[Any]:
        """Let a heartbeat pass; return what came before its answer. The server handles frames in order."""
        ref = await self.send("phoenix", "heartbeat", {})
        await self.answer(ref)
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
