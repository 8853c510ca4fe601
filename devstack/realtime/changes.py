"""postgres_changes: who subscribed to what, and the rounds in which changes are checked and handed out.

The hosted server reads the WAL by polling; here a stream brings it, and a round is made where the server would
poll, so that subscribers see the same delays, and row level security is judged at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import psycopg

from devstack.realtime.access import AccessUnavailable, Credential
from devstack.realtime.binding import Binding, BindingRefused
from devstack.realtime.payload import error_payload, payload
from devstack.realtime.pgoutput import Change
from devstack.realtime.pool import Connection, Pool
from devstack.realtime.resolution import resolve
from devstack.realtime.rows import Rendered, Table, describe, render, visible
from devstack.realtime.wal import ReplicationStream

logger = logging.getLogger(__name__)

PUBLICATION = "supabase_realtime"
ACTIONS = ("INSERT", "UPDATE", "DELETE")
MAX_PENDING = 20_000  # changes; beyond it the stream rests until the next round


class Listener(Protocol):
    """Whom changes are delivered to: a channel."""

    def deliver_change(self, action: str, data: str, ids: Sequence[int]) -> None:
        """Take one change: its payload as JSON text, and the bindings that it is for."""


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One binding of one listener, for the tables that it meant when it was made."""

    listener: Listener
    id: int
    binding: Binding
    credential: Credential
    tables: frozenset[int]

    def wants(self, change: Change) -> bool:
        """Say whether it is of this table and action."""
        return change.relation.oid in self.tables and self.binding.event in ("*", change.action)


class Changes:
    """Hands out row changes of the publication `supabase_realtime`.

    `delay` is (busy, idle): seconds between rounds after one that found something, and one that did not; (0, 0)
    makes a round at each commit.
    """

    def __init__(self, pool: Pool, dsn: str, delay: tuple[float, float]) -> None:
        self._pool = pool
        self._busy, self._idle = delay
        self._subscriptions: dict[Listener, list[Subscription]] = {}
        self._wanted: frozenset[tuple[int, str]] = frozenset()
        self._joining = 0
        self._pending: list[tuple[Change, int]] = []
        self._arrived = asyncio.Event()
        self._somebody = asyncio.Event()
        self._stream = ReplicationStream(dsn, PUBLICATION, on_change=self._on_change, on_commit=self._arrived.set)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the stream and begin the rounds. Raises psycopg.Error or ReplicationLost."""
        await self._stream.start()
        self._task = asyncio.create_task(self._rounds(), name="rounds of postgres_changes")

    @property
    def tasks(self) -> list[asyncio.Task[None] | None]:
        """What keeps the stream and makes the rounds; they end with `stop` alone."""
        return [self._stream.task, self._task]

    async def stop(self) -> None:
        """End the rounds and the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._stream.stop()

    def expect(self) -> Callable[[], None]:
        """Keep all changes from now on, for a listener that is about to subscribe, until the returned call."""
        self._joining += 1
        self._somebody.set()

        def no_longer() -> None:
            self._joining -= 1

        return no_longer

    async def subscribe(
        self, listener: Listener, bindings: Sequence[tuple[int, Binding]], credential: Credential
    ) -> None:
        """Subscribe a listener, in place of what it had.

        Raises BindingRefused (then it has nothing), AccessUnavailable if Postgres or the stream is away.
        """
        try:
            tables = await self._pool.run(lambda connection: resolve(connection, PUBLICATION, bindings, credential))
            async with asyncio.timeout(10):
                await self._stream.live.wait()
        except BindingRefused:
            self.unsubscribe(listener)
            raise
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise AccessUnavailable("Realtime was unable to connect to the project database") from error
        self._subscriptions[listener] = [
            Subscription(listener, id_, binding, credential, oids)
            for (id_, binding), oids in zip(bindings, tables, strict=True)
        ]
        self._recount()

    def unsubscribe(self, listener: Listener) -> None:
        """Forget a listener."""
        if self._subscriptions.pop(listener, None) is not None:
            self._recount()

    def _recount(self) -> None:
        self._wanted = frozenset(
            (oid, action)
            for all_ in self._subscriptions.values()
            for entry in all_
            for oid in entry.tables
            for action in (ACTIONS if entry.binding.event == "*" else (entry.binding.event,))
        )
        if self._subscriptions:
            self._somebody.set()

    def _on_change(self, change: Change, committed_at: int) -> None:
        if self._joining or (change.relation.oid, change.action) in self._wanted:
            self._pending.append((change, committed_at))
            if len(self._pending) >= MAX_PENDING:
                self._stream.pause()

    async def _rounds(self) -> None:
        delay = self._idle
        while True:
            if not self._subscriptions and not self._joining:
                self._pending.clear()
                self._somebody.clear()
                self._stream.resume()
                await self._somebody.wait()
            if self._idle > 0:
                await asyncio.sleep(delay)
            else:
                await self._arrived.wait()
            self._arrived.clear()
            batch, self._pending = self._pending, []
            self._stream.resume()
            if batch:
                try:
                    await self._round(batch)
                except Exception:  # a fault of ours with one batch must not end the rounds for all
                    logger.exception("%d changes are lost", len(batch))
            delay = self._busy if batch else self._idle

    async def _round(self, batch: Sequence[tuple[Change, int]]) -> None:
        interested = [entry for all_ in self._subscriptions.values() for entry in all_]
        if not interested:
            return
        try:
            deliveries = await self._pool.run(lambda connection: _judge(connection, batch, interested), seconds=60)
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.error("%d changes could not be checked and are lost: %s", len(batch), str(error).strip())
            return
        for entries, action, data in deliveries:
            ids: dict[Listener, list[int]] = defaultdict(list)
            for entry in entries:
                # Whoever left meanwhile gets nothing.
                if any(entry.id == now.id for now in self._subscriptions.get(entry.listener, ())):
                    ids[entry.listener].append(entry.id)
            for listener, numbers in ids.items():
                listener.deliver_change(action, data, numbers[::-1])


