"""Presence: which channels are tracked on a topic. The format is that of Realtime v2.129.8, as recorded."""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

from devstack.realtime.broadcast import TOPIC_PREFIX, Subscriber, Topics
from devstack.realtime.protocol import dump, event_fanout

Meta = dict[str, Any]


class Member(Subscriber, Protocol):
    """A channel that can be tracked."""

    @property
    def presence_key(self) -> str:
        """The channel's key in the presence state; several channels may share one."""


class Presence:
    """Tracks at most one presence per channel, and notifies the topic of each change."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._present: dict[tuple[str, bool], dict[Member, Meta]] = defaultdict(dict)

    def state(self, channel: Member) -> dict[str, Any]:
        """Return the presence state of the channel's topic."""
        return _grouped((member.presence_key, meta) for member, meta in self._of(channel).items())

    def track(self, channel: Member, payload: Mapping[str, Any]) -> None:
        """Track a channel, or change its payload."""
        present = self._of(channel)
        before = present.get(channel)
        if before is not None and _without_refs(before) == dict(payload):
            return
        meta: Meta = {"phx_ref": base64.urlsafe_b64encode(os.urandom(12)).decode()}
        if before is not None:
            meta["phx_ref_prev"] = before["phx_ref"]
        meta |= payload
        self._present[channel.name, channel.private][channel] = meta
        self._notify(channel, meta, before)

    def untrack(self, channel: Member) -> None:
        """Stop tracking a channel."""
        key = (channel.name, channel.private)
        before = self._present[key].pop(channel, None) if key in self._present else None
        if key in self._present and not self._present[key]:
            del self._present[key]
        if before is not None:
            self._notify(channel, None, before)

    def _of(self, channel: Member) -> Mapping[Member, Meta]:
        return self._present.get((channel.name, channel.private), {})

    def _notify(self, channel: Member, joined: Meta | None, left: Meta | None) -> None:
        key = channel.presence_key
        diff = {
            "joins": _grouped([(key, joined)] if joined else []),
            "leaves": _grouped([(key, left)] if left else []),
        }
        message = event_fanout(TOPIC_PREFIX + channel.name, "presence_diff", dump(diff))
        self._topics.send_presence(channel.name, channel.private, message)


def _without_refs(meta: Meta) -> Meta:
    return {name: value for name, value in meta.items() if name not in ("phx_ref", "phx_ref_prev")}


def _grouped(entries: Any) -> dict[str, Any]:
    grouped: dict[str, Any] = {}
    for key, meta in entries:
        grouped.setdefault(key, {"metas": []})["metas"].append(meta)
    return grouped
