"""How deltas are sent, without a network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bridge.metrics import Metrics
from bridge.model import Partial
from bridge.realtime import publisher
from bridge.realtime.channels import SessionChannels
from bridge.realtime.publisher import DeltaPublisher, OutgoingReply
from bridge.settings import Settings
from bridge.stream import FIELD_BYTES, Stream
from tests.support.waiting import turns_of_the_loop

SETTINGS = Settings(supabase_url="http://127.0.0.1:1", supabase_key="key")


async def test_end_of_a_long_reply_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send seldom waits for the network, so the pieces of a long rest would follow each other without a pause."""
    sent: list[int] = []

    async def send(_: SessionChannels, reply: OutgoingReply) -> bool:
        reply.stream.next_delta()
        sent.append(turn())
        return True

    deltas = DeltaPublisher(SETTINGS, Metrics(), lambda: 1)
    monkeypatch.setattr(deltas, "connection", lambda reply: reply)
    monkeypatch.setattr(deltas, "send", send)
    reply = OutgoingReply(deltas, Stream("question", "reply", "session", 1))
    reply.stream.set_partial(Partial("a" * 20 * FIELD_BYTES))
    with turns_of_the_loop() as turn:
        await reply.flush()
    assert len(sent) == 20
    assert len(set(sent)) == 20


async def test_end_of_a_reply_does_not_wait_for_a_slow_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has all of it."""
    now = 0.0

    async def send(_: SessionChannels, reply: OutgoingReply) -> bool:
        nonlocal now
        now += 1.5
        return reply.stream.next_delta() is not None

    deltas = DeltaPublisher(SETTINGS, Metrics(), lambda: 1)
    monkeypatch.setattr(deltas, "connection", lambda reply: reply)
    monkeypatch.setattr(deltas, "send", send)
    reply = OutgoingReply(deltas, Stream("question", "reply", "session", 1))
    reply.stream.set_partial(Partial("a" * 20 * FIELD_BYTES))
    monkeypatch.setattr(publisher, "time", SimpleNamespace(monotonic=lambda: now))
    await reply.flush()
    assert now == 6
    assert not reply.stream.is_dirty  # it counts as sent, so that readers notice the gap
