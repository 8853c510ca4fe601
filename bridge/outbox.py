"""Deltas to session channels: cut from what the model said so far, pushed by socket, within the quota.

The turn puts the newest partial into its `Stream` (`update`); the outbox's one pump cuts deltas from it: the first
at once, then at the pace that `DELTA_MS` and the fleet's quota allow.

Pushes go over connections of the outbox's own, apart from the inbox's: a full socket must not delay a wake-up.
Broadcasts are sent past `channel.push`, which would leave a 10 s timer each (realtime 2.34.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.message import Message as RealtimeMessage
from realtime.types import RealtimeSubscribeStates

from bridge.connection import HEARTBEAT_SECONDS, JOIN_SECONDS, Supervisor, dismantle
from bridge.errors import RealtimeError
from bridge.model import Checkpoint, Job, Partial
from bridge.settings import Settings
from bridge.stream import Stream

log = logging.getLogger(__name__)

# Realtime takes 100 channels a connection; some stay free for the moment between a leave and its answer.
CHANNELS_PER_CONNECTION = 90
SEND_SECONDS = 2.0
JOIN_PATIENCE_SECONDS = 0.5
# What a delta counts at Realtime's quota: the send and its delivery.
EVENTS_PER_DELTA = 2
# What a reply counts besides: its rows' events (question and reply, at claim and at the end), each with deliveries.
EVENTS_PER_REPLY = 10


class _Connection:
    """One Realtime connection with up to `CHANNELS_PER_CONNECTION` joined session channels."""

    def __init__(self, url: str, key: str, number: int) -> None:
        self._url = url
        self._key = key
        self._client: AsyncRealtimeClient | None = None
        self._channels: OrderedDict[str, AsyncRealtimeChannel] = OrderedDict()
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._joined: set[str] = set()
        self._joins: set[asyncio.Task[None]] = set()
        self._odd: asyncio.Future[str] | None = None
        self.on_joined = asyncio.Event()
        self.supervisor = Supervisor(f"outbox {number}", self._session)

    def wants(self, session_id: str) -> bool:
        return session_id in self._wanted

    def use(self, session_id: str, in_use: set[str]) -> bool:
        """Join the session's channel, or keep it; False if every place is taken by one in use."""
        if session_id not in self._wanted and len(self._wanted) >= CHANNELS_PER_CONNECTION:
            idle = next((name for name in self._wanted if name not in in_use), None)
            if idle is None:
                return False
            del self._wanted[idle]
            self._spawn(self._leave(idle))
        self._wanted[session_id] = None
        self._wanted.move_to_end(session_id)
        if self._client is not None and session_id not in self._channels:
            self._spawn(self._join(session_id))
        return True

    def is_joined(self, session_id: str) -> bool:
        return session_id in self._joined

    async def send(self, session_id: str, payload: dict[str, Any]) -> None:
        """Push a delta.

        Raises:
            RealtimeError: it was not sent; the connection is given up.
        """
        channel = self._channels.get(session_id)
        if self._client is None or channel is None or not self._client.is_connected:
            raise RealtimeError("not connected")  # the library would keep it for later, in silence
        message = RealtimeMessage(
            topic=channel.topic,
            event="broadcast",
            payload={"type": "broadcast", "event": "delta", "payload": payload},
            ref=None,
            join_ref=channel.join_push.ref,
        )
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._client.send(message)
        except (TimeoutError, OSError) as error:
            self._give_up(f"a push was not taken: {type(error).__name__}")
            raise RealtimeError("a push was not taken") from error

    def _give_up(self, why: str) -> None:
        if self._odd is not None and not self._odd.done():
            self._odd.set_result(why)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _session(self, ready: Any) -> None:
        client = AsyncRealtimeClient(
            self._url,
            self._key,
            auto_reconnect=False,
            hb_interval=HEARTBEAT_SECONDS,
            timeout=int(JOIN_SECONDS),
        )
        self._odd = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await client.connect()
            self._client = client
            listening = client._listen_task
            assert listening is not None
            ready()
            for session_id in list(self._wanted):
                self._spawn(self._join(session_id))
            await asyncio.wait({self._odd, listening}, return_when=asyncio.FIRST_COMPLETED)
            raise RealtimeError(self._odd.result() if self._odd.done() else "the connection was closed")
        except TimeoutError:
            raise RealtimeError(f"no connection within {JOIN_SECONDS:g} s") from None
        finally:
            self._client = None
            for task in list(self._joins):
                task.cancel()
            await asyncio.gather(*self._joins, return_exceptions=True)
            self._channels.clear()
            self._joined.clear()
            await dismantle(client)

    async def _join(self, session_id: str) -> None:
        client = self._client
        if client is None or session_id in self._channels:
            return
        channel = client.channel(
            f"session:{session_id}",
            {
                "config": {
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": False},
                    "private": True,
                }
            },
        )
        self._channels[session_id] = channel

        def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._joined.add(session_id)
                self.on_joined.set()
                return
            self._joined.discard(session_id)
            if state is not RealtimeSubscribeStates.CLOSED or session_id in self._wanted:
                self._give_up(f"session channel: {state.value} {error or ''}".rstrip())

        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await channel.subscribe(on_state)
        except Exception as error:
            self._give_up(f"session channel: {type(error).__name__} {error}".rstrip())

    async def _leave(self, session_id: str) -> None:
        channel = self._channels.pop(session_id, None)
        self._joined.discard(session_id)
        if channel is not None:
            with contextlib.suppress(Exception):  # whatever it is, the supervisor sees the connection
                async with asyncio.timeout(SEND_SECONDS):
                    await channel.unsubscribe()


