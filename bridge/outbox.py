"""Deltas to session channels: cut from what the model said so far, pushed by socket, within the quota.

The turn puts the newest partial into its `Stream` (`update`); the outbox's one pump cuts deltas from it: the first
at once, then at the pace that `DELTA_MS` and the fleet's quota allow.

Pushes go over connections of the outbox's own, apart from the inbox's: a full socket must not delay a wake-up.
Broadcasts are sent past `channel.push`, which would leave a 10 s timer each (realtime 2.34.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time

from bridge.channels import SessionChannels
from bridge.connection import JOIN_SECONDS
from bridge.metrics import Metrics
from bridge.model import Checkpoint, Job, Partial
from bridge.settings import Settings
from bridge.stream import Stream

log = logging.getLogger(__name__)

JOIN_PATIENCE_SECONDS = 0.5
# How many seconds' worth of the quota may be saved up.
BURST_SECONDS = 0.5
# How many seconds' worth of the quota may be overdrawn. Realtime counts in parts of 5 s (v2.129.8).
DEBT_SECONDS = 5.0
# What a delta counts at Realtime's quota: the send and its delivery.
EVENTS_PER_DELTA = 2
# What a reply counts besides: the events of its rows (question: new, running, done; reply: new, done) and of its
# session, each with a delivery, and the wake-up, which each worker is delivered.
EVENTS_PER_REPLY = 13


class Outbox:
    """All streams of a worker. `run` pumps until cancelled."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._streams: dict[str, Stream] = {}
        self._connections: list[SessionChannels] = []
        self._group: asyncio.TaskGroup | None = None
        self._dirty = asyncio.Event()
        self._fresh: list[Stream] = []  # have something to say that the pump has not seen
        self._queue: list[tuple[float, int, Stream]] = []  # a heap: when each is due
        self._unheard: set[Stream] = set()  # have something to say and no channel to say it on
        self._arrivals = itertools.count()
        self._budget = 0.0
        self._filled_at = time.monotonic()
        self.workers = 1

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
        self._spend(EVENTS_PER_REPLY + self.workers)
        if job.turn is None or job.cancel:
            return stream  # nothing will be said
        stream.joins_until = time.monotonic() + JOIN_SECONDS
        connections = [c for c in self._connections if c.wants(session_id)] or self._connections
        if not any(connection.use(session_id) for connection in connections):
            self._connect().use(session_id)
        return stream

    def update(self, stream: Stream, partial: Partial) -> None:
        """The reply so far; it is sent when it is due."""
        stream.put(partial)
        self._enqueue(stream)

    async def flush(self, stream: Stream) -> None:
        """Send what is left of a reply that ended, whatever the pace, so that the deltas make the whole of it."""
        connection = await self._joined(stream)
        if connection is not None:
            while stream.is_dirty and await self._send(connection, stream):
                pass
        stream.checkpoint(unheard=True)

    async def _joined(self, stream: Stream) -> SessionChannels | None:
        """The stream's connection; a reply that was faster than its channel waits a moment for it."""
        deadline = time.monotonic() + JOIN_PATIENCE_SECONDS
        while (connection := self._connection(stream)) is None:
            if not self._is_joining(stream) or not stream.is_dirty or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.005)
        return connection

    def close(self, stream: Stream) -> None:
        """Forget a stream."""
        self._unheard.discard(stream)
        if self._streams.get(stream.message_id) is stream:
            del self._streams[stream.message_id]

    def checkpoint(self, stream: Stream) -> Checkpoint:
        """What the next beat is to say of this reply.

        Words that a channel on its way will bring are left to it: in the row alone nobody would see them until there
        are more. But no longer than a join may take: one that is never answered must not keep them from the row.
        """
        before = stream.seq
        waits = self._is_joining(stream) and time.monotonic() < stream.joins_until
        checkpoint = stream.checkpoint(unheard=self._connection(stream) is None and not waits)
        self._metrics.delta_gaps.inc(stream.seq - before)
        return checkpoint

    def _connect(self) -> SessionChannels:
        assert self._group is not None, "open() needs run()"
        connection = SessionChannels(
            self._settings.realtime_url,
            self._settings.supabase_key,
            f"outbox {len(self._connections) + 1}",
            in_use=lambda: {stream.session_id for stream in self._streams.values()},
            on_joined=self._enqueue_unheard,
        )
        self._connections.append(connection)
        self._group.create_task(connection.supervisor.run())
        return connection

    def _connection(self, stream: Stream) -> SessionChannels | None:
        for connection in self._connections:
            if connection.is_joined(stream.session_id):
                return connection
        return None

    def _is_joining(self, stream: Stream) -> bool:
        """Whether the stream's channel is joined, or will be unless something breaks."""
        return any(c.supervisor.is_ready and c.wants(stream.session_id) for c in self._connections)

    def _rate(self) -> float:
        """This worker's share of the quota, in events a second."""
        return self._settings.events_per_second / max(1, self.workers)

    def _spend(self, events: int) -> None:
        now = time.monotonic()
        rate = self._rate()
        most = max(BURST_SECONDS * rate, EVENTS_PER_DELTA)  # however small the share, a delta can be saved up for
        budget = min(most, self._budget + (now - self._filled_at) * rate) - events
        # first deltas and ends of replies do not wait; what they overdraw is paid back by the others, within reason
        self._budget = max(budget, -DEBT_SECONDS * rate)
        self._filled_at = now

    def _enqueue(self, stream: Stream) -> None:
        if not stream.is_queued:
            stream.is_queued = True
            self._fresh.append(stream)
            self._dirty.set()

    def _enqueue_unheard(self) -> None:
        while self._unheard:
            self._enqueue(self._unheard.pop())

    async def _pump(self) -> None:
        while True:
            self._dirty.clear()
            while self._fresh:
                stream = self._fresh.pop()
                heapq.heappush(self._queue, (stream.due, next(self._arrivals), stream))
            at, now = self._next_at(), time.monotonic()
            if at is not None and at <= now:
                await self._serve(heapq.heappop(self._queue)[2])
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else max(0.001, at - now)):
                    await self._dirty.wait()

    def _next_at(self) -> float | None:
        """When the next delta may be sent: that of the stream which waited longest. None: there is nothing to send."""
        while self._queue:
            due, _, stream = self._queue[0]
            if stream.is_dirty and self._streams.get(stream.message_id) is stream:
                if stream.seq == 0:  # a reply's first delta never waits for its turn
                    return due
                self._spend(0)
                return max(due, time.monotonic() + (EVENTS_PER_DELTA - self._budget) / self._rate())
            heapq.heappop(self._queue)  # it was flushed or closed meanwhile
            stream.is_queued = False
        return None

    async def _serve(self, stream: Stream) -> None:
        stream.is_queued = False
        connection = self._connection(stream)
        if connection is None or not await self._send(connection, stream):
            self._unheard.add(stream)  # until a channel is joined, or there is more to say
            return
        stream.due = time.monotonic() + self._settings.delta_ms / 1000
        if stream.is_dirty:
            self._enqueue(stream)

    async def _send(self, connection: SessionChannels, stream: Stream) -> bool:
        """Send the next delta; False if that failed. One stream's trouble is never another's."""
        payload = stream.cut()
        if payload is None:
            return True
        self._spend(EVENTS_PER_DELTA)
        try:
            if not await connection.send(stream.session_id, "delta", payload):
                stream.undo()
                return False
        except Exception as error:
            # It may have been sent, so its seq is taken; who did not get it reads the row.
            self._metrics.deltas_failed.inc()
            log.warning(
                "a delta was lost: %s: %s", type(error).__name__, error, extra={"message_id": stream.message_id}
            )
            return False
        self._metrics.deltas.inc()
        if stream.first_sent_at is None:
            stream.first_sent_at = time.monotonic()
        return True
