"""Event loop lag: a timer every 10 ms that records how late it fires.

Named in BRIDGE_HANDLERS, this module measures a worker from inside: the worker imports it with its loop running, and
it prints a line of JSON with the lags of each second (in seconds) to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

PERIOD_SECONDS = 0.01


class Probe:
    """Collects lags, in seconds, until cancelled."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def run(self) -> None:
        """Record how late each timer fires."""
        while True:
            due = time.perf_counter() + PERIOD_SECONDS
            await asyncio.sleep(PERIOD_SECONDS)
            self.lags.append(max(0.0, time.perf_counter() - due))


async def _report(probe: Probe) -> None:
    while True:
        await asyncio.sleep(1)
        lags, probe.lags[:] = list(probe.lags), []
        print(json.dumps({"lags": [round(lag, 6) for lag in lags], "at": time.monotonic()}), flush=True)


if os.environ.get("BRIDGE_HANDLERS") == __name__:
    _probe = Probe()
    _tasks = [asyncio.ensure_future(_probe.run()), asyncio.ensure_future(_report(_probe))]
