"""Presence: who has told a topic that they are there. Shapes as recorded from Realtime v2.129.8."""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from devstack.realtime.broadcast import TOPIC_PREFIX, Topics
from devstack.realtime.protocol import dump, event_fanout

Meta = dict[str, Any]


class Member(Protocol):
    """Who may be present: a channel."""

    @property
    def name(self) -> str:
        """The topic without `realtime:`."""

    @property
    def private(self) -> bool:
        """A private and a public channel of one name are apart."""

    @property
    def presence_key(self) -> str:
        """The key it is present under; several channels may share one."""


class Presence:
    """Keeps at most one presence for each channel, and tells the topic of each change."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._present: dict[tuple[str, bool], dict[Member, Meta]] = defaultdict(dict)

    def state(self, channel: Member) -> dict[str, Any]:
        """Return all that are present on the channel's topic."""
        return _grouped((member.presence_key, meta) for member, meta in self._of(channel).items())

    def track(self, channel: Member, payload: Mapping[str, Any]) -> None:
        """Make a channel present with a payload, or change its payload."""
        present = self._of(channel)
        before = present.get(channel)
        if before is not None and _told(before) == dict(payload):
            return
        meta: Meta = {"phx_ref": base64.urlsafe_b64encode(os.urandom(12)).decode()}
        if before is not None:
            meta["phx_ref_prev"] = before["phx_ref"]
        meta |= payload
        self._present[channel.name, channel.private][channel] = meta
        self._tell(channel, meta, before)

    def untrack(self, channel: Member) -> None:
        """Make a channel absent."""
        key = (channel.name, channel.private)
        before = self._present[key].pop(channel, None) if key in self._present else None
        if key in self._present and not self._present[key]:
            del self._present[key]
        if before is not None:
            self._tell(channel, None, before)

    def _of(self, channel: Member) -> Mapping[Member, Meta]:
        return self._present.get((channel.name, channel.private), {})

    def _tell(self, channel: Member, joined: Meta | None, left: Meta | None) -> None:
        key = channel.presence_key
        diff = {
            "joins": _grouped([(key, joined)] if joined else []),
            "leaves": _grouped([(key, left)] if left else []),
        }
        message = event_fanout(TOPIC_PREFIX + channel.name, "presence_diff", dump(diff))
        self._topics.tell_presence(channel.name, channel.private, message)


def _told(meta: Meta) -> Meta:
    return {name: value for name, value in meta.items() if name not in ("phx_ref", "phx_ref_prev")}


def _grouped(entries: Any) -> dict[str, Any]:
    grouped: dict[str, Any] = {}
    for key, meta in entries:
        grouped.setdefault(key, {"metas": []})["metas"].append(meta)
    return grouped
