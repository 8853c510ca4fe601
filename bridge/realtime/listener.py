"""What the database sends to workers: questions, news of work, and that a user stopped a reply.

Two subscriptions, each on a connection of its own: broadcasts (about a millisecond after the commit), and INSERTs on
`messages` through postgres_changes (some hundred milliseconds later: the second lane, for a few workers of a fleet).
Broadcasts arrive on `worker:<name>`, where questions are dispatched to this worker, and on `bridge:inbox`, which all
workers hear. The worker relies on none of them: `bridge.claims` also sweeps.

The first one counts as ready when an event has come the way that wake-ups come: sent by the database. A join and an
echo by socket prove less; they succeed before Realtime reads the database.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import StoreError
from bridge.realtime.connection import PROBE_SECONDS, Connection, SendProbe, dict_at
from bridge.realtime.supervisor import Supervisor

log = logging.getLogger(__name__)

# Sessions are replaced at this age: tokens expire, and servers forget. The second lane cannot probe itself, so it is
# replaced more often.
REJOIN_SECONDS = 86_400.0
CHANGES_REJOIN_SECONDS = 3_600.0
# The share of PROBE_SECONDS without any broadcast after which the first of many workers may send a probe.
LEAST_SILENCE = 0.75
# How many announced questions to remember: postgres_changes reports each of them again.
REMEMBERED = 10_000
UNHEARD = "the database is not heard yet (%s): until it is, only the sweep finds new questions"
OLD_SCHEMA = "the schema cannot prove that Realtime hears the database: run `supabase db push --remote --include-all`"


@dataclass(frozen=True, slots=True)
class Work:
    """There may be work."""

    source: str  # broadcast, changes, subscribed (events may have been missed), or deaf (none arrive any more)
    question_ids: tuple[str, ...] = ()
    xid: int | None = None  # the transaction that made the work, if the event named it


@dataclass(frozen=True, slots=True)
class Cancel:
    """The user stopped the reply to this question."""

    question_id: str


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The database handed a question to this worker; its payload is that of `bridge.tell`."""

    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Due:
    """A job that another worker has, or had, may be there to be claimed in so many seconds."""

    seconds: float


Signal = Work | Cancel | Dispatched | Due


