"""Workers for tests: in this process (`working`), or as processes that can be killed, frozen and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
from prometheus_client import Counter
from prometheus_client.samples import Sample

from bridge import settings
from bridge.claims import PATIENCE_SWEEPS
from bridge.functions import Functions
from bridge.settings import Settings
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker
from devstack.process import before_exec
from tests.support import ROOT, shipped
from tests.support.waiting import until

# Settings of a worker that writes no checkpoints, so that until its end a reply's text is only in its deltas.
BY_DELTAS: dict[str, Any] = {"checkpoint_seconds": 60, "lease_seconds": 600}
PORT = re.compile(r"health on port (\d+)")


def worker_settings(environment: Mapping[str, str], **changes: Any) -> Settings:
    """A worker's settings for tests: frequent checkpoints, no quota, any health port."""
    names = {
        "BRIDGE_HEALTH_PORT": "0",
        "BRIDGE_HEALTH_HOST": "127.0.0.1",
        "BRIDGE_CHECKPOINT_SECONDS": "0.2",
        "BRIDGE_EVENTS_PER_SECOND": "100000",
        "BRIDGE_SWEEP_SECONDS": "30",
        "BRIDGE_DRAIN_SECONDS": "5",
        **{f"BRIDGE_{name.upper()}": str(value) for name, value in changes.items()},
    }
    return settings.load({**os.environ, **environment, **names})


@asynccontextmanager
async def working(
    environment: Mapping[str, str],
    *,
    ready: bool = True,
    name: str | None = None,
    client: ModuleType | None = None,
    variables: Mapping[str, str] | None = None,
    **changes: Any,
) -> AsyncIterator[Worker]:
    """A worker in this process, drained at the end. With `ready`, the block starts when the worker is subscribed.

    `client` is its generated client, and `variables` are those of its clients in `baml_src`.
    """
    chosen = worker_settings(environment, **changes)
    name = name or f"test-{uuid.uuid4().hex[:8]}"
    store = await Store.open(chosen, name)
    functions = Functions.load(
        chosen.functions,
        handlers=chosen.handlers,
        client=client,
        env=variables,
        shows_reasoning=chosen.shows_reasoning,
    )
    worker = Worker(chosen, store, functions, name, Watchdog(PATIENCE_SWEEPS * chosen.sweep_seconds))
    running = asyncio.create_task(worker.run())

    def is_ready() -> bool:
        assert not running.done(), running.exception()
        return (
            worker.listener.broadcasts.is_ready
            and worker.listener.changes.is_ready
            and worker.publisher.is_ready
            and worker.claims.last_answer_at is not None
            and is_idle(worker)
        )

    try:
        if ready:
            await until(is_ready, 20, 0.01)
        yield worker
    finally:
        worker.drain()
        async with asyncio.timeout(30):
            await running
        await functions.close()
        await store.close()


class WorkerProcess:
    """A `bridge run` process that logs to `log`, one JSON object a line."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(
        cls, environment: Mapping[str, str], log: Path, folder: Path | None = None, /, **changes: object
    ) -> WorkerProcess:
        """Start it in `folder` (by default, the shipped project), without waiting until it is ready.

        `changes` are BRIDGE_ settings.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        names = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "BRIDGE_HEALTH_HOST": "127.0.0.1",
            "BRIDGE_HEALTH_PORT": "0",
            "BRIDGE_CHECKPOINT_SECONDS": "0.2",
            "BRIDGE_EVENTS_PER_SECOND": "100000",
            **{name: value for name, value in os.environ.items() if name.startswith("LLM_")},
            **environment,
            **{f"BRIDGE_{name.upper()}": str(value) for name, value in changes.items()},
        }
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bridge.cli", "run"),
                cwd=folder or shipped.project(),
                env=names,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=before_exec(signal.SIGKILL),  # it must not outlive its test
            )
        return cls(process, log)

    @property
    def runs(self) -> bool:
        return self.process.returncode is None

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        lines = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last one may be half written
                lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict)]

    def _port(self) -> int | None:
        found = [match for line in self.lines() if (match := PORT.search(str(line.get("text", ""))))]
        return int(found[-1][1]) if found else None

    @property
    def health_url(self) -> str:
        return f"http://127.0.0.1:{self._port()}"

    async def ready(self, within: float = 30) -> None:
        """Wait for a 200 from /readyz. Raises TimeoutError, or RuntimeError if the process ends."""
        async with aiohttp.ClientSession() as http:

            async def is_ready() -> bool:
                if not self.runs:
                    raise RuntimeError(f"the worker ended: {self.log.read_text()[-2000:]}")
                if self._port():
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(f"{self.health_url}/readyz") as response:
                            return response.status == 200
                return False

            await until(is_ready, within, 0.05)

    async def metrics(self) -> dict[str, float]:
        """The samples of /metrics, by name and labels."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.health_url}/metrics") as response:
            lines = [line for line in (await response.text()).splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self, within: float = 30) -> int:
        """Wait until the process ends; return its exit code."""
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it by SIGKILL, even if it is frozen."""
        self.signal(signal.SIGKILL)
        await self.ended()


def is_idle(worker: Worker) -> bool:
    """Whether everything the worker received so far has led to a claim that was answered."""
    return worker.listener._signals.empty() and worker.claims.is_waiting


def claims(worker: Worker, woken_by: str | None = None) -> float:
    """How many claims succeeded: all, or those woken by one source."""
    return sum(s.value for s in _totals(worker.metrics.claims) if woken_by in (None, s.labels["woken_by"]))


def outcomes(worker: Worker) -> dict[str, float]:
    """How many attempts ended, by outcome."""
    return {s.labels["outcome"]: s.value for s in _totals(worker.metrics.attempts)}


def _totals(counter: Counter) -> list[Sample]:
    return [s for metric in counter.collect() for s in metric.samples if s.name.endswith("_total")]


@asynccontextmanager
async def worker_process(
    environment: Mapping[str, str], log: Path, folder: Path | None = None, /, *, ready: bool = True, **changes: object
) -> AsyncIterator[WorkerProcess]:
    """A worker process, killed at the end if it is still running."""
    worker = await WorkerProcess.start(environment, log, folder, **changes)
    try:
        if ready:
            await worker.ready()
        yield worker
    finally:
        if worker.runs:
            await worker.kill()
