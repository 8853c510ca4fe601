"""What a host asks a worker: `/healthz` (the loop turns), `/readyz` (it can do work now), `/metrics` (Prometheus).

And what ends a worker that has come to a stand: no host restarts a machine because a check fails.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from bridge.claims import PATIENCE_SWEEPS
from bridge.errors import SettingsError, StoreError
from bridge.metrics import histogram, labelled, number, page
from bridge.store import Store
from bridge.worker import Worker

log = logging.getLogger(__name__)

# How long what the database says of the queue is shown, so that scrapes cost it little.
QUEUE_SECONDS = 10.0


class Watchdog:
    """Ends the process with exit code 1 when the worker's loop has not turned for 3 sweeps.

    It is a thread, because what it watches for is an event loop that does not turn.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._patience = PATIENCE_SWEEPS * worker.settings.sweep_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        pause = self._patience / 10
        since = looked_at = time.monotonic()
        while not self._stopped.wait(pause):
            now = time.monotonic()
            if now - looked_at > 2 * pause + 1:
                since = now  # this thread did not run either: the whole process was frozen
            looked_at = now
            if now - max(since, self._worker.turned_at) > self._patience:
                log.critical("no progress for %.0f s: leaving", self._patience)
                faulthandler.dump_traceback(file=sys.stderr)
                os._exit(1)


class Health:
    """The worker's HTTP server."""

    def __init__(self, worker: Worker, store: Store) -> None:
        self._worker = worker
        self._store = store
        self._patience = PATIENCE_SWEEPS * worker.settings.sweep_seconds
        self._queue: Mapping[str, Any] | None = None
        self._queue_at = 0.0
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
        if worker.claims.looked_at is None:
            yield "no claim was answered yet"
        elif (age := time.monotonic() - worker.claims.looked_at) > self._patience:
            yield f"the last look for work was {age:.0f} s ago"

    async def _healthz(self, _: web.Request) -> web.Response:
        age = time.monotonic() - self._worker.turned_at
        if age > self._patience:
            return web.Response(status=503, text=f"the loop has not turned for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        troubles = list(self.troubles())
        return web.Response(status=503 if troubles else 200, text="\n".join(troubles or ["ok"]) + "\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        if now - self._queue_at > QUEUE_SECONDS:
            self._queue_at = now
            try:
                self._queue = await self._store.status()
            except StoreError as error:
                self._queue = None
                log.warning("the queue cannot be shown: %s", error)
        return web.Response(
            text=page(self._samples()), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    def _samples(self) -> Iterator[str]:
        worker, metrics = self._worker, self._worker.metrics
        yield number("bridge_ready", "gauge", "Whether the worker can do work now.", int(not any(self.troubles())))
        yield number("bridge_in_hand", "gauge", "Jobs this worker holds.", len(worker.hands))
        yield number("bridge_concurrency", "gauge", "Jobs this worker holds at most.", worker.settings.concurrency)
        yield number("bridge_workers", "gauge", "Live workers, as the database knows.", worker.outbox.workers)
        if self._queue is not None:
            queue = self._queue
            yield number("bridge_queue_depth", "gauge", "Questions that could be claimed now.", queue["queued"])
            yield number("bridge_queue_age_seconds", "gauge", "Age of the oldest of them.", queue["oldest_seconds"])
            yield number("bridge_dead_letters", "gauge", "Questions that were given up.", queue["dead_letters"])
        yield labelled("bridge_claims_total", "Claims that were answered.", "woken_by", metrics.claims)
        yield number("bridge_claimed_total", "counter", "Jobs claimed.", metrics.claimed)
        yield number("bridge_takeovers_total", "counter", "Jobs whose worker had vanished.", metrics.takeovers)
        yield number("bridge_leases_lost_total", "counter", "Jobs lost to another or a deletion.", metrics.lost)
        yield number("bridge_missed_wakeups_total", "counter", "Unannounced work found.", metrics.missed_wakeups)
        yield number(
            "bridge_resubscriptions_total", "counter", "Subscriptions built anew.", worker.inbox.resubscriptions
        )
        yield labelled("bridge_attempts_total", "Attempts that ended.", "outcome", metrics.outcomes)
        yield labelled("bridge_retries_total", "Attempts to be repeated.", "reason", metrics.retries)
        yield labelled("bridge_given_up_total", "Questions given up.", "reason", metrics.given_up)
        yield labelled("bridge_tokens_total", "Tokens of models.", "kind", metrics.tokens)
        yield number("bridge_deltas_total", "counter", "Deltas sent.", worker.outbox.sent)
        yield number("bridge_deltas_failed_total", "counter", "Deltas that could not be sent.", worker.outbox.failed)
        yield number("bridge_delta_gaps_total", "counter", "Deltas that nobody was sent.", worker.outbox.gaps)
        yield histogram("bridge_queue_seconds", "From the insert to the claim.", metrics.queue)
        yield histogram("bridge_first_delta_seconds", "From the claim to the first delta.", metrics.first_delta)
        yield histogram("bridge_attempt_seconds", "From the claim to the result.", metrics.duration)