class WakeupListener:
    """Queues what it receives, for `next`. `run` never ends by itself. `send_probe`: see `SendProbe`.

    `name` is the worker's. Without it, nothing is dispatched to the listener.
    """

    def __init__(self, url: str, key: str, send_probe: SendProbe, name: str | None = None) -> None:
        self._name = name
        self._hearing = 0  # sessions that are ready
        self._is_resubscribing = False
        self._watches = True
        self._watching: set[asyncio.Future[None]] = set()  # each ends when `watch` changes its mind
        self._url = url
        self._key = key
        self._send_probe = send_probe
        self._unheard = False  # joined, but nothing has come from the database
        self._warned: set[str] = set()  # what was logged since it was ready, so that it is logged once
        self._signals: asyncio.Queue[Signal] = asyncio.Queue(maxsize=10_000)
        self._announced: OrderedDict[str, None] = OrderedDict()
        self.broadcasts = Supervisor("bridge:inbox", self._listen_for_broadcasts, REJOIN_SECONDS)
        self.changes = Supervisor("postgres_changes", self._listen_for_changes, CHANGES_REJOIN_SECONDS)

    @property
    def is_ready(self) -> bool:
        """Whether broadcasts arrive. (postgres_changes is the second lane, and not required.)"""
        return self.broadcasts.is_ready

    @property
    def hears(self) -> bool:
        """Whether broadcasts arrive, and no doubt is left of it: false from the moment at which a session ends."""
        return self._hearing > 0 and not self._is_resubscribing

    @property
    def problem(self) -> str | None:
        """Why it is not ready."""
        if self.is_ready:
            return None
        return "the database is not heard yet" if self._unheard else "not subscribed to bridge:inbox"

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.broadcasts.run())
            group.create_task(self.changes.run())

    def resubscribe(self) -> None:
        """Replace both subscriptions: there was work that neither announced."""
        self._is_resubscribing = True
        self.broadcasts.restart()
        self.changes.restart()

    def watch(self, watches: bool) -> None:
        """Hear of inserts through postgres_changes, or leave that to other workers."""
        if watches != self._watches:
            self._watches = watches
            for change in self._watching:
                if not change.done():
                    change.set_result(None)

    async def next(self) -> Signal:
        """Wait for the next signal. What postgres_changes reports after a broadcast did is left out."""
        while True:
            signal = await self._signals.get()
            if not isinstance(signal, Work) or not signal.question_ids:
                return signal
            is_new = any(id_ not in self._announced for id_ in signal.question_ids)
            self._announced.update(dict.fromkeys(signal.question_ids))
            while len(self._announced) > REMEMBERED:
                self._announced.popitem(last=False)
            if is_new or signal.source != "changes":
                return signal

    def _enqueue(self, signal: Signal) -> None:
        # Ten thousand wake-ups wake as well as one more, and a dispatch that is lost is taken over.
        with contextlib.suppress(asyncio.QueueFull):
            self._signals.put_nowait(signal)

    async def _listen_for_broadcasts(self, on_ready: Callable[[], None]) -> None:
        def on_work(message: Any) -> None:
            payload = dict_at(message, "payload")
            ids, xid = _strings(payload.get("question_ids")), payload.get("xid")
            self._enqueue(Work("broadcast", ids, xid if isinstance(xid, int) else None))

        def on_cancel(message: Any) -> None:
            for question_id in _strings([dict_at(message, "payload").get("question_id")]):
                self._enqueue(Cancel(question_id))

        def on_job(message: Any) -> None:
            self._enqueue(Dispatched(dict_at(message, "payload")))

        def on_due(message: Any) -> None:
            milliseconds = dict_at(message, "payload").get("in_ms")
            if isinstance(milliseconds, int | float):
                self._enqueue(Due(milliseconds / 1000))

        async with Connection(self._url, self._key) as connection:
            inbox = connection.channel("bridge:inbox", probed=True, replicated=True)
            connection.on_broadcast(inbox, "work", on_work)
            connection.on_broadcast(inbox, "cancel", on_cancel)
            await connection.join(inbox)
            if self._name is not None:
                own = connection.channel(f"worker:{self._name}")
                for event, callback in (("job", on_job), ("due", on_due), ("cancel", on_cancel)):
                    connection.on_broadcast(own, event, callback)
                await connection.join(own)
            await connection.probe()
            try:
                if not await connection.hear(self._send_probe, self._on_silence):
                    self._warn_once(OLD_SCHEMA)
            finally:
                self._unheard = False
            self._warned.discard(UNHEARD)
            on_ready()
            self._hearing += 1
            self._is_resubscribing = False
            self._enqueue(Work("subscribed"))
            try:
                await self._stay_proven(connection)
            finally:
                self._hearing -= 1
                self._enqueue(Work("deaf"))

    async def _stay_proven(self, connection: Connection) -> None:
        """Probe the connection whenever it has been silent. Raises RealtimeError when it is broken."""
        while True:
            # Every worker receives every probe. So one of them sends it when all were silent, and not each for
            # itself: the fleet's share of Realtime's quota would grow with the square of its size.
            # The few that watch do so first: of many that wait for the same time, some would probe at once.
            share = random.uniform(LEAST_SILENCE, 1) if self._watches else random.uniform(1, 1.5)
            due = connection.received_at + PROBE_SECONDS * share
            await connection.wait(max(0.0, due - time.monotonic()))
            if time.monotonic() - connection.received_at >= PROBE_SECONDS * LEAST_SILENCE:
                await self._probe(connection)

    async def _probe(self, connection: Connection) -> None:
        """Probe through the database; if that cannot send, by socket alone: there is nothing to hear then."""
        try:
            if await connection.probe(self._send_probe):
                return
            self._warn_once(OLD_SCHEMA)
        except StoreError as error:
            log.debug("a probe by socket alone: %s", error)
        await connection.probe()

    def _on_silence(self, reason: str) -> None:
        self._unheard = True
        self._warn_once(UNHEARD, reason)

    def _warn_once(self, text: str, *values: object) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning(text, *values)

    async def _listen_for_changes(self, on_ready: Callable[[], None]) -> None:
        def on_insert(record: dict[str, Any]) -> None:
            self._enqueue(Work("changes", _strings([record.get("id")])))

        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching.add(change)
        try:
            if not self._watches:
                on_ready()
                await change
                return
            async with Connection(self._url, self._key) as connection:
                await connection.join_changes("bridge:messages", on_insert, "public", "messages", "role=eq.user")
                on_ready()
                self._enqueue(Work("subscribed"))
                await connection.wait(None, change)
        finally:
            self._watching.discard(change)


def _strings(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
