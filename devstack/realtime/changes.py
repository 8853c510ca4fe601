"""postgres_changes: keeps the subscriptions, and authorises and delivers row changes in rounds.

The hosted server polls the WAL. Here the WAL is streamed, and a round runs whenever the hosted server would poll, so
that subscribers see the same delays and row level security is evaluated at the same moment.
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

from devstack.pool import Connection, Pool
from devstack.realtime.access import AccessUnavailable, Credential
from devstack.realtime.binding import Binding, BindingRefused
from devstack.realtime.payload import error_payload, payload
from devstack.realtime.pgoutput import Change
from devstack.realtime.resolution import resolve
from devstack.realtime.rows import Rendered, Table, describe, render, visible
from devstack.realtime.wal import ReplicationStream

logger = logging.getLogger(__name__)

PUBLICATION = "supabase_realtime"
ACTIONS = ("INSERT", "UPDATE", "DELETE")
MAX_PENDING = 20_000  # changes; above this, the stream pauses until the next round


class Listener(Protocol):
    """A channel that receives row changes."""

    def deliver_change(self, action: str, data: str, ids: Sequence[int]) -> None:
        """Send a change: its payload as JSON text, and the ids of the bindings it matches."""


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A binding of a listener. `tables` are the OIDs it matched at the time of subscribing."""

    listener: Listener
    id: int
    binding: Binding
    credential: Credential
    tables: frozenset[int]

    def wants(self, change: Change) -> bool:
        """Return whether the change has a matching table and action."""
        return change.relation.oid in self.tables and self.binding.event in ("*", change.action)


class Changes:
    """Delivers row changes of the publication `supabase_realtime`.

    `delay` is (busy, idle): the seconds to wait after a round with changes and after one without. (0, 0) runs a round
    at each commit.
    """

    def __init__(self, pool: Pool, dsn: str, delay: tuple[float, float]) -> None:
        self._pool = pool
        self._busy, self._idle = delay
        self._subscriptions: dict[Listener, list[Subscription]] = {}
        self._wanted: frozenset[tuple[int, str]] = frozenset()
        self._joining = 0
        self._pending: list[tuple[Change, int]] = []
        self._arrived = asyncio.Event()
        self._has_listeners = asyncio.Event()
        self._stream = ReplicationStream(dsn, PUBLICATION, on_change=self._on_change, on_commit=self._arrived.set)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the stream and start the rounds. Raises psycopg.Error or ReplicationLost."""
        await self._stream.start()
        self._task = asyncio.create_task(self._rounds(), name="rounds of postgres_changes")

    @property
    def tasks(self) -> list[asyncio.Task[None] | None]:
        """The tasks that run the stream and the rounds; unless something fails, only `stop` ends them."""
        return [self._stream.task, self._task]

    async def stop(self) -> None:
        """Stop the rounds and the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._stream.stop()

    def retain(self) -> Callable[[], None]:
        """Keep all changes for a listener that is about to subscribe; call the returned function to stop."""
        self._joining += 1
        self._has_listeners.set()

        def release() -> None:
            self._joining -= 1

        return release

    async def subscribe(
        self, listener: Listener, bindings: Sequence[tuple[int, Binding]], credential: Credential
    ) -> None:
        """Replace a listener's subscriptions. As on the hosted service, that proves nothing about the stream.

        Raises BindingRefused (the listener then has no subscriptions), AccessUnavailable if Postgres is down.
        """
        try:
            tables = await self._pool.run(lambda connection: resolve(connection, PUBLICATION, bindings, credential))
        except BindingRefused:
            self.unsubscribe(listener)
            raise
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise AccessUnavailable("Realtime was unable to connect to the project database") from error
        self._subscriptions[listener] = [
            Subscription(listener, id_, binding, credential, oids)
            for (id_, binding), oids in zip(bindings, tables, strict=True)
        ]
        self._update_wanted()

    def unsubscribe(self, listener: Listener) -> None:
        """Remove a listener's subscriptions."""
        if self._subscriptions.pop(listener, None) is not None:
            self._update_wanted()

    def _update_wanted(self) -> None:
        self._wanted = frozenset(
            (oid, action)
            for subscriptions in self._subscriptions.values()
            for entry in subscriptions
            for oid in entry.tables
            for action in (ACTIONS if entry.binding.event == "*" else (entry.binding.event,))
        )
        if self._subscriptions:
            self._has_listeners.set()

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
                self._has_listeners.clear()
                self._stream.resume()
                await self._has_listeners.wait()
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
                except Exception:  # a bug with one batch must not stop the rounds for everyone
                    logger.exception("%d changes were lost", len(batch))
            delay = self._busy if batch else self._idle

    async def _round(self, batch: Sequence[tuple[Change, int]]) -> None:
        current = [entry for subscriptions in self._subscriptions.values() for entry in subscriptions]
        if not current:
            return
        try:
            deliveries = await self._pool.run(lambda connection: _authorise(connection, batch, current), seconds=60)
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.error("%d changes could not be checked and were lost: %s", len(batch), str(error).strip())
            return
        for entries, action, data in deliveries:
            ids: dict[Listener, list[int]] = defaultdict(list)
            for entry in entries:
                # The listener may have left in the meantime.
                if any(entry.id == now.id for now in self._subscriptions.get(entry.listener, ())):
                    ids[entry.listener].append(entry.id)
            for listener, bindings in ids.items():
                listener.deliver_change(action, data, bindings[::-1])


