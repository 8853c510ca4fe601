"""Random faults from a seed. The seed alone decides which fault hits which worker, when, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from yarl import URL

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.proxy import Direction, Frame, Proxy, Realtime, Rest
from tests.faults.tcp_proxy import TcpProxy
from tests.support.database import database
from tests.support.workers import WorkerProcess

LEASE_SECONDS = 3
DIRECTIONS: tuple[Direction, ...] = ("up", "down", "both")
CALLS = ("bridge_claim", "bridge_beat", "bridge_finish")
TOPICS = ("bridge:", "worker:", "session:")
SETTINGS: dict[str, object] = {
    "lease_seconds": LEASE_SECONDS,
    "sweep_seconds": 2,
    "checkpoint_seconds": 0.3,
    "drain_seconds": 4,
    "concurrency": 16,
    # without history: BAML would join a question with an unanswered one before it, whose script would apply
    "history": 0,
    # a question's script decides how it ends, not the number of workers that were killed
    "max_failures": 100,
    "first_token_seconds": 3,
    "idle_seconds": 2,
    "total_seconds": 30,
}


class Slot:
    """Runs one worker after another, as a host does that restarts its process. `settings` are added to SETTINGS."""

    def __init__(
        self,
        number: int,
        proxy: Proxy,
        model: TcpProxy,
        environment: Mapping[str, str],
        folder: Path,
        settings: Mapping[str, object],
    ) -> None:
        self.number = number
        self.proxy = proxy
        self.model = model
        self.boots = 0
        self.exits: Counter[int] = Counter()
        self.worker: WorkerProcess | None = None
        self.signalling = asyncio.Lock()  # one signal at a time, with all that follows from it
        self.logs: list[Path] = []
        self._environment = dict(environment) | {
            "SUPABASE_URL": proxy.url,
            "LLM_BASE_URL": f"http://127.0.0.1:{model.port}/v1",
            "LLM_API_KEY": "key",
            "LLM_MODEL": "scripted",
        }
        self._folder = folder
        self._settings = SETTINGS | dict(settings)

    async def run(self) -> None:
        """Restart the worker until cancelled, then kill it."""
        try:
            while True:
                self.boots += 1
                log = self._folder / f"worker-{self.number}-{self.boots}.log"
                self.logs.append(log)
                self.worker = await WorkerProcess.start(self._environment, log, **self._settings)
                self.exits[await self.worker.process.wait()] += 1
        finally:
            if self.worker is not None and self.worker.runs:
                await self.worker.kill()

    def signal(self, number: signal.Signals) -> None:
        if self.worker is not None:
            self.worker.signal(number)


@asynccontextmanager
async def fleet(
    stack: Stack,
    model: ModelServer,
    count: int,
    folder: Path,
    settings: Mapping[str, object],
    environment: Mapping[str, str],
) -> AsyncIterator[list[Slot]]:
    """Run workers, each behind a proxy to Supabase and one to the model, with these settings and variables."""
    port = URL(model.url).port
    assert port is not None
    async with AsyncExitStack() as opened:
        slots = []
        for number in range(count):
            proxy = await opened.enter_async_context(Proxy(stack.environment["SUPABASE_URL"]))
            model_proxy = await opened.enter_async_context(TcpProxy("127.0.0.1", port))
            slots.append(Slot(number, proxy, model_proxy, {**stack.environment, **environment}, folder, settings))
        tasks = [asyncio.create_task(slot.run()) for slot in slots]
        try:
            yield slots
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Stroke:
    """One fault of one worker: after `pause` seconds, for `seconds`; `number` decides its details."""

    kind: str
    slot: int
    pause: float
    seconds: float
    number: int


class Havoc:
    """Causes faults until it is over. Every fault ends by itself, within 6 s."""

    def __init__(self, stack: Stack, slots: list[Slot], seed: int, pace: float, calls: Sequence[str] = CALLS) -> None:
        self.struck: Counter[str] = Counter()
        self._stack = stack
        self._slots = slots
        self._rng = random.Random(seed)
        self._calls = calls  # whose answers are lost
        self._pace = pace
        self._database = asyncio.Lock()
        # by name: how often compared with the others, and what it does
        self._kinds: dict[str, tuple[float, Callable[[Slot, Stroke], Coroutine[Any, Any, None]]]] = {
            "worker killed": (3, lambda slot, _: self._signal(slot, signal.SIGKILL)),
            "worker frozen": (3, self._freeze),
            "worker restarted": (2, lambda slot, _: self._signal(slot, signal.SIGTERM)),
            "sockets closed": (2, lambda slot, s: slot.proxy.close_sockets((1000, 1001, 1012)[s.number % 3])),
            "sockets reset": (1, lambda slot, _: slot.proxy.reset_sockets()),
            "sockets swallowed": (1, lambda slot, s: slot.proxy.swallow_sockets(DIRECTIONS[s.number % 3])),
            "realtime dead but answering pings": (1, lambda slot, s: _during(s, slot.proxy.realtime, deaf=True)),
            "realtime refused": (1, self._refuse_realtime),
            "channels ended": (2, self._end_channels),
            "joins denied": (1, self._deny),
            "events lost": (2, self._lose_events),
            "dispatches lost": (2, lambda slot, s: _during(s, slot.proxy.realtime, loses=_is_dispatch)),
            "REST answers 5xx": (2, lambda slot, s: _during(s, slot.proxy.rest, status=(500, 502, 503)[s.number % 3])),
            "REST hangs": (1, lambda slot, s: _during(s, slot.proxy.rest, hangs=True)),
            "REST resets": (1, lambda slot, s: _during(s, slot.proxy.rest, resets=True)),
            "Supabase refused": (1, lambda slot, s: _refuse(s, slot.proxy)),
            "answers lost": (5, self._lose_answers),
            "model reset": (2, self._reset_model),
            "model swallowed": (1, self._swallow_model),
            "model refused": (1, lambda slot, s: _refuse(s, slot.model)),
            "Postgres restarted": (0.7, self._restart_postgres),
            "Postgres crashed": (0.5, self._crash_postgres),
        }

    def draw(self) -> Stroke:
        """The next fault. It depends only on the seed and the number of faults before it."""
        rng = self._rng
        names, weights = list(self._kinds), [weight for weight, _ in self._kinds.values()]
        return Stroke(
            rng.choices(names, weights)[0],
            rng.randrange(len(self._slots)),
            rng.uniform(0.3, 1.7) * self._pace,
            rng.uniform(0.3, LEASE_SECONDS * 1.7),
            rng.getrandbits(32),
        )

    async def run(self, over: asyncio.Event) -> None:
        """Cause faults until `over` is set; return when the last of them has ended."""
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                stroke = self.draw()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(stroke.pause):
                        await over.wait()
                        return
                self.struck[stroke.kind] += 1
                group.create_task(self._kinds[stroke.kind][1](self._slots[stroke.slot], stroke))

    async def _signal(self, slot: Slot, number: signal.Signals) -> None:
        async with slot.signalling:
            slot.signal(number)

    async def _freeze(self, slot: Slot, stroke: Stroke) -> None:
        async with slot.signalling:
            slot.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(stroke.seconds)
            finally:
                slot.signal(signal.SIGCONT)

    async def _refuse_realtime(self, slot: Slot, stroke: Stroke) -> None:
        await slot.proxy.reset_sockets()
        await _during(stroke, slot.proxy.realtime, resets=True)

    async def _end_channels(self, slot: Slot, stroke: Stroke) -> None:
        event = ("phx_close", "phx_error", "system", "expiry")[stroke.number % 4]
        await slot.proxy.end_topics(TOPICS[stroke.number // 4 % 3], event)

    async def _deny(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.realtime.denies = TOPICS[stroke.number % 3]
        await slot.proxy.close_sockets(1012)
        await asyncio.sleep(stroke.seconds)
        slot.proxy.realtime.denies = None

    async def _lose_events(self, slot: Slot, stroke: Stroke) -> None:
        rng = random.Random(stroke.number)

        def loses(_: Frame) -> bool:
            return rng.random() < 0.5

        await _during(stroke, slot.proxy.realtime, loses=loses)

    async def _lose_answers(self, slot: Slot, stroke: Stroke) -> None:
        name = self._calls[stroke.number % len(self._calls)]
        slot.proxy.rest.lose[name] += 1 + stroke.number // len(self._calls) % 5

    async def _reset_model(self, slot: Slot, _: Stroke) -> None:
        slot.model.reset_links()

    async def _swallow_model(self, slot: Slot, stroke: Stroke) -> None:
        slot.model.swallow_links()
        slot.model.swallows_new = True
        await asyncio.sleep(stroke.seconds)
        slot.model.swallows_new = False

    async def _restart_postgres(self, _: Slot, stroke: Stroke) -> None:
        async with self._database:
            await self._stack.postgres.stop()
            await asyncio.sleep(stroke.seconds / 4)
            await self._stack.postgres.start()

    async def _crash_postgres(self, _: Slot, __: Stroke) -> None:
        """Kill a server process: Postgres ends all connections, and recovers from its log."""
        async with self._database:
            with contextlib.suppress(psycopg.OperationalError, ProcessLookupError):
                async with database(self._stack.admin_url) as db:
                    os.kill(db.info.backend_pid, signal.SIGKILL)


def _is_dispatch(frame: Frame) -> bool:
    return bool(frame["event"] == "broadcast" and frame["payload"]["event"] == "job")


async def _during(stroke: Stroke, faults: Rest | Realtime, **values: object) -> None:
    """Set these fields of `faults`, and reset them when the stroke is over."""
    for name, value in values.items():
        setattr(faults, name, value)
    await asyncio.sleep(stroke.seconds)
    for name in values:
        setattr(faults, name, getattr(type(faults)(), name))


async def _refuse(stroke: Stroke, proxy: Proxy | TcpProxy) -> None:
    await proxy.refuse()
    await asyncio.sleep(stroke.seconds)
    await proxy.listen()
