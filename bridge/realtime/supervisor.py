"""Runs one session of a Realtime connection after another: whatever ends a session, the next one starts."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bridge.realtime.connection import JOIN_SECONDS

log = logging.getLogger(__name__)

# The hosted service answers a refused join after 5 s. With the longest pause and a join, wake-ups are back within 15 s
# after any fault ends.
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 5.0
# After a session that lasted this long the pause is short again: it was healthy, or the service ended it (after 15 s)
# because it does not hear the database yet. When it does, wake-ups must not wait for the end of a pause.
HEALTHY_SECONDS = 10.0

Session = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]


class Supervisor:
    """Keeps a session running, with a jittered pause between one and the next.

    `session(on_ready)` connects, calls `on_ready`, and returns or raises when anything is wrong. With `rejoin_seconds`,
    a session that has reached that age is replaced: it ends when its successor is ready, so that nothing is missed.
    """

    def __init__(self, name: str, session: Session, rejoin_seconds: float | None = None) -> None:
        self.name = name
        self.sessions = 0  # started so far
        self.on_restart: Callable[[], object] = lambda: None  # called for every session but the first
        self._session = session
        self._rejoin_seconds = rejoin_seconds
        self._restart = asyncio.Event()
        self._warned = ""  # what was last logged, since a session was ready
        self._running: dict[asyncio.Task[None], asyncio.Event] = {}  # each with the event that says it is ready

    @property
    def is_ready(self) -> bool:
        """Whether a session is connected and working."""
        return any(ready.is_set() for ready in self._running.values())

    def restart(self) -> None:
        """End the current session and start another. One that is not ready yet goes on."""
        if self.is_ready:
            self._restart.set()

    async def run(self) -> None:
        """Run sessions until cancelled."""
        backoff = FIRST_BACKOFF_SECONDS
        try:
            while True:
                started = time.monotonic()
                self._restart.clear()
                await self._run_one()
                was_healthy = time.monotonic() - started > HEALTHY_SECONDS
                backoff = FIRST_BACKOFF_SECONDS if was_healthy else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
                await asyncio.sleep(backoff * random.uniform(0.5, 1))
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    async def _run_one(self) -> None:
        """Run a session, and its successors when it gets too old, until one of them ends or a restart is requested."""
        current = self._start()
        while True:
            restart = asyncio.ensure_future(self._restart.wait())
            try:
                done, _ = await asyncio.wait(
                    {current, restart}, timeout=self._rejoin_seconds, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                restart.cancel()
            if done:
                break
            current = await self._replace(current)
        await self._end(current)

    def _start(self) -> asyncio.Task[None]:
        ready = asyncio.Event()

        def on_ready() -> None:
            ready.set()
            self._warned = ""
            log.info("%s: subscribed", self.name)

        if self.sessions:
            self.on_restart()
        self.sessions += 1
        task = asyncio.create_task(self._session(on_ready), name=self.name)
        self._running[task] = ready
        return task

    async def _replace(self, old: asyncio.Task[None]) -> asyncio.Task[None]:
        """Start a successor. If it becomes ready in time the old session ends, otherwise the successor does."""
        new = self._start()
        becoming_ready = asyncio.ensure_future(self._running[new].wait())
        try:
            await asyncio.wait({becoming_ready, new}, timeout=3 * JOIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            becoming_ready.cancel()
        loser = old if self._running[new].is_set() and not new.done() else new
        await self._end(loser)
        return new if loser is old else old

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            text = f"{type(error).__name__}: {error}"
            log.log(logging.DEBUG if text == self._warned else logging.WARNING, "%s: %s", self.name, text)
            self._warned = text