class Outbox:
    """All streams of a worker. `run` pumps until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._streams: dict[str, Stream] = {}
        self._connections: list[_Connection] = []
        self._group: asyncio.TaskGroup | None = None
        self._dirty = asyncio.Event()
        self._budget = settings.events_per_second
        self._filled_at = time.monotonic()
        self.workers = 1
        self.sent = 0
        self.failed = 0
        self.gaps = 0

    @property
    def is_ready(self) -> bool:
        """Whether every connection stands."""
        return all(connection.supervisor.is_ready for connection in self._connections)

    async def run(self) -> None:
        """Connect and send until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._connect()
            self._group.create_task(self._pump())

    def open(self, job: Job) -> Stream:
        """Begin a reply: its channel is joined while the model is still thinking."""
        session_id = job.turn.session.id if job.turn is not None else ""
        stream = self._streams[job.message_id] = Stream(job.message_id, job.reply_id, session_id, job.attempt)
        self._spend(EVENTS_PER_REPLY)
        if job.turn is None or job.cancel:
            return stream  # nothing will be said
        in_use = {other.session_id for other in self._streams.values()}
        connections = [c for c in self._connections if c.wants(session_id)] or self._connections
        if not any(connection.use(session_id, in_use) for connection in connections):
            self._connect().use(session_id, in_use)
        return stream

    def update(self, stream: Stream, partial: Partial) -> None:
        """The reply so far; it is sent when it is due."""
        stream.put(partial)
        self._dirty.set()

    async def flush(self, stream: Stream) -> None:
        """Send what is left of a reply that ended, whatever the pace, so that the deltas make the whole of it."""
        connection = await self._joined(stream)
        if connection is not None:
            with contextlib.suppress(RealtimeError):  # the row has it all
                while stream.is_dirty:
                    await self._send(connection, stream)
        stream.checkpoint(unheard=True)

    async def _joined(self, stream: Stream) -> _Connection | None:
        """The stream's connection; a reply that was faster than its channel waits a moment for it."""
        deadline = time.monotonic() + JOIN_PATIENCE_SECONDS
        while (connection := self._connection(stream)) is None:
            joining = any(c.supervisor.is_ready and c.wants(stream.session_id) for c in self._connections)
            if not joining or not stream.is_dirty or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.005)
        return connection

    def close(self, stream: Stream) -> None:
        """Forget a stream."""
        if self._streams.get(stream.message_id) is stream:
            del self._streams[stream.message_id]

    def checkpoint(self, stream: Stream) -> Checkpoint:
        """What the next beat is to say of this reply."""
        before = stream.seq
        checkpoint = stream.checkpoint(unheard=self._connection(stream) is None)
        self.gaps += stream.seq - before
        return checkpoint

    def _connect(self) -> _Connection:
        assert self._group is not None, "open() needs run()"
        connection = _Connection(self._settings.realtime_url, self._settings.supabase_key, len(self._connections) + 1)
        connection.on_joined = self._dirty
        self._connections.append(connection)
        self._group.create_task(connection.supervisor.run())
        return connection

    def _connection(self, stream: Stream) -> _Connection | None:
        for connection in self._connections:
            if connection.is_joined(stream.session_id):
                return connection
        return None

    def _spend(self, events: int) -> None:
        now = time.monotonic()
        rate = self._settings.events_per_second / max(1, self.workers)
        self._budget = min(rate, self._budget + (now - self._filled_at) * rate) - events
        self._filled_at = now

    async def _pump(self) -> None:
        pace = self._settings.delta_ms / 1000
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            wake: float | None = None
            # those that waited longest first; a reply's first delta never waits for its turn
            for stream in sorted(self._streams.values(), key=lambda stream: stream.due):
                if not stream.is_dirty or (connection := self._connection(stream)) is None:
                    continue
                now = time.monotonic()
                self._spend(0)
                rate = self._settings.events_per_second / max(1, self.workers)
                lack = 0.0 if stream.seq == 0 else max(0.0, (EVENTS_PER_DELTA - self._budget) / rate)
                at = max(stream.due, now + lack)
                if at > now:
                    wake = at if wake is None else min(wake, at)
                    continue
                try:
                    await self._send(connection, stream)
                except RealtimeError:
                    continue  # it stays with the next delta, on the next connection
                stream.due = time.monotonic() + pace
                if stream.is_dirty:
                    wake = stream.due if wake is None else min(wake, stream.due)
            if wake is not None:
                with contextlib.suppress(TimeoutError):
                    # new partials do not hurry what waits for its pace, only what is due
                    async with asyncio.timeout(max(0.001, wake - time.monotonic())):
                        await self._dirty.wait()
                self._dirty.set()

    async def _send(self, connection: _Connection, stream: Stream) -> None:
        payload = stream.cut()
        if payload is None:
            return
        self._spend(EVENTS_PER_DELTA)
        try:
            await connection.send(stream.session_id, payload)
        except RealtimeError:
            self.failed += 1
            stream.undo()
            raise
        self.sent += 1
        if stream.first_sent_at is None:
            stream.first_sent_at = time.monotonic()
