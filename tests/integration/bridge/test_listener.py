"""How the inbox knows that it is not deaf, and what that costs a fleet."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge.realtime import listener
from bridge.realtime.connection import Connection
from bridge.realtime.listener import WakeupListener
from tests.support.waiting import until
from tests.support.workers import worker_settings

LISTENERS = 8
# long enough that the first canary of a round is heard before the others would speak
PROBE_SECONDS = 1.5
ROUNDS = 5


@pytest.mark.quiet
async def test_one_canary_stands_for_the_whole_fleet(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PROBE_SECONDS", PROBE_SECONDS)
    probes: list[float] = []
    probe = Connection.probe

    async def count(connection: Connection) -> None:
        probes.append(time.monotonic())
        await probe(connection)

    monkeypatch.setattr(Connection, "probe", count)
    settings = worker_settings(environment)
    listeners = [WakeupListener(settings.realtime_url, settings.supabase_key) for _ in range(LISTENERS)]
    running = [asyncio.create_task(one.run()) for one in listeners]
    try:
        await until(lambda: all(one.is_ready for one in listeners), within=20)
        began = time.monotonic()
        probes.clear()
        await until(lambda: time.monotonic() - began > ROUNDS * PROBE_SECONDS, within=30)
        # each for itself would be at least as many as there were rounds, of each inbox
        assert ROUNDS / 2 < len(probes) < LISTENERS * ROUNDS / 2
        assert all(one.is_ready for one in listeners)
        assert sum(one.resubscriptions for one in listeners) == 0
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
