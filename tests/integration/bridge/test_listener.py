"""How listeners probe their subscription, and what that costs a fleet."""

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
# long enough for the first probe of a round to arrive before the other listeners send theirs
PROBE_SECONDS = 1.5
ROUNDS = 5


@pytest.mark.quiet
async def test_one_probe_serves_whole_fleet(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
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
        # if each listener sent its own, there would be LISTENERS * ROUNDS
        assert ROUNDS / 2 < len(probes) < LISTENERS * ROUNDS / 2
        assert all(one.is_ready for one in listeners)
        assert all(one.broadcasts.sessions == one.changes.sessions == 1 for one in listeners)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
