"""Anyone can broadcast on public topics. They never reach the bridge's private topics of the same name."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from realtime.types import RealtimeSubscribeStates

from bridge.connection import config
from tests.support.users import Ear, Person
from tests.support.workers import working


async def forge(user: Person, topic: str, ear: Ear, *events: str) -> None:
    """Join the public topic of this name and broadcast each event on it. `ear` receives them there."""
    channel = user.client.channel(topic, config(private=False, hears_itself=True))
    for event in events:
        channel.on_broadcast(event, ear.hear)
    joined = Ear()
    await channel.subscribe(lambda state, _: joined.hear({"event": state.value, "payload": {}}))
    await joined.until(lambda ear: ear.of(RealtimeSubscribeStates.SUBSCRIBED.value))
    for event in events:
        forged = str(uuid.uuid4())
        ids = {"message_id": forged, "question_id": forged, "question_ids": [forged]}
        await channel.send_broadcast(event, {**ids, "text": "forged"})


async def test_public_broadcasts_do_not_reach_private_topics(
    environment: dict[str, str], user: Person, sign_up: Callable[[], Awaitable[Person]]
) -> None:
    other, ear = await sign_up(), Ear()
    session_id = await user.open_session(title="named")
    hers = await user.listen(f"session:{session_id}", "delta", "message", "work", "cancel")
    async with working(environment) as worker:
        claims = worker.metrics.claims.total()
        await forge(other, "bridge:inbox", ear, "work", "cancel")
        await forge(other, f"session:{session_id}", ear, "delta", "message")
        await ear.until(lambda ear: len(ear.heard) == 4)  # they arrived on the public topics
        assert worker.metrics.claims.total() == claims
        assert hers.heard == []
        await user.reply(await user.ask(session_id, "[[text=true]]"))
        await hers.until(lambda ear: ear.of("message", role="assistant", status="done"))
    assert "forged" not in str(hers.heard)
