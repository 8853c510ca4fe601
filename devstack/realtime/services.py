"""The services that all channels of a Realtime server share, and a channel's view of its socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from devstack.pool import Pool
from devstack.realtime.access import Authorization, Credential, Tokens
from devstack.realtime.broadcast import Topics
from devstack.realtime.changes import Changes
from devstack.realtime.limits import Limits, Rate
from devstack.realtime.presence import Presence
from devstack.realtime.protocol import Vsn
from devstack.realtime.wal import ReplicationStream

if TYPE_CHECKING:
    from devstack.realtime.channel import Channel


class Sink(Protocol):
    """A channel's view of its socket."""

    vsn: Vsn
    credential: Credential
    headers: Mapping[str, str]

    def send(self, frame: bytes) -> None:
        """Send a WebSocket frame."""

    def forget(self, channel: Channel) -> None:
        """Remove a channel that has closed itself."""


@dataclass(slots=True)
class Services:
    """The shared services. For `denied_delay` and `idle_seconds` (seconds) see `Realtime`.

    `private_only` is the project's setting that refuses public channels; it applies to joins from then on.
    """

    tokens: Tokens
    authorization: Authorization
    topics: Topics
    presence: Presence
    changes: Changes
    messages: ReplicationStream
    pool: Pool
    joins: Rate
    limits: Limits
    clients: set[Sink]
    denied_delay: float
    idle_seconds: float
    private_only: bool = False
