"""A WebSocket that is read continuously, to record when each message arrives, including the close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.devstack.realtime.recording import Close, message

OPEN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message and its time of arrival (`time.monotonic`)."""

    at: float
    message: Any


class Refusal(Exception):
    """The handshake failed: its status was not 101."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


class Connection:
    """A connection. `unread` holds the messages not yet taken; the last one is a Close."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.unread: deque[Arrival] = deque()
        self.closed_by_us: float | None = None  # when we sent our close frame
        self.closed_immediately = False
        self._websocket = websocket
        self._arrived = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="reading a connection")
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str]) -> Connection:
        """Connect. Raises Refusal, OSError, TimeoutError."""
        try:
            websocket = await connect(
                url,
                additional_headers=headers,
                compression=None,
                ping_interval=None,
                max_size=None,
                max_queue=None,
                proxy=None,
                open_timeout=OPEN_SECONDS,
            )
        except InvalidStatus as error:
            response = error.response
            raise Refusal(response.status_code, bytes(response.body or b"").decode()) from error
        return cls(websocket)

    async def send(self, frame: str | bytes) -> None:
        """Send a frame, unless the server has closed the connection."""
        with contextlib.suppress(ConnectionClosed):
            await self._websocket.send(frame)

    async def ping(self, seconds: float) -> bool:
        """Return whether a PING gets a PONG in time."""
        try:
            async with asyncio.timeout(seconds):
                await (await self._websocket.ping())
        except TimeoutError:
            return False
        return True

    def drop(self) -> None:
        """Drop the connection without a close frame."""
        self._websocket.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def close(self, code: int) -> None:
        """Send a close frame; keep reading what the server still sends."""
        self.closed_by_us = time.monotonic()
        self._closing = asyncio.create_task(self._websocket.close(code), name="closing a connection")

    async def take(self, matches: Callable[[Any], bool], seconds: float) -> Arrival | None:
        """Remove the first matching message from `unread`; return None on a timeout or a close."""

        def found() -> Arrival | None:
            return next((arrival for arrival in self.unread if matches(arrival.message)), None)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(lambda: found() is not None or self._reading.done())
        arrival = found()
        if arrival is not None:
            self.unread.remove(arrival)
        return arrival

    async def end(self) -> None:
        """Close the connection if it is open, and stop reading."""
        await self._websocket.close()
        await self._reading
        if self._closing is not None:
            await self._closing

    async def _read(self) -> None:
        while True:
            try:
                received: Any = message(await self._websocket.recv())
            except ConnectionClosed as error:
                received = Close(error.rcvd.code, error.rcvd.reason) if error.rcvd else Close(None, "")
            async with self._arrived:
                self.unread.append(Arrival(time.monotonic(), received))
                self._arrived.notify_all()
            if isinstance(received, Close):
                return
