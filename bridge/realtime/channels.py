"""Session channels on one Realtime connection: joined when a reply needs one, left soon after the last reply."""

import asyncio
import contextlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from realtime import AsyncRealtimeChannel
from realtime.types import RealtimeSubscribeStates

from bridge.errors import RealtimeError
from bridge.realtime.connection import PROBE_SECONDS, SEND_SECONDS, Connection
from bridge.realtime.supervisor import Supervisor

# Realtime allows 100 channels on a connection; some stay free for the probe, and for channels being left.
CHANNELS_PER_CONNECTION = 90
# How long to wait for the phx_close after the reply to a leave. It names only the topic, and would end a new channel.
LEAVE_SECONDS = 0.05
# How long a channel stays joined after a reply. Whoever is joined is delivered every event of the session, which counts
# for the quota, also when another worker answers the next question.
IDLE_SECONDS = 10.0


class SessionChannels:
    """Up to CHANNELS_PER_CONNECTION joined channels. `in_use`: the sessions with a running reply."""

    def __init__(
        self, url: str, key: str, name: str, in_use: Callable[[], set[str]], on_joined: Callable[[], None]
    ) -> None:
        self._url = url
        self._key = key
        self._in_use = in_use
        self._on_joined = on_joined
        self._connection: Connection | None = None
        self._wanted: OrderedDict[str, None] = OrderedDict()  # least recently used first
        self._channels: dict[str, AsyncRealtimeChannel] = {}
        self._joined: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of sessions without a running reply
        self.supervisor = Supervisor(name, self._session)

    def wants(self, session_id: str) -> bool:
        """Whether the session's channel is joined here, or about to be."""
        return session_id in self._wanted

    def is_joined(self, session_id: str) -> bool:
        """Whether the session's channel can be sent on."""
        return session_id in self._joined

    def use(self, session_id: str) -> bool:
        """Join the session's channel, or keep it; False if running replies use every place."""
        if session_id not in self._wanted and len(self._wanted) >= CHANNELS_PER_CONNECTION:
            in_use = self._in_use()
            idle = next((name for name in self._wanted if name not in in_use), None)
            if idle is None:
                return False
            self._drop(idle)
        self._wanted[session_id] = None
        self._wanted.move_to_end(session_id)
        if self._connection is not None and session_id not in self._channels:
            self._spawn(self._join(self._connection, session_id))
        return True

    def release(self, session_id: str) -> None:
        """Leave the session's channel after IDLE_SECONDS, unless a reply needs it again."""
        if session_id in self._wanted:
            if (timer := self._timers.pop(session_id, None)) is not None:
                timer.cancel()
            self._timers[session_id] = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop_idle, session_id)

    def _drop_idle(self, session_id: str) -> None:
        del self._timers[session_id]
        if session_id in self._wanted and session_id not in self._in_use():
            self._drop(session_id)

    def _drop(self, session_id: str) -> None:
        del self._wanted[session_id]
        self._joined.discard(session_id)
        if (channel := self._channels.pop(session_id, None)) is not None:
            self._leaving[session_id] = self._spawn(self._leave(session_id, channel))

    async def send(self, session_id: str, event: str, payload: dict[str, Any]) -> bool:
        """Push a broadcast; see `Connection.send`."""
        channel = self._channels.get(session_id)
        if self._connection is None or channel is None:
            return False
        return await self._connection.send(channel, event, payload)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _session(self, on_ready: Callable[[], None]) -> None:
        async with Connection(self._url, self._key) as connection:
            try:
                await connection.join(connection.channel(f"bridge:outbox:{uuid.uuid4().hex}", probed=True))
                await connection.probe()
                self._connection = connection
                on_ready()
                in_use = self._in_use()
                for session_id in [name for name in self._wanted if name not in in_use]:
                    del self._wanted[session_id]  # a project allows 100 joins a second: join only what is needed now
                for session_id in self._wanted:
                    self._spawn(self._join(connection, session_id))
                while True:
                    await connection.wait(PROBE_SECONDS)
                    await connection.probe()
            finally:
                self._connection = None
                self._joined.clear()
                tasks = list(self._tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._channels.clear()

    async def _join(self, connection: Connection, session_id: str) -> None:
        if (leaving := self._leaving.get(session_id)) is not None:
            await asyncio.wait({leaving})
        if connection is not self._connection or session_id in self._channels or session_id not in self._wanted:
            return
        channel = self._channels[session_id] = connection.channel(f"session:{session_id}")
        try:
            await connection.join(channel)
        except RealtimeError as error:
            connection.fail(str(error))
        except Exception as error:  # whatever the library raises: the supervisor starts over
            connection.fail(f"{channel.topic}: {type(error).__name__} {error}".rstrip())
        else:
            if self._channels.get(session_id) is channel:  # it may have been left meanwhile
                self._joined.add(session_id)
                self._on_joined()

    async def _leave(self, session_id: str, channel: AsyncRealtimeChannel) -> None:
        closed = asyncio.Event()

        def on_state(state: RealtimeSubscribeStates, _: Exception | None) -> None:
            if state is RealtimeSubscribeStates.CLOSED:  # the reply to its join may still come, and is not this one
                closed.set()

        channel.subscribe_callback = on_state  # nothing else that happens to it matters now
        try:
            with contextlib.suppress(Exception):  # whatever it is, the supervisor watches the connection
                async with asyncio.timeout(SEND_SECONDS):
                    await channel.unsubscribe()
                    await closed.wait()
                    await asyncio.sleep(LEAVE_SECONDS)
        finally:
            self._leaving.pop(session_id, None)
