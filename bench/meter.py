"""What a round of replies costs: CPU of workers and project, REST calls, write-ahead log, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from bench.counting import CountingProxy
from bench.database import Database, wal_bytes
from bench.processes import Program
from bench.world import Project


@dataclass(frozen=True)
class Round:
    """The costs of one round. `latencies` in ms; CPU (ms), calls and `wal` (kB) per reply; `memory` of all workers, MB.

    `project_cpu` and `calls` are split by part and by path.
    """

    latencies: list[float]
    worker_cpu: float
    project_cpu: Mapping[str, float]
    calls: Mapping[str, float]
    wal: float
    memory: float


class Meter:
    """Measures what workers and a project spend between `start` and `stop`."""

    def __init__(self, project: Project, workers: list[Program], proxy: CountingProxy, db: Database) -> None:
        self._project = project
        self._workers = workers
        self._proxy = proxy
        self._db = db
        self._calls: Counter[str] = Counter()
        self._parts: dict[str, float] = {}
        self._cpu = self._wal = 0.0

    async def start(self) -> None:
        """Begin a round."""
        self._calls = self._proxy.counts.copy()
        self._parts = self._project.cpu()
        self._cpu, self._wal = self._worker_cpu(), await wal_bytes(self._db)

    async def stop(self, replies: int, latencies: list[float]) -> Round:
        """End a round of this many replies."""
        wal = await wal_bytes(self._db) - self._wal
        return Round(
            latencies,
            (self._worker_cpu() - self._cpu) / replies * 1000,
            {part: (now - self._parts[part]) / replies * 1000 for part, now in self._project.cpu().items()},
            {path: count / replies for path, count in (self._proxy.counts - self._calls).items()},
            wal / replies / 1000,
            sum(psutil.Process(worker.pid).memory_info().rss for worker in self._workers) / 1e6,
        )

    def _worker_cpu(self) -> float:
        return sum(worker.cpu() for worker in self._workers)
