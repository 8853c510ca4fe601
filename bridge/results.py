"""Sends results to the database: batched with whatever ended meanwhile, and repeated until they are acknowledged."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from bridge import turn
from bridge.claims import Claims
from bridge.errors import StoreError, StoreRefused, Unstorable
from bridge.jobs import Jobs, RunningJob
from bridge.model import BatchAck, Dispatch, Result
from bridge.settings import Settings
from bridge.store import Store

log = logging.getLogger(__name__)

BATCH = 64
FIRST_PAUSE_SECONDS = 0.2
# How long to wait before a result is sent again whose user keeps the session locked; usually for a moment.
FIRST_BUSY_SECONDS = 0.05
LONGEST_BUSY_SECONDS = 1.0
# How long to wait before a failure that was refused is sent again.
UNSTORABLE_SECONDS = 5.0


class Results:
    """A queue of results. `run` sends them until cancelled.

    `on_dispatch` gets the next question of a session, which comes with the answer.
    """

    def __init__(
        self, store: Store, jobs: Jobs, claims: Claims, settings: Settings, on_dispatch: Callable[[Dispatch], None]
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims
        self._on_dispatch = on_dispatch
        self._settings = settings
        self._queue: asyncio.Queue[Result] = asyncio.Queue()
        self._group = asyncio.TaskGroup()

    def enqueue(self, running: RunningJob, result: Result, after: float = 0) -> None:
        """Send a job's result, at once or `after` so many seconds."""
        running.report()
        asyncio.get_running_loop().call_later(after, self._queue.put_nowait, result)

    async def run(self) -> None:
        """Send until cancelled."""
        async with self._group:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                if not await self._send(batch):
                    self._group.create_task(self._send_until_answered(batch))

    async def _send_until_answered(self, batch: list[Result]) -> None:
        """Try again until there is an answer. A batch that fails again is split: one slow result delays no other."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            if await self._send(batch):
                return
            if len(batch) > 1:
                half = len(batch) // 2
                for part in (batch[:half], batch[half:]):
                    self._group.create_task(self._send_until_answered(part))
                return
            pause = min(pause * 2, self._settings.sweep_seconds)

    def _may_be_invisible(self, result: Result) -> bool:
        running = self._jobs.get(result.question_id, result.attempt)
        return running is not None and running.may_be_invisible

    async def _send(self, batch: Sequence[Result]) -> bool:
        """Send a batch; False if there was no answer."""
        batch = [replace(result, is_unconfirmed=self._may_be_invisible(result)) for result in batch]
        try:
            ack: BatchAck | None = await self._store.finish(batch)
        except StoreRefused:
            ack = None  # the store has logged why
        except StoreError as error:
            log.warning("finish: %s", error)
            return False
        for result in batch:
            running = self._jobs.get(result.question_id, result.attempt)
            if running is None:
                continue
            state = ack.states.get(result.question_id) if ack is not None else None
            if state == "busy":
                running.busy_pause = min(max(FIRST_BUSY_SECONDS, 2 * running.busy_pause), LONGEST_BUSY_SECONDS)
                self.enqueue(running, result, after=running.busy_pause * random.uniform(0.5, 1))
            elif state is not None:
                is_untitled = ack is not None and result.question_id in ack.untitled
                self._jobs.acknowledge(running, result, state, is_untitled=is_untitled)
            else:  # the database refuses all of it: end the attempt as failed, without content, until that is accepted
                refusal = Unstorable("unstorable", "The reply could not be stored.")
                refusal.usage = result.stats.usage
                failure = turn.failed(running, refusal, self._settings)
                self.enqueue(running, failure, after=UNSTORABLE_SECONDS if result.outcome == "failed" else 0)
        if ack is not None:
            for dispatch in ack.dispatches:
                self._on_dispatch(dispatch)
            self._claims.on_hints(ack.hints)  # last: the slots of these jobs are free now
        return True
