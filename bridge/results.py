"""Results on their way to the database: batched with what ended meanwhile, and insisted on until they are answered."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from bridge.errors import StoreError, StoreRefused
from bridge.model import Answers, Result
from bridge.store import Store

log = logging.getLogger(__name__)

BATCH = 64
FIRST_PAUSE_SECONDS = 0.2


class Results:
    """A queue of results. `on_answer` hears of each batch what the database said; a refused one has no state."""

    def __init__(
        self, store: Store, on_answer: Callable[[Sequence[Result], Answers | None], None], longest_pause: float
    ) -> None:
        self._store = store
        self._on_answer = on_answer
        self._longest_pause = longest_pause
        self._queue: asyncio.Queue[Result] = asyncio.Queue()
        self._group = asyncio.TaskGroup()

    def put(self, result: Result, after: float = 0) -> None:
        """Have a result written, or put off so many seconds, while `run` runs."""
        if after > 0:
            self._group.create_task(self._put_off(result, after))
        else:
            self._queue.put_nowait(result)

    async def _put_off(self, result: Result, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._queue.put_nowait(result)

    async def run(self) -> None:
        """Write until cancelled."""
        async with self._group:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                if not await self._write(batch):
                    self._group.create_task(self._insist(batch))

    async def _insist(self, batch: list[Result]) -> None:
        """Try again until it is answered; leases beat meanwhile, so nobody else begins anew.

        A batch that fails again is parted: one result that takes too long must not hold up the others.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            if await self._write(batch):
                return
            if len(batch) > 1:
                half = len(batch) // 2
                for part in (batch[:half], batch[half:]):
                    self._group.create_task(self._insist(part))
                return
            pause = min(pause * 2, self._longest_pause)

    async def _write(self, batch: list[Result]) -> bool:
        try:
            answers: Answers | None = await self._store.finish(batch)
        except StoreRefused:
            answers = None  # the store said why
        except StoreError as error:
            log.warning("finish: %s", error)
            return False
        self._on_answer(batch, answers)
        return True
