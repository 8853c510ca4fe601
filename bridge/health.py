"""What a host asks a worker: `/healthz` (the loop turns), `/readyz` (it can do work now), `/metrics` (Prometheus).

And what ends a worker that has come to a stand: no host restarts a machine because a check fails.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from bridge.errors import SettingsError, StoreError
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker

log = logging.getLogger(__name__)

# How long what the database says of the queue is shown, so that scrapes cost it little.
QUEUE_SECONDS = 10.0


class Health:
    """The worker's HTTP server."""

    def __init__(self, worker: Worker, store: Store, watchdog: Watchdog) -> None:
        self._worker = worker
        self._store = store
        self._watchdog = watchdog
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
        if not worker.listener.is_ready:
            yield "not subscribed to bridge:inbox"
        if not worker.publisher.is_ready:
            yield "not connected for deltas"
        if worker.claims.last_answer_at is None:
            yield "no claim was answered yet"
        elif (age := time.monotonic() - worker.claims.last_answer_at) > self._watchdog.patience:
            yield f"the last look for work was {age:.0f} s ago"

    async def _healthz(self, _: web.Request) -> web.Response:
        age = self._watchdog.age
        if age > self._watchdog.patience:
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
        from prometheus_client import generate_latest

        return web.Response(
            body=generate_latest(self._worker.metrics.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )
