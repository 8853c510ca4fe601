"""Session channels on one Realtime connection: joined when wanted, given up for others, never trusted."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.message import Message
from realtime.types import RealtimeSubscribeStates

from bridge.connection import (
    CANARY_SECONDS,
    HEARTBEAT_SECONDS,
    JOIN_SECONDS,
    Supervisor,
    config,
    dismantle,
    join,
    prove,
)
from bridge.errors import RealtimeError

# Realtime takes 100 channels a connection; some stay free for the canary, and for what is being left.
CHANNELS_PER_CONNECTION = 90
SEND_SECONDS = 2.0
# After the reply to a leave its phx_close is still on the way; answers go by topic, and would end a new channel.
LEAVE_SECONDS = 0.05


class SessionChannels:
    """Up to CHANNELS_PER_CONNECTION joined channels; `in_use` tells which sessions have an open stream.

    `on_joined` is called when a channel can be sent on.
    """

    def __init__(
        self, url: str, key: str, name: str, in_use: Callable[[], set[str]], on_joined: Callable[[], None]
    ) -> None:
        self._url = url
        self._key = key
        self._in_use = in_use
        self._on_joined = on_joined
        self._client: AsyncRealtimeClient | None = None
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._channels: dict[str, AsyncRealtimeChannel] = {}
        self._joined: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._odd: asyncio.Future[str] | None = None
        self.supervisor = Supervisor(name, self._session)

    def wants(self, session_id: str) -> bool:
        """Whether the session's channel is joined here, or on its way."""
        return session_id in self._wanted

    def is_joined(self, session_id: str) -> bool:
        """Whether the session's channel can be sent on."""
        return session_id in self._joined

    def use(self, session_id: str) -> bool:
        """Join the session's channel, or keep it; False if every place is taken by one in use."""
        if session_id not in self._wanted and len(self._wanted) >= CHANNELS_PER_CONNECTION:
            in_use = self._in_use()
            idle = next((name for name in self._wanted if name not in in_use), None)
            if idle is None:
                return False
            del self._wanted[idle]
            self._joined.discard(idle)
            if (channel := self._channels.pop(idle, None)) is not None:
                self._leaving[idle] = self._spawn(self._leave(idle, channel))
        self._wanted[session_id] = None
        self._wanted.move_to_end(session_id)
        if self._client is not None and session_id not in self._channels:
            self._spawn(self._join(session_id))
        return True

    async def send(self, session_id: str, event: str, payload: dict[str, Any]) -> bool:
        """Push a broadcast; False if it certainly was not sent.

        Raises:
            RealtimeError: it may or may not have been sent; the connection is given up.
        """
        channel = self._channels.get(session_id)
        if self._client is None or channel is None or not self._client.is_connected:
            return False  # the library would keep it for later, in silence
        message = Message(
            topic=channel.topic,
            event="broadcast",
            payload={"type": "broadcast", "event": event, "payload": payload},
            ref=None,
            join_ref=channel.join_push.ref,
        )
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._client.send(message)
        except (TimeoutError, OSError) as error:
            self._give_up(f"a push was not taken: {type(error).__name__}")
            raise RealtimeError("a push was not taken") from error
        return True

    def _give_up(self, why: str) -> None:
        if self._odd is not None and not self._odd.done():
            self._odd.set_result(why)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _session(self, ready: Callable[[], None]) -> None:
        client = AsyncRealtimeClient(
            self._url, self._key, auto_reconnect=False, hb_interval=HEARTBEAT_SECONDS, timeout=int(JOIN_SECONDS)
        )
        self._odd = asyncio.get_running_loop().create_future()
        heard: asyncio.Queue[str] = asyncio.Queue()
        try:
            canary = await join(client, f"bridge:outbox:{uuid.uuid4().hex}", self._give_up, heard)
            await prove(canary, heard)
            self._client = client
            listening = client._listen_task
            assert listening is not None
            ready()
            in_use = self._in_use()
            for session_id in [name for name in self._wanted if name not in in_use]:
                del self._wanted[session_id]  # a project takes 100 joins a second: only what is needed now
            for session_id in self._wanted:
                self._spawn(self._join(session_id))
            while not (await asyncio.wait({self._odd, listening}, timeout=CANARY_SECONDS))[0]:
                await prove(canary, heard)
            raise RealtimeError(self._odd.result() if self._odd.done() else "the connection was closed")
        finally:
            self._client = None
            self._joined.clear()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._channels.clear()
            await dismantle(client)

    async def _join(self, session_id: str) -> None:
        if (leaving := self._leaving.get(session_id)) is not None:
            await asyncio.wait({leaving})
        client = self._client
        if client is None or session_id in self._channels or session_id not in self._wanted:
            return
        channel = client.channel(f"session:{session_id}", config(private=True, hears_itself=False))
        self._channels[session_id] = channel

        def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._joined.add(session_id)
                self._on_joined()
                return
            self._joined.discard(session_id)
            self._give_up(f"session channel: {state.value} {error or ''}".rstrip())

        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await channel.subscribe(on_state)
        except Exception as error:
            self._give_up(f"session channel: {type(error).__name__} {error}".rstrip())

    async def _leave(self, session_id: str, channel: AsyncRealtimeChannel) -> None:
        closed = asyncio.Event()

        def on_state(state: RealtimeSubscribeStates, _: Exception | None) -> None:
            if state is RealtimeSubscribeStates.CLOSED:  # an answer to its join, which may still come, is none to this
                closed.set()

        channel.subscribe_callback = on_state  # what else becomes of it is nobody's concern any more
        try:
            with contextlib.suppress(Exception):  # whatever it is, the supervisor sees the connection
                async with asyncio.timeout(SEND_SECONDS):
                    await channel.unsubscribe()
                    await closed.wait()
                    await asyncio.sleep(LEAVE_SECONDS)
        finally:
            self._leaving.pop(session_id, None)
