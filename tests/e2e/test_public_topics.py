"""Anybody may speak on public topics. None of those is a topic of the bridge, whatever its name."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from realtime.types import RealtimeSubscribeStates

from bridge.connection import config
from tests.support.users import Ear, Person
from tests.support.workers import working


async def speak(somebody: Person, topic: str, ear: Ear, *events: str) -> None:
    """Join the public topic of this name, and say each event on it; `ear` hears them there."""
    channel = somebody.client.channel(topic, config(private=False, hears_itself=True))
    for event in events:
        channel.on_broadcast(event, ear.hear)
    joined = Ear()
    await channel.subscribe(lambda state, _: joined.hear({"event": state.value, "payload": {}}))
    await joined.until(lambda ear: ear.of(RealtimeSubscribeStates.SUBSCRIBED.value))
    for event in events:
        message_id = str(uuid.uuid4())
        await channel.send_broadcast(event, {"message_id": message_id, "message_ids": [message_id], "text": "forged"})


async def test_what_is_said_on_a_public_topic_is_not_heard_on_the_private_one(
    environment: dict[str, str], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    other, ear = await sign_up(), Ear()
    session_id = await user.open_session(title="named")
    hers = await user.listen(f"session:{session_id}", "delta", "message", "work", "cancel")
    async with working(environment) as worker:
        claims = worker.metrics.value("bridge_claims_total")
        await speak(other, "bridge:inbox", ear, "work", "cancel")
        await speak(other, f"session:{session_id}", ear, "delta", "message")
        await ear.until(lambda ear: len(ear.heard) == 4)  # it was said, and heard where it was said
        assert worker.metrics.value("bridge_claims_total") == claims
        assert hers.heard == []
        await user.reply(await user.ask(session_id, "[[text=true]]"))
        await hers.until(lambda ear: ear.of("message", role="assistant", status="done"))
    assert "forged" not in str(hers.heard)