Delivery = tuple[list[Subscription], str, str]


async def _authorise(
    connection: Connection, batch: Sequence[tuple[Change, int]], subscriptions: Sequence[Subscription]
) -> list[Delivery]:
    """Return which subscriptions receive which payloads, in the order of the batch."""
    by_table: dict[int, list[int]] = defaultdict(list)
    for at, (change, _) in enumerate(batch):
        by_table[change.relation.oid].append(at)
    roles = sorted({entry.credential.role for entry in subscriptions})
    tables = await describe(connection, list(by_table), roles)
    deliveries: list[list[Delivery]] = [[] for _ in batch]
    for oid, positions in by_table.items():
        interested = [entry for entry in subscriptions if oid in entry.tables]
        table = tables.get(oid)
        if table is None or not interested:
            continue
        filters = list(dict.fromkeys(f for entry in interested for f in entry.binding.filters))
        try:
            rendered = await render(connection, table, [batch[at][0] for at in positions], filters)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            # The table was altered after the change, and the old values do not fit the new type.
            logger.error("changes of a table were lost: %s", str(error).strip())
            continue
        for role in roles:
            entries = [entry for entry in interested if entry.credential.role == role]
            if entries:
                recipients = await _recipients(connection, table, rendered, role, entries)
                for at, rendered_change, allowed in zip(positions, rendered, recipients, strict=True):
                    deliveries[at] += _compose(table, rendered_change, batch[at][1], role, allowed)
    return [delivery for group in deliveries for delivery in group]


async def _recipients(
    connection: Connection,
    table: Table,
    rendered: Sequence[Rendered],
    role: str,
    entries: Sequence[Subscription],
) -> list[list[Subscription]]:
    """Return, for each change, the subscriptions of one role that receive it."""
    keyed = bool(table.key)
    readable = all(role in column.readers for column in table.key)
    recipients: list[list[Subscription]] = []
    to_check: list[int] = []
    claims: dict[str, None] = {}
    for at, rendered_change in enumerate(rendered):
        action = rendered_change.change.action
        matching = [entry for entry in entries if entry.wants(rendered_change.change)]
        if action == "DELETE" or (keyed and readable):
            matching = [entry for entry in matching if rendered_change.matches(entry.binding.filters)]
            if table.secured and action != "DELETE" and matching:
                to_check.append(at)
                claims.update((entry.credential.claims_json, None) for entry in matching)
        recipients.append(matching)
    if to_check:
        changes = [rendered[at].change for at in to_check]
        visible_rows = dict(zip(claims, await visible(connection, table, changes, role, list(claims)), strict=True))
        for index, at in enumerate(to_check):
            recipients[at] = [entry for entry in recipients[at] if index in visible_rows[entry.credential.claims_json]]
    return recipients


def _compose(
    table: Table, rendered: Rendered, committed_at: int, role: str, entries: Iterable[Subscription]
) -> list[Delivery]:
    """Build the payloads of a change for one role, one for each selection of columns."""
    by_columns: dict[tuple[str, ...] | None, list[Subscription]] = defaultdict(list)
    for entry in entries:
        by_columns[entry.binding.columns].append(entry)
    deliveries: list[Delivery] = []
    action = rendered.change.action
    for columns in sorted(by_columns, key=lambda names: ",".join(names or ())):
        if action != "DELETE" and not table.key:
            data = error_payload(rendered, "Error 400: Bad Request, no primary key")
        elif action != "DELETE" and not all(role in column.readers for column in table.key):
            data = error_payload(rendered, "Error 401: Unauthorized")
        else:
            stamp = datetime.fromtimestamp(committed_at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            stamp += f".{committed_at // 1000 % 1000:03d}Z"
            data = payload(table, rendered, stamp, role, columns)
        deliveries.append((by_columns[columns], action, data))
    return deliveries
