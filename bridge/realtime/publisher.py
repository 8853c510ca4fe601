"""Deltas to session channels: cut from the reply so far, pushed by socket, within the quota.

A turn gives its newest partial to its `OutgoingReply`; the publisher's one pump cuts deltas from it: the first at once,
then at the pace that BRIDGE_DELTA_MS and the fleet's quota allow. Deltas use connections of their own: a full socket
must not delay a wake-up.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections.abc import Callable

from bridge.metrics import Metrics
from bridge.model import Checkpoint, Job, Partial, Settled
from bridge.pacing import EVENTS_PER_DELTA, Quota
from bridge.realtime.channels import SessionChannels
from bridge.realtime.connection import JOIN_SECONDS
from bridge.settings import Settings
from bridge.stream import Stream

log = logging.getLogger(__name__)

# How long the end of a reply waits for its channel.
JOIN_PATIENCE_SECONDS = 0.5
# How long the rest of a reply may take to send. The row has all of it.
FLUSH_SECONDS = 5.0


class OutgoingReply:
    """One attempt's reply on its way to its session's topic, and to the row through checkpoints."""

    def __init__(self, publisher: "DeltaPublisher", stream: Stream) -> None:
        self.stream = stream
        self.first_sent_at: float | None = None  # all times are monotonic seconds
        self.due = 0.0  # when the pump may send the next delta
        self.is_queued = False  # the pump has it on its list
        self.join_deadline = 0.0  # until then its channel may be joining for the first time
        self._publisher = publisher

    def has_part(self, key: str) -> bool:
        """Whether a part of this key was shown."""
        return self.stream.has_part(key)

    async def settle(self) -> Settled:
        """Send all that there is of the reply, whatever the pace, and return it; what cannot be sent is in the row."""
        await self._send_rest(0)
        return self.stream.settle()

    def publish(self, partial: Partial) -> None:
        """Take the reply so far; it is sent when it is due."""
        self.stream.set_partial(partial)
        self._publisher.enqueue(self)

    async def flush(self) -> None:
        """Send the rest of a reply that ended, whatever the pace. If its channel is still joining, wait a moment.

        What the socket does not take in time is left to the row.
        """
        await self._send_rest(JOIN_PATIENCE_SECONDS)
        self.stream.checkpoint(undelivered=True)

    async def _send_rest(self, join_patience: float) -> None:
        begun = time.monotonic()
        deadline = begun + join_patience
        while self.stream.is_dirty and time.monotonic() < begun + FLUSH_SECONDS:
            if (connection := self._publisher.connection(self)) is not None:
                if not await self._publisher.send(connection, self):
                    break
                await asyncio.sleep(0)  # a send seldom waits, and a large rest takes dozens
            elif self._publisher.is_joining(self) and time.monotonic() <= deadline:
                await asyncio.sleep(0.005)
            else:
                break

    def checkpoint(self) -> Checkpoint:
        """The lease's extension, with the reply so far if it grew.

        While its channel is joining, the checkpoint leaves out text that the channel will deliver: a checkpoint sends
        no event. This ends at `join_deadline`, so that a join that never completes cannot keep text out of the row.
        """
        return self._publisher.checkpoint(self)

    def close(self) -> None:
        """Send no more."""
        self._publisher.forget(self)


class DeltaPublisher:
    """All replies of a worker. `run` sends until cancelled; `open` needs it running."""

    def __init__(self, settings: Settings, metrics: Metrics, fleet_size: Callable[[], int]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._quota = Quota(settings.events_per_second, fleet_size)
        self._open: set[OutgoingReply] = set()
        self._connections: list[SessionChannels] = []
        self._group: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._queue: list[tuple[float, int, OutgoingReply]] = []  # a heap, by when each is due
        self._undelivered: set[OutgoingReply] = set()  # have something to send and no channel to send it on
        self._arrivals = itertools.count()

    @property
    def is_ready(self) -> bool:
        """Whether every connection is up."""
        return all(connection.supervisor.is_ready for connection in self._connections)

    async def run(self) -> None:
        """Connect and send until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._connect()
            self._group.create_task(self._pump())

    def open(self, job: Job) -> OutgoingReply:
        """Start a reply: its channel is joined while the model is still thinking."""
        session_id = job.turn.session.id if job.turn is not None else ""
        reply = OutgoingReply(self, Stream(job.question_id, job.reply_id, session_id, job.attempt))
        if job.kept is not None:
            reply.stream.resume(job.kept)
        self._open.add(reply)
        self._quota.spend_reply()
        if job.turn is None or job.cancel:
            return reply  # it will have no text
        reply.join_deadline = time.monotonic() + JOIN_SECONDS
        connections = [c for c in self._connections if c.wants(session_id)] or self._connections
        if not any(connection.use(session_id) for connection in connections):
            self._connect().use(session_id)
        return reply

    def enqueue(self, reply: OutgoingReply) -> None:
        """Let the pump send what is new in a reply."""
        if not reply.is_queued:
            reply.is_queued = True
            heapq.heappush(self._queue, (reply.due, next(self._arrivals), reply))
            self._wake.set()

    def checkpoint(self, reply: OutgoingReply) -> Checkpoint:
        """See `OutgoingReply.checkpoint`."""
        before = reply.stream.seq
        waits = self.is_joining(reply) and time.monotonic() < reply.join_deadline
        checkpoint = reply.stream.checkpoint(undelivered=self.connection(reply) is None and not waits)
        self._metrics.delta_gaps.inc(reply.stream.seq - before)
        return checkpoint

    def forget(self, reply: OutgoingReply) -> None:
        """Send no more of a reply."""
        self._undelivered.discard(reply)
        self._open.discard(reply)
        for connection in self._connections:
            connection.release(reply.stream.session_id)

    def _connect(self) -> SessionChannels:
        assert self._group is not None, "open() needs run()"
        url, key = self._settings.realtime_url, self._settings.supabase_key
        name = f"deltas {len(self._connections) + 1}"
        connection = SessionChannels(url, key, name, self._sessions_in_use, self._enqueue_undelivered)
        self._connections.append(connection)
        self._group.create_task(connection.supervisor.run())
        return connection

    def _sessions_in_use(self) -> set[str]:
        return {reply.stream.session_id for reply in self._open}

    def connection(self, reply: OutgoingReply) -> SessionChannels | None:
        """The connection on which the reply's channel is joined."""
        return next((c for c in self._connections if c.is_joined(reply.stream.session_id)), None)

    def is_joining(self, reply: OutgoingReply) -> bool:
        """Whether the reply's channel is joined, or expected to be: also on a connection that starts."""
        up = [c for c in self._connections if c.supervisor.is_ready or c.supervisor.sessions <= 1]
        return any(connection.wants(reply.stream.session_id) for connection in up)

    def _enqueue_undelivered(self) -> None:
        while self._undelivered:
            self.enqueue(self._undelivered.pop())

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            at, now = self._next_at(), time.monotonic()
            if at is not None and at <= now:
                await self._serve(heapq.heappop(self._queue)[2])
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at is None else max(0.001, at - now)):
                    await self._wake.wait()

    def _next_at(self) -> float | None:
        """When the next delta may be sent: that of the reply that is due first. None: there is none to send."""
        while self._queue:
            due, _, reply = self._queue[0]
            if reply.stream.is_dirty and reply in self._open:
                if reply.stream.seq == 0:  # a reply's first delta never waits for the quota
                    return due
                return max(due, time.monotonic() + self._quota.delay(EVENTS_PER_DELTA))
            heapq.heappop(self._queue)  # flushed or closed meanwhile
            reply.is_queued = False
        return None

    async def _serve(self, reply: OutgoingReply) -> None:
        connection = self.connection(reply)
        is_sent = connection is not None and await self.send(connection, reply)
        reply.is_queued = False  # not sooner: until `due` is set, new text must not be queued by the old one
        if not is_sent:
            if reply in self._open:
                self._undelivered.add(reply)  # until a channel is joined, or there is more to send
            return
        reply.due = time.monotonic() + self._settings.delta_ms / 1000
        if reply.stream.is_dirty:
            self.enqueue(reply)

    async def send(self, connection: SessionChannels, reply: OutgoingReply) -> bool:
        """Send the next delta; False if that failed. A failure of one reply never stops another."""
        stream = reply.stream
        payload = stream.next_delta()
        if payload is None:
            return True
        self._quota.spend(EVENTS_PER_DELTA)
        try:
            if not await connection.send(stream.session_id, "delta", payload):
                stream.undo_delta()
                return False
        except Exception as error:
            # It may have been sent, so its seq stays taken; clients that missed it read the row.
            self._metrics.deltas_failed.inc()
            about = {"question_id": stream.question_id}
            log.warning("a delta was lost: %s: %s", type(error).__name__, error, extra=about)
            return False
        self._metrics.deltas.inc()
        if reply.first_sent_at is None:
            reply.first_sent_at = time.monotonic()
        return True
