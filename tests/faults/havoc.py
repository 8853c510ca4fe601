"""Faults at random from a seed: which, to which worker, for how long and when are drawn before anything happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from yarl import URL

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.proxy import Frame, Proxy
from tests.faults.wire import Wire
from tests.support.database import database
from tests.support.workers import WorkerProcess

LEASE_SECONDS = 3
SETTINGS: Mapping[str, object] = {
    "lease_seconds": LEASE_SECONDS,
    "sweep_seconds": 2,
    "checkpoint_seconds": 0.3,
    "drain_seconds": 4,
    "concurrency": 16,
    # a question stands alone: BAML joins it with an unanswered one before it, whose script would count
    "history": 0,
    # a message's script alone decides how it ends, however many workers die of it
    "max_failures": 100,
    "first_token_seconds": 3,
    "idle_seconds": 2,
    "total_seconds": 30,
}


class Slot:
    """A place for a worker at a host that starts another one whenever one has ended."""

    def __init__(self, number: int, proxy: Proxy, wire: Wire, environment: Mapping[str, str], folder: Path) -> None:
        self.number = number
        self.proxy = proxy
        self.wire = wire
        self.boots = 0
        self.exits: Counter[int] = Counter()
        self.worker: WorkerProcess | None = None
        self.signalled = asyncio.Lock()  # one signal's story at a time
        self.logs: list[Path] = []
        self._environment = dict(environment) | {
            "SUPABASE_URL": proxy.url,
            "LLM_BASE_URL": f"http://127.0.0.1:{wire.port}/v1",
            "LLM_API_KEY": "key",
            "LLM_MODEL": "scripted",
        }
        self._folder = folder

    async def run(self) -> None:
        """Until cancelled: then the worker is killed."""
        try:
            while True:
                self.boots += 1
                log = self._folder / f"worker-{self.number}-{self.boots}.log"
                self.logs.append(log)
                self.worker = await WorkerProcess.start(self._environment, log, **SETTINGS)
                self.exits[await self.worker.process.wait()] += 1
        finally:
            if self.worker is not None and self.worker.runs:
                await self.worker.kill()

    def signal(self, number: signal.Signals) -> None:
        if self.worker is not None:
            self.worker.signal(number)


@asynccontextmanager
async def fleet(stack: Stack, model: ModelServer, count: int, folder: Path) -> AsyncIterator[list[Slot]]:
    """Workers, each behind a proxy of its own to Supabase and another to the model."""
    port = URL(model.url).port
    assert port is not None
    async with AsyncExitStack() as opened:
        slots = []
        for number in range(count):
            proxy = await opened.enter_async_context(Proxy(stack.environment["SUPABASE_URL"]))
            wire = await opened.enter_async_context(Wire("127.0.0.1", port))
            slots.append(Slot(number, proxy, wire, stack.environment, folder))
        tasks = [asyncio.create_task(slot.run()) for slot in slots]
        try:
            yield slots
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Stroke:
    """One fault: what, to which worker, after which pause, for how many seconds; `number` decides the rest."""

    kind: str
    slot: int
    pause: float
    seconds: float
    number: int


class Havoc:
    """Strikes until cancelled. Every fault ends by itself, within `LONGEST_SECONDS`."""

    LONGEST_SECONDS = 6.0

    def __init__(self, stack: Stack, slots: list[Slot], seed: int, pace: float) -> None:
        self.struck: Counter[str] = Counter()
        self._stack = stack
        self._slots = slots
        self._rng = random.Random(seed)
        self._pace = pace
        self._database = asyncio.Lock()
        self._kinds: dict[str, tuple[float, Callable[[Slot, Stroke], Coroutine[Any, Any, None]]]] = {
            "worker killed": (3, self._kill),
            "worker frozen": (3, self._freeze),
            "worker restarted": (2, self._restart),
            "sockets closed": (2, self._close_sockets),
            "sockets reset": (1, self._reset_sockets),
            "sockets swallowed": (1, self._swallow_sockets),
            "realtime dead but answering pings": (1, self._deafen),
            "realtime refused": (1, self._refuse_realtime),
            "channels ended": (2, self._end_channels),
            "joins denied": (1, self._deny),
            "events lost": (2, self._lose_events),
            "REST answers 5xx": (2, self._answer_5xx),
            "REST hangs": (1, self._hang),
            "REST resets": (1, self._reset_rest),
            "Supabase refused": (1, self._refuse),
            "answers lost": (5, self._lose_answers),
            "model reset": (2, self._reset_model),
            "model swallowed": (1, self._swallow_model),
            "model refused": (1, self._refuse_model),
            "Postgres restarted": (0.7, self._restart_postgres),
            "Postgres crashed": (0.5, self._crash_postgres),
        }

    def draw(self) -> Stroke:
        """The next fault. It depends on the seed and on the faults before it alone."""
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
        """Strike until it is over; then wait for the faults that are on."""
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                stroke = self.draw()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(stroke.pause):
                        await over.wait()
                        return
                self.struck[stroke.kind] += 1
                group.create_task(self._kinds[stroke.kind][1](self._slots[stroke.slot], stroke))

    # -- workers

    async def _kill(self, slot: Slot, _: Stroke) -> None:
        async with slot.signalled:
            slot.signal(signal.SIGKILL)

    async def _freeze(self, slot: Slot, stroke: Stroke) -> None:
        async with slot.signalled:
            slot.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(stroke.seconds)
            finally:
                slot.signal(signal.SIGCONT)

    async def _restart(self, slot: Slot, _: Stroke) -> None:
        async with slot.signalled:
            slot.signal(signal.SIGTERM)

    # -- Realtime

    async def _close_sockets(self, slot: Slot, stroke: Stroke) -> None:
        await slot.proxy.close_sockets((1000, 1001, 1012)[stroke.number % 3])

    async def _reset_sockets(self, slot: Slot, _: Stroke) -> None:
        slot.proxy.reset_sockets()

    async def _swallow_sockets(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.swallow_sockets(way=("up", "down", "both")[stroke.number % 3])

    async def _deafen(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.realtime.deaf = True
        await asyncio.sleep(stroke.seconds)
        slot.proxy.realtime.deaf = False

    async def _refuse_realtime(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.realtime.resets = True
        slot.proxy.reset_sockets()
        await asyncio.sleep(stroke.seconds)
        slot.proxy.realtime.resets = False

    async def _end_channels(self, slot: Slot, stroke: Stroke) -> None:
        event = ("phx_close", "phx_error", "system", "expiry")[stroke.number % 4]
        topic = ("bridge:", "session:")[stroke.number // 4 % 2]
        await slot.proxy.end_topics(topic, event)  # type: ignore[arg-type]  # its words

    async def _deny(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.realtime.denies = ("bridge:", "session:")[stroke.number % 2]
        await slot.proxy.close_sockets(1012)
        await asyncio.sleep(stroke.seconds)
        slot.proxy.realtime.denies = None

    async def _lose_events(self, slot: Slot, stroke: Stroke) -> None:
        rng = random.Random(stroke.number)

        def loses(_: Frame) -> bool:
            return rng.random() < 0.5

        slot.proxy.realtime.loses = loses
        await asyncio.sleep(stroke.seconds)
        slot.proxy.realtime.loses = None

    # -- REST

    async def _answer_5xx(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.rest.status = (500, 502, 503)[stroke.number % 3]
        await asyncio.sleep(stroke.seconds)
        slot.proxy.rest.status = None

    async def _hang(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.rest.hangs = True
        await asyncio.sleep(stroke.seconds)
        slot.proxy.rest.hangs = False

    async def _reset_rest(self, slot: Slot, stroke: Stroke) -> None:
        slot.proxy.rest.resets = True
        await asyncio.sleep(stroke.seconds)
        slot.proxy.rest.resets = False

    async def _refuse(self, slot: Slot, stroke: Stroke) -> None:
        await slot.proxy.refuse()
        await asyncio.sleep(stroke.seconds)
        await slot.proxy.listen()

    async def _lose_answers(self, slot: Slot, stroke: Stroke) -> None:
        name = ("bridge_claim", "bridge_beat", "bridge_finish")[stroke.number % 3]
        slot.proxy.rest.lose[name] += 1 + stroke.number // 3 % 5

    # -- the model

    async def _reset_model(self, slot: Slot, _: Stroke) -> None:
        slot.wire.reset_links()

    async def _swallow_model(self, slot: Slot, stroke: Stroke) -> None:
        slot.wire.swallow_links()
        slot.wire.swallows_new = True
        await asyncio.sleep(stroke.seconds)
        slot.wire.swallows_new = False

    async def _refuse_model(self, slot: Slot, stroke: Stroke) -> None:
        await slot.wire.refuse()
        await asyncio.sleep(stroke.seconds)
        await slot.wire.listen()

    # -- Postgres

    async def _restart_postgres(self, _: Slot, stroke: Stroke) -> None:
        async with self._database:
            await self._stack.postgres.stop()
            await asyncio.sleep(stroke.seconds / 4)
            await self._stack.postgres.start()

    async def _crash_postgres(self, _: Slot, __: Stroke) -> None:
        """Kill one of its processes: all connections are ended, and the log is replayed."""
        async with self._database:
            with contextlib.suppress(psycopg.OperationalError, ProcessLookupError):
                async with database(self._stack.admin_url) as db:
                    os.kill(db.info.backend_pid, signal.SIGKILL)
