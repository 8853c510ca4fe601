"""An even load of replies, and samples of what workers, Postgres and replies are like under it."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import psutil

from bench import backlog
from bench.backlog import Database
from bench.counting import CountingProxy
from bench.processes import Program
from bench.report import percentile
from bench.world import PACES, Project, heard_of, unique
from tests.support.users import Ear, Person

FIRST_SECONDS, TOKENS_A_SECOND = PACES["realistic"]
TOKENS = (80, 400)  # a reply is between so many long: 1.3 s to 5.3 s
EXCHANGES = 5  # a session: histories do not grow with the run, and every worker's channels are all used soon


class Load:
    """Streams of replies, and what they were like since the last `take`."""

    def __init__(self, person: Person, db: Database) -> None:
        self._person = person
        self._db = db
        self._random = random.Random(1)
        self._window: dict[str, list[float]] = defaultdict(list)
        self.replies = 0
        self.failed: list[str] = []
        self.gaps = 0

    async def run(self, after: float) -> None:
        """One stream, until cancelled."""
        await asyncio.sleep(after)
        ear: Ear | None = None
        left = ""
        while True:
            (session,) = await backlog.open_sessions(self._db, self._person.id, 1)
            ear = await self._person.listen(f"session:{session}")
            # only now: without any channel the client would close its socket
            await self._leave(left)
            left = session
            for _ in range(EXCHANGES):
                try:
                    await self._exchange(ear, session)
                except TimeoutError:
                    self.failed.append(f"no end within 30 s in session {session}")
                    break
            await asyncio.sleep(0.1)

    def take(self) -> dict[str, list[float]]:
        """What was measured since the last call, in milliseconds."""
        window, self._window = self._window, defaultdict(list)
        return window

    async def _exchange(self, ear: Ear, session: str) -> None:
        tokens = self._random.randint(*TOKENS)
        began = time.monotonic()
        message_id = await self._person.ask(session, unique(f"tokens={tokens}"))
        await heard_of(ear, "delta", reply_to=message_id)
        first = ear.times[-1] - began
        await ear.until(
            lambda heard: [row for row in heard.of("message", reply_to=message_id) if _ended(row)], within=30
        )
        whole = ear.times[-1] - began
        (row,) = [row for row in ear.of("message", reply_to=message_id) if _ended(row)]
        if row["status"] != "done":
            self.failed.append(f"{row['status']}: {row.get('error')}")
        deltas = [delta["seq"] for delta in ear.of("delta", reply_to=message_id)]
        self.gaps += deltas != list(range(1, len(deltas) + 1))
        self.replies += 1
        self._window["first delta"].append((first - FIRST_SECONDS) * 1000)
        self._window["done"].append((whole - FIRST_SECONDS - (tokens - 1) / TOKENS_A_SECOND) * 1000)

    async def _leave(self, session: str) -> None:
        channel = self._person.client.realtime.channels.get(f"realtime:session:{session}")
        if channel is not None:
            await self._person.client.remove_channel(channel)


def _ended(row: dict[str, Any]) -> bool:
    return row["status"] in ("done", "failed", "cancelled")


class Sampler:
    """Notes what is watched; a rate is that since the last sample."""

    def __init__(
        self, project: Project, workers: list[Program], proxy: CountingProxy, db: Database, load: Load
    ) -> None:
        self._project = project
        self._workers = workers
        self._proxy = proxy
        self._db = db
        self._load = load
        self._logs = [Lags(worker) for worker in workers]
        self._before: dict[str, float] = {}
        self._at = 0.0

    async def start(self) -> None:
        """Note where the counters are."""
        self._load.take()
        self._before, self._at = await self._counters(), time.monotonic()

    async def sample(self) -> dict[str, float]:
        """One sample; workers are added up, and of their lags the worst counts."""
        now, at = await self._counters(), time.monotonic()
        rates = {name: (now[name] - self._before[name]) / (at - self._at) for name in now}
        self._before, self._at = now, at
        processes = [psutil.Process(worker.pid) for worker in self._workers]
        window = self._load.take()
        sample = {
            "worker memory": sum(process.memory_info().rss for process in processes) / 1e6,
            "worker threads": sum(process.num_threads() for process in processes),
            "worker files and sockets": sum(process.num_fds() for process in processes),
            "worker connections": sum(len(process.net_connections("tcp")) for process in processes),
            "worker CPU": rates["cpu"] * 100,
            "event loop lag p99": max(percentile(log.take() or [math.nan], 0.99) for log in self._logs) * 1000,
            "REST calls": rates["calls"],
            "replies": rates["replies"],
            "write-ahead log": rates["wal"] / 1000,
            **await self._database(),
            **{f"{part} memory": used for part, used in self._project.memory().items() if part != "Postgres"},
        }
        for name in ("first delta", "done"):
            for share in (50, 95):
                sample[f"{name} p{share}"] = percentile(window[name] or [math.nan], share / 100)
        return sample

    async def _counters(self) -> dict[str, float]:
        cursor = await self._db.execute("select (pg_current_wal_insert_lsn() - '0/0')::float8 as wal")
        row: Any = await cursor.fetchone()
        return {
            "cpu": sum(worker.cpu() for worker in self._workers),
            "calls": float(self._proxy.total),
            "replies": float(self._load.replies),
            "wal": row["wal"],
        }

    async def _database(self) -> dict[str, float]:
        cursor = await self._db.execute(
            "select (select count(*) from pg_stat_activity where backend_type = 'client backend')::float8"
            ' as "Postgres connections", pg_database_size(current_database()) / 1e6::float8 as "database"'
        )
        row: Any = await cursor.fetchone()
        return dict(row)


class Lags:
    """The lags that a worker's probe has printed since the last `take`, in seconds."""

    def __init__(self, worker: Program) -> None:
        self._log = worker.log
        self._read = worker.log.stat().st_size

    def take(self) -> list[float]:
        """The new ones."""
        lags: list[float] = []
        with self._log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # half written
                self._read += len(line)
                with suppress(ValueError, TypeError, KeyError):
                    lags += json.loads(line)["lags"]
        return lags
