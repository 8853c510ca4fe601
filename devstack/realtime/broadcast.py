"""Broadcasts: which channels are joined to which topic, and delivery of inserts into `realtime.messages`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from devstack.pool import Connection, Pool
from devstack.realtime.limits import Rate
from devstack.realtime.pgoutput import Change, Relation, Value
from devstack.realtime.protocol import (
    MAX_PAYLOAD_BYTES,
    Fanout,
    Ref,
    UserBroadcast,
    Vsn,
    dump,
    push,
    user_broadcast_fanout,
)

logger = logging.getLogger(__name__)

MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"
TOPIC_PREFIX = "realtime:"
MAX_REPLAYED = 25


class Subscriber(Protocol):
    """A channel joined to a topic."""

    @property
    def name(self) -> str:
        """The topic without the prefix `realtime:`."""

    @property
    def private(self) -> bool:
        """Whether the channel is private. Public and private channels of the same name are separate."""

    def deliver_broadcast(self, message: Fanout) -> None:
        """Send a broadcast to the client."""

    def deliver_presence(self, message: Fanout) -> None:
        """Send a presence message to the client."""

    def exceed(self) -> None:
        """End the channel because the project exceeded its rate limit."""


class Topics:
    """The channels of each topic.

    `events` counts sends and deliveries, as the hosted service bills them, by the topic without its last part:
    `session` for `session:<id>`. Deliveries of `postgres_changes` have that name.
    """

    def __init__(self, rate: Rate, presence_rate: Rate) -> None:
        self._joined: dict[tuple[str, bool], dict[Subscriber, None]] = {}
        self.events: Counter[str] = Counter()
        self.rate = rate
        self.presence_rate = presence_rate

    def join(self, channel: Subscriber) -> None:
        """Start delivering a topic's messages to a channel."""
        self._joined.setdefault((channel.name, channel.private), {})[channel] = None

    def leave(self, channel: Subscriber) -> None:
        """Stop delivering to a channel."""
        key = (channel.name, channel.private)
        joined = self._joined.get(key)
        if joined is not None:
            joined.pop(channel, None)
            if not joined:
                del self._joined[key]

    def send(self, name: str, private: bool, message: Fanout, *, exclude: Subscriber | None = None) -> None:
        """Broadcast to a topic, then end its channels if the project has exceeded its rate limit."""
        channels = [channel for channel in self._joined.get((name, private), ()) if channel is not exclude]
        for channel in channels:
            channel.deliver_broadcast(message)
        self.events[name.rpartition(":")[0] or name] += 1 + len(channels)
        self.rate.add(1 + len(channels))
        if self.rate.is_exceeded():
            for channel in channels:
                channel.exceed()

    def send_presence(self, name: str, private: bool, message: Fanout) -> None:
        """Send a presence message to a topic."""
        channels = list(self._joined.get((name, private), ()))
        self.presence_rate.add(len(channels))
        for channel in channels:
            channel.deliver_presence(message)

    def send_inserted(self, change: Change, _committed_at: int) -> None:
        """Broadcast a committed row of `realtime.messages`."""
        if change.action != "INSERT" or change.new is None:  # the publication has updates and deletes too
            return
        row = dict(zip(_names(change.relation), change.new, strict=True))
        if row["extension"] != "broadcast":
            return
        name, private = str(row["topic"]), row["private"] == "t"
        message = _message(name, row)
        if message is None:
            logger.warning("dropped a message to %s: it is empty or too large", name)
        elif self.rate.is_exceeded():
            logger.warning("dropped a message to %s: too many messages per second", name)
        else:
            self.send(name, private, message)


async def make_publication(connection: Connection) -> None:
    """Create the publication of `realtime.messages` if there is none, with the options of the hosted service."""
    cursor = await connection.execute(
        "select from pg_catalog.pg_publication where pubname = %s", (MESSAGES_PUBLICATION,)
    )
    if cursor.rowcount == 0:
        await connection.execute(f"create publication {MESSAGES_PUBLICATION} for table realtime.messages")


def _names(relation: Relation) -> list[str]:
    return [column.name for column in relation.columns]


def _message(name: str, row: Mapping[str, Value]) -> Fanout | None:
    binary, payload, event = row.get("binary_payload"), row["payload"], row["event"]
    if isinstance(binary, str):
        body, is_json = bytes.fromhex(binary.removeprefix("\\x")), False
    elif isinstance(payload, str):
        body, is_json = payload.encode(), True
    else:
        return None
    if len(body) > MAX_PAYLOAD_BYTES:
        return None
    return user_broadcast_fanout(TOPIC_PREFIX + name, UserBroadcast(str(event or ""), body, is_json), {"id": row["id"]})


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored message to replay to a new channel; exactly one of `payload` and `binary` is set."""

    id: str
    event: str
    payload: Any
    binary: bytes | None

    def frame(self, vsn: Vsn, topic: str, join_ref: Ref) -> bytes | None:
        """Return the WebSocket frame, or None if this serializer cannot represent the message."""
        meta = {"id": self.id, "replayed": True}
        if self.binary is not None:
            return user_broadcast_fanout(topic, UserBroadcast(self.event, self.binary, False), meta).frame(vsn)
        payload = {"event": self.event, "meta": meta, "payload": self.payload, "type": "broadcast"}
        return push(vsn, topic, "broadcast", dump(payload), join_ref=join_ref)


async def stored(pool: Pool, name: str, since: int, limit: int) -> list[Stored]:
    """Return the last `limit` (at most 25) private broadcasts on a topic since a Unix time in ms, oldest first.

    Raises psycopg.Error, TimeoutError.
    """

    async def fetch(connection: Connection) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(
            "select id::text, coalesce(event, ''), payload, binary_payload from realtime.messages"
            " where topic = %s and private and extension = 'broadcast'"
            " and inserted_at >= to_timestamp(%s::float8 / 1000) at time zone 'utc'"
            " and inserted_at < (now() at time zone 'utc') + interval '1 minute'"
            " order by inserted_at desc limit %s",
            (name, since, max(1, min(limit, MAX_REPLAYED))),
        )
        return cast("list[tuple[Any, ...]]", await cursor.fetchall())

    rows = await pool.run(fetch)
    return [Stored(*row) for row in reversed(rows)]
