"""How the inbox knows that it is not deaf, and what that costs a fleet."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge import inbox
from bridge.connection import Subscription
from bridge.inbox import Inbox
from tests.support.waiting import until
from tests.support.workers import worker_settings

INBOXES = 8
# long enough that the first canary of a round is heard before the others would speak
CANARY_SECONDS = 1.5
ROUNDS = 5


@pytest.mark.quiet
async def test_one_canary_stands_for_the_whole_fleet(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "CANARY_SECONDS", CANARY_SECONDS)
    proved: list[float] = []
    prove = Subscription.prove

    async def note(subscription: Subscription) -> None:
        proved.append(time.monotonic())
        await prove(subscription)

    monkeypatch.setattr(Subscription, "prove", note)
    settings = worker_settings(environment)
    inboxes = [Inbox(settings.realtime_url, settings.supabase_key) for _ in range(INBOXES)]
    running = [asyncio.create_task(one.run()) for one in inboxes]
    try:
        await until(lambda: all(one.is_ready for one in inboxes), within=20)
        began = time.monotonic()
        proved.clear()
        await until(lambda: time.monotonic() - began > ROUNDS * CANARY_SECONDS, within=30)
        # each for itself would be at least as many as there were rounds, of each inbox
        assert ROUNDS / 2 < len(proved) < INBOXES * ROUNDS / 2
        assert all(one.is_ready for one in inboxes)
        assert sum(one.resubscriptions for one in inboxes) == 0
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