Delivery = tuple[list[Subscription], str, str]


async def _judge(
    connection: Connection, batch: Sequence[tuple[Change, int]], subscriptions: Sequence[Subscription]
) -> list[Delivery]:
    """Decide who may see what of a batch; in the order of the batch."""
    by_table: dict[int, list[int]] = defaultdict(list)
    for at, (change, _) in enumerate(batch):
        by_table[change.relation.oid].append(at)
    roles = sorted({entry.credential.role for entry in subscriptions})
    tables = await describe(connection, list(by_table), roles)
    deliveries: list[list[Delivery]] = [[] for _ in batch]
    for oid, places in by_table.items():
        mine = [entry for entry in subscriptions if oid in entry.tables]
        table = tables.get(oid)
        if table is None or not mine:
            continue
        filters = list(dict.fromkeys(f for entry in mine for f in entry.binding.filters))
        try:
            rendered = await render(connection, table, [batch[at][0] for at in places], filters)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            # The table was altered after the change, and its old values are none of the new type.
            logger.error("changes of a table are lost: %s", str(error).strip())
            continue
        for role in roles:
            entries = [entry for entry in mine if entry.credential.role == role]
            if entries:
                seen = await _seen(connection, table, rendered, role, entries)
                for place, one, ids in zip(places, rendered, seen, strict=True):
                    deliveries[place] += _compose(table, one, batch[place][1], role, ids)
    return [delivery for group in deliveries for delivery in group]


async def _seen(
    connection: Connection,
    table: Table,
    rendered: Sequence[Rendered],
    role: str,
    entries: Sequence[Subscription],
) -> list[list[Subscription]]:
    """For each change, return the subscriptions of one role that may see it."""
    keyed = bool(table.key)
    readable = all(role in column.readers for column in table.key)
    seen: list[list[Subscription]] = []
    to_check: list[int] = []
    claimants: dict[str, None] = {}
    for at, one in enumerate(rendered):
        wanting = [entry for entry in entries if entry.wants(one.change)]
        if one.change.action == "DELETE" or (keyed and readable):
            wanting = [entry for entry in wanting if one.passes(entry.binding.filters)]
            if table.secured and one.change.action != "DELETE" and wanting:
                to_check.append(at)
                claimants.update((entry.credential.claims_json, None) for entry in wanting)
        seen.append(wanting)
    if to_check:
        changes = [rendered[at].change for at in to_check]
        answers = await visible(connection, table, changes, role, list(claimants))
        shown = dict(zip(claimants, answers, strict=True))
        for index, at in enumerate(to_check):
            seen[at] = [entry for entry in seen[at] if index in shown[entry.credential.claims_json]]
    return seen


def _compose(
    table: Table, one: Rendered, committed_at: int, role: str, entries: Iterable[Subscription]
) -> list[Delivery]:
    """Write the payloads of one change for one role: one for each selection of columns."""
    by_columns: dict[tuple[str, ...] | None, list[Subscription]] = defaultdict(list)
    for entry in entries:
        by_columns[entry.binding.columns].append(entry)
    deliveries: list[Delivery] = []
    action = one.change.action
    for columns in sorted(by_columns, key=lambda names: ",".join(names or ())):
        if action != "DELETE" and not table.key:
            data = error_payload(one, "Error 400: Bad Request, no primary key")
        elif action != "DELETE" and not all(role in column.readers for column in table.key):
            data = error_payload(one, "Error 401: Unauthorized")
        else:
            stamp = datetime.fromtimestamp(committed_at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            stamp += f".{committed_at // 1000 % 1000:03d}Z"
            data = payload(table, one, stamp, role, columns)
        deliveries.append((by_columns[columns], action, data))
    return deliveries
