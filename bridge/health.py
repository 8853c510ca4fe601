"""Endpoints for hosts and Prometheus: `/healthz` (the event loop turns), `/readyz` (it can do work now), `/metrics`."""

import logging
import time
from collections.abc import Iterator

from aiohttp import web

from bridge.errors import SettingsError, StoreError
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker

log = logging.getLogger(__name__)

# The queue's status is reused for this long, so that frequent scrapes cost the database little.
QUEUE_SECONDS = 10.0


class Health:
    """The worker's HTTP server."""

    def __init__(self, worker: Worker, store: Store, watchdog: Watchdog) -> None:
        self._worker = worker
        self._store = store
        self._watchdog = watchdog
        self._queue_at = 0.0
        app = web.Application()
        healthz, readyz = web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)
        app.add_routes([healthz, readyz, web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        self.port = 0

    async def start(self) -> None:
        """Listen on BRIDGE_HEALTH_HOST and BRIDGE_HEALTH_PORT. Raises SettingsError if they cannot be used."""
        settings = self._worker.settings
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, settings.health_host, settings.health_port).start()
        except (OSError, UnicodeError) as error:  # the latter is how a name is refused
            await self._runner.cleanup()
            reason = (isinstance(error, OSError) and error.strerror) or "no such host"
            where = f"BRIDGE_HEALTH_HOST {settings.health_host} with BRIDGE_HEALTH_PORT {settings.health_port}"
            remedy = "Choose another port (0 picks a free one), or an address of this machine, such as 127.0.0.1."
            raise SettingsError(f"{where} cannot be used ({reason}).", remedy) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the server."""
        await self._runner.cleanup()

    def problems(self) -> Iterator[str]:
        """Yield each reason why the worker cannot do work now."""
        worker = self._worker
        if worker.is_draining:
            yield "draining"
        if (problem := worker.listener.problem) is not None:
            yield problem
        if not worker.publisher.is_ready:
            yield "not connected for deltas"
        for function, code in worker.breakers.open.items():
            yield f"the model of {function} is out of order ({code}): other workers answer"
        answered_at = worker.claims.last_answer_at
        if answered_at is None:
            yield "no claim was answered yet"
        elif (age := time.monotonic() - answered_at) > self._watchdog.patience:
            yield f"no claim was answered for {age:.0f} s"

    async def _healthz(self, _: web.Request) -> web.Response:
        age = self._watchdog.age
        if age > self._watchdog.patience:
            return web.Response(status=503, text=f"the event loop has not turned for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = list(self.problems())
        return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        worker, metrics = self._worker, self._worker.metrics
        now = time.monotonic()
        if now - self._queue_at > QUEUE_SECONDS:
            self._queue_at = now
            try:
                metrics.queue.status = await self._store.status()
            except StoreError as error:
                metrics.queue.status = None
                log.warning("the queue's status is unknown: %s", error)
        metrics.ready.set(not any(self.problems()))
        metrics.running_jobs.set(worker.jobs.count)
        metrics.concurrency.set(worker.settings.concurrency)
        metrics.media_bytes.set(worker.attachments.budget.in_use)
        metrics.workers.set(worker.claims.fleet_size)
        is_open = worker.breakers.open
        for function in worker.functions:
            metrics.breaker_open.labels(function).set(function in is_open)
        body, content_type = metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})
