"""A socket: one WebSocket connection and its channels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from aiohttp import WSMsgType, web

from devstack.realtime.access import Credential
from devstack.realtime.broadcast import TOPIC_PREFIX
from devstack.realtime.channel import Channel
from devstack.realtime.joining import JoinRefused
from devstack.realtime.protocol import (
    MAX_FRAME_BYTES,
    MalformedFrame,
    Message,
    Ref,
    Vsn,
    decode_binary,
    decode_text,
    reply,
)
from devstack.realtime.services import Services

logger = logging.getLogger(__name__)

MAX_CHANNELS = 100
MAX_UNSENT_BYTES = 16 * 1024 * 1024
UNMATCHED = {"reason": "unmatched topic"}


class Socket:
    """One WebSocket connection.

    Encoded frames are written straight to the transport, so that a broadcast is encoded once rather than once per
    socket. The amount of unsent data is bounded: a client that reads too slowly is disconnected.
    """

    def __init__(self, services: Services, vsn: Vsn, credential: Credential, headers: Mapping[str, str]) -> None:
        self.vsn = vsn
        self.credential = credential
        self.headers = headers
        self._services = services
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._websocket = web.WebSocketResponse(
            compress=False,
            # Larger than MAX_FRAME_BYTES: aiohttp drops the connection, while we close it with a code.
            max_msg_size=8 * MAX_FRAME_BYTES,
            timeout=1.0,
        )
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the connection until either side closes it."""
        await self._websocket.prepare(request)
        transport = request.transport
        self._transport = transport if isinstance(transport, asyncio.Transport) else None
        try:
            await self._receive()
        finally:
            self._closing.set()
            for channel in self._channels.values():
                self._end(channel)
            self._channels.clear()
            self._services.clients.discard(self)
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._ended.set()
        return self._websocket

    async def close(self, code: int) -> None:
        """Close the connection; return once its channels have closed."""
        self._closing.set()
        await self._websocket.close(code=code)
        await self._ended.wait()

    def send(self, frame: bytes) -> None:
        """Send a WebSocket frame; disconnect the client if it does not keep up."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._websocket.closed:
            return
        if self._held is not None:
            self._held.append(frame)
            self._held_bytes += len(frame)
        else:
            transport.write(frame)
        if self._held_bytes + transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            logger.warning("disconnected a client that reads too slowly")
            self._closing.set()
            transport.abort()

    def forget(self, channel: Channel) -> None:
        """Remove a channel that has closed itself."""
        if self._channels.get(channel.topic) is channel:
            self._end(self._channels.pop(channel.topic))

    async def _receive(self) -> None:
        while not self._closing.is_set():
            try:
                received = await self._websocket.receive(timeout=self._services.idle_seconds)
            except TimeoutError:
                await self._websocket.close(code=1000)
                return
            if received.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            if len(received.data) > MAX_FRAME_BYTES:
                await self._websocket.close(code=1009)
                return
            try:
                if received.type is WSMsgType.TEXT:
                    message = decode_text(self.vsn, received.data)
                else:
                    message = decode_binary(self.vsn, received.data)
            except MalformedFrame:
                continue
            await self._handle(message)

    async def _handle(self, message: Message) -> None:
        channel = self._channels.get(message.topic)
        if message.topic == "phoenix" and message.event == "heartbeat":
            self._reply(message, None, "ok", {})
        elif message.event == "phx_join" and message.topic.startswith(TOPIC_PREFIX):
            await self._join(message)
        elif message.event == "phx_leave":
            self._reply(message, message.join_ref if channel is None else channel.join_ref, "ok", {})
            if channel is not None:
                self._end(self._channels.pop(message.topic))
                channel.send_close()
        elif channel is not None:
            await channel.handle(message)
        else:
            self._reply(message, None, "error", UNMATCHED)

    async def _join(self, message: Message) -> None:
        former = self._channels.pop(message.topic, None)
        if former is not None:
            self._end(former)
        channel = Channel(self, self._services, message.topic, message.join_ref)
        self._held = []  # the hosted server blocks the whole socket until it has replied to the join
        try:
            self._check_limits()
            response = await channel.join(message.payload)
        except JoinRefused as error:
            await self._back_off()
            self._reply_to_join(message, "error", {"reason": str(error)})
        else:
            self._channels[message.topic] = channel
            self._services.clients.add(self)
            self._reply_to_join(message, "ok", response)
            channel.joined()
        if former is not None:
            former.send_close()

    def _check_limits(self) -> None:
        services = self._services
        if len(self._channels) >= MAX_CHANNELS:
            raise JoinRefused("ChannelRateLimitReached: Too many channels")
        limit = services.limits.clients
        if limit is not None and self not in services.clients and len(services.clients) >= limit:
            raise JoinRefused("ConnectionRateLimitReached: Too many connected users")
        if services.joins.is_exceeded():
            self._closing.set()  # takes effect after the reply
            raise JoinRefused("ClientJoinRateLimitReached: Too many joins per second")
        services.joins.add()

    async def _back_off(self) -> None:
        """Wait for the delay of a rejected join, or until the socket closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._services.denied_delay):
                await self._closing.wait()

    def _reply_to_join(self, message: Message, status: str, response: object) -> None:
        """Reply to a join, then send the frames held in the meantime."""
        held, self._held, self._held_bytes = self._held, None, 0
        self._reply(message, message.join_ref, status, response)
        for frame in held or ():
            self.send(frame)

    def _end(self, channel: Channel) -> None:
        channel.close()
        for task in channel.tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _reply(self, message: Message, join_ref: Ref, status: str, response: object) -> None:
        self.send(reply(self.vsn, message.topic, message.ref, join_ref, status, response))
