"""Realtime to wake-ups: hears that there is work, or that a reply is to be cancelled.

Two subscriptions, each on a connection of its own and rebuilt from nothing on anything odd, without limit:
`bridge:inbox` (broadcasts, about a millisecond after the commit) and INSERTs on `messages`
(postgres_changes, a few hundred milliseconds: a second chance). Neither is relied on: see the sweep in
`worker.py`.

What `realtime` 2.34.1 does that this guards against: it gives up reconnecting for ever, an exception in a
callback ends its listener, heartbeat replies are not checked, and SUBSCRIBED comes before rows flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from realtime import RealtimePostgresChangesListenEvent

from bridge.connection import CANARY_SECONDS, JOIN_SECONDS, Subscription, Supervisor

# Nothing is trusted for longer: tokens expire, and servers forget. The second lane cannot say something to itself,
# so it is renewed more often.
REJOIN_SECONDS = 86_400.0
CHANGES_REJOIN_SECONDS = 3_600.0
# The share of CANARY_SECONDS after which the first of many workers breaks the silence.
LEAST_SILENCE = 0.75


@dataclass(frozen=True, slots=True)
class Work:
    """There may be work. `source` is `broadcast`, `changes` or `subscribed` (something may have been missed).

    `xid` is the transaction that made it, if it was told.
    """

    source: str
    message_ids: tuple[str, ...] = ()
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """The user asked to stop the reply to this question."""

    message_id: str


Signal = Work | Cancel


class Inbox:
    """Puts what it hears on `signals`; `run` never ends by itself."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self.signals: asyncio.Queue[Signal] = asyncio.Queue(maxsize=10_000)
        self.broadcasts = Supervisor("bridge:inbox", self._hear_broadcasts, REJOIN_SECONDS)
        self.changes = Supervisor("postgres_changes", self._hear_changes, CHANGES_REJOIN_SECONDS)

    @property
    def is_ready(self) -> bool:
        """Whether broadcasts are heard now. (postgres_changes is a second chance, no precondition.)"""
        return self.broadcasts.is_ready

    @property
    def resubscriptions(self) -> int:
        """How often a subscription had to be built anew."""
        return max(0, self.broadcasts.sessions - 1) + max(0, self.changes.sessions - 1)

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.broadcasts.run())
            group.create_task(self.changes.run())

    def distrust(self) -> None:
        """Work was found that nobody announced: build the subscriptions anew."""
        self.broadcasts.rebuild.set()
        self.changes.rebuild.set()

    def _put(self, signal: Signal) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # ten thousand wake-ups wake as well as one more
            self.signals.put_nowait(signal)

    async def _hear_broadcasts(self, ready: Callable[[], None]) -> None:
        topic = "bridge:inbox"

        def on_work(message: Any) -> None:
            payload = message.get("payload") if isinstance(message, dict) else None
            xid = payload.get("xid") if isinstance(payload, dict) else None
            ids = _texts(message, "question_ids")
            self._put(Work("broadcast", ids, xid if isinstance(xid, int) else None))

        def on_cancel(message: Any) -> None:
            for message_id in _texts(message, "question_id"):
                self._put(Cancel(message_id))

        async with Subscription(self._url, self._key, topic, private=True) as subscription:
            subscription.hear("work", on_work)
            subscription.hear("cancel", on_cancel)
            await subscription.join()
            await subscription.prove()  # the path is proved before it is called ready
            ready()
            self._put(Work("subscribed"))
            while True:
                # Every worker's inbox hears every canary. So one of them speaks when all was silent, and not each for
                # itself: what a fleet costs at Realtime's quota would grow with its square.
                due = subscription.heard_at + CANARY_SECONDS * random.uniform(LEAST_SILENCE, 1)
                if await subscription.broken(self.broadcasts.rebuild, max(0.0, due - time.monotonic())):
                    return
                if time.monotonic() - subscription.heard_at >= CANARY_SECONDS * LEAST_SILENCE:
                    await subscription.prove()

    async def _hear_changes(self, ready: Callable[[], None]) -> None:
        flowing = asyncio.Event()

        def on_insert(message: Any) -> None:
            record = message.get("data", {}).get("record") if isinstance(message, dict) else None
            if isinstance(record, dict) and isinstance(record.get("id"), str):
                self._put(Work("changes", (record["id"],)))
            else:
                self._put(Work("changes"))

        def on_system(payload: Any) -> None:
            if getattr(payload, "extension", None) == "postgres_changes":
                flowing.set()

        async with Subscription(self._url, self._key, "bridge:messages", private=False) as subscription:
            subscription.channel.on_postgres_changes(
                RealtimePostgresChangesListenEvent.Insert,
                on_insert,
                table="messages",
                schema="public",
                filter="role=eq.user",
            )
            subscription.channel.on_system(on_system)
            await subscription.join()
            async with asyncio.timeout(JOIN_SECONDS):
                await flowing.wait()  # SUBSCRIBED comes before rows flow
            ready()
            self._put(Work("subscribed"))
            await subscription.broken(self.changes.rebuild, None)


def _texts(message: Any, name: str) -> tuple[str, ...]:
    """The string, or the strings of the list, in a broadcast's payload; nothing where it is ill-formed."""
    payload = message.get("payload") if isinstance(message, dict) else None
    value = payload.get(name) if isinstance(payload, dict) else None
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, str))
