"""What a host asks a worker: `/healthz` (the loop turns), `/readyz` (it can do work now), `/metrics` (Prometheus)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from bridge.errors import SettingsError
from bridge.worker import Worker

# Beyond so many sweeps without a turn of the loop, or a claim that was answered, something is wrong.
PATIENCE_SWEEPS = 3


class Health:
    """The worker's HTTP server."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._patience = PATIENCE_SWEEPS * worker.settings.sweep_seconds
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        self.port = 0

    async def start(self) -> None:
        """Listen on BRIDGE_HEALTH_HOST and BRIDGE_HEALTH_PORT.

        Raises:
            SettingsError: the port is taken.
        """
        settings = self._worker.settings
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, settings.health_host, settings.health_port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"BRIDGE_HEALTH_PORT {settings.health_port} cannot be used ({error.strerror}). "
                "Choose another one; 0 picks a free one."
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the server."""
        await self._runner.cleanup()

    def troubles(self) -> Iterator[str]:
        """Why the worker cannot do work now."""
        worker = self._worker
        if worker.is_draining:
            yield "draining"
        if not worker.inbox.is_ready:
            yield "not subscribed to bridge:inbox"
        if not worker.outbox.is_ready:
            yield "not connected for deltas"
        if worker.claimed_at is None:
            yield "no claim was answered yet"
        elif (age := time.monotonic() - worker.claimed_at) > self._patience:
            yield f"the last claim was answered {age:.0f} s ago"

    async def _healthz(self, _: web.Request) -> web.Response:
        age = time.monotonic() - self._worker.turned_at
        if age > self._patience:
            return web.Response(status=503, text=f"the loop has not turned for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        troubles = list(self.troubles())
        return web.Response(status=503 if troubles else 200, text="\n".join(troubles or ["ok"]) + "\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        worker = self._worker
        counters = worker.counters
        samples = [
            ("bridge_ready", "gauge", "Whether the worker can do work now.", int(not any(self.troubles()))),
            ("bridge_in_hand", "gauge", "Jobs this worker holds.", len(worker.hands)),
            ("bridge_concurrency", "gauge", "Jobs this worker holds at most.", worker.settings.concurrency),
            ("bridge_workers", "gauge", "Live workers, as the database knows.", worker.outbox.workers),
            ("bridge_claimed_total", "counter", "Jobs claimed.", counters.claimed),
            ("bridge_leases_lost_total", "counter", "Jobs lost to another worker or a deletion.", counters.lost),
            ("bridge_retries_total", "counter", "Attempts that failed and are tried again.", counters.retries),
            ("bridge_missed_wakeups_total", "counter", "Sweeps that found work unannounced.", counters.missed_wakeups),
            ("bridge_resubscriptions_total", "counter", "Subscriptions built anew.", worker.inbox.resubscriptions),
            ("bridge_deltas_total", "counter", "Deltas sent.", worker.outbox.sent),
            ("bridge_deltas_failed_total", "counter", "Deltas that could not be sent.", worker.outbox.failed),
        ]
        lines = [f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value:g}" for name, kind, text, value in samples]
        lines += _labelled("bridge_claims_total", "Claims that were answered.", "woken_by", counters.claims)
        lines += _labelled("bridge_attempts_total", "Attempts that ended.", "outcome", counters.outcomes)
        return web.Response(
            text="\n".join(lines) + "\n", headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _labelled(name: str, text: str, label: str, counts: Mapping[Any, int]) -> list[str]:
    values = [f'{name}{{{label}="{value}"}} {count}' for value, count in sorted(counts.items())]
    return [f"# HELP {name} {text}\n# TYPE {name} counter", *values]
