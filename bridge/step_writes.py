"""Sends steps to the database: batched with whatever ended meanwhile, and repeated until they are acknowledged."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence

from bridge.errors import StoreError, StoreRefused
from bridge.jobs import Jobs, RunningJob, StopReason
from bridge.model import Step, StepAck, StepWrite
from bridge.store import Store

log = logging.getLogger(__name__)

BATCH = 32
BATCH_BYTES = 1 << 20  # about: of texts and values
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# Why an attempt has to stop, by the state of its step. One that was given goes on with the next attempt.
_REASONS: Mapping[str, StopReason] = {"lost": "lost", "cancel": "cancelled", "given": "released"}


class StepWrites:
    """A queue of steps to remember. `run` sends them until cancelled.

    A step of an attempt that has to stop is never acknowledged: its job is stopped.
    """

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs
        self._queue: asyncio.Queue[tuple[StepWrite, asyncio.Future[str]]] = asyncio.Queue()
        self._group = asyncio.TaskGroup()
        self._used_up: set[str] = set()

    async def read(self, running: RunningJob) -> Sequence[Step]:
        """What earlier attempts have done. Asks until there is an answer; a job that was lost is stopped."""
        job, pause = running.job, FIRST_PAUSE_SECONDS
        while True:
            try:
                steps = await self._store.steps(job.question_id, job.attempt)
                if steps is not None:
                    return steps
                if not running.may_be_invisible:
                    self._stop(job.question_id, job.attempt, "lost")
                    await _for_ever()
            except StoreError as error:
                log.warning("steps: %s", error, extra=running.log_fields)
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def remember(self, write: StepWrite) -> str:
        """Write a step: `ok`, or the limit that refuses it. Does not return if the attempt has to stop."""
        acknowledged: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((write, acknowledged))
        return await acknowledged

    def has_used_up(self, question_id: str) -> bool:
        """Whether the question's user has used up the tokens of the day."""
        return question_id in self._used_up

    def forget(self, question_id: str) -> None:
        """An attempt has ended."""
        self._used_up.discard(question_id)

    async def run(self) -> None:
        """Send until cancelled."""
        async with self._group:
            while True:
                batch = [await self._queue.get()]
                size = _size(batch[0][0])
                while len(batch) < BATCH and size < BATCH_BYTES and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                    size += _size(batch[-1][0])
                if not await self._send(batch):
                    self._group.create_task(self._send_until_answered(batch))

    async def _send_until_answered(self, batch: list[tuple[StepWrite, asyncio.Future[str]]]) -> None:
        pause = FIRST_PAUSE_SECONDS
        while batch:
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            # whose attempt has ended meanwhile needs no step any more
            batch = [(write, acknowledged) for write, acknowledged in batch if not acknowledged.done()]
            if not batch or await self._send(batch):
                return
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _send(self, batch: list[tuple[StepWrite, asyncio.Future[str]]]) -> bool:
        """Send a batch; False if there was no answer."""
        try:
            ack = await self._store.remember([write for write, _ in batch])
        except StoreRefused:
            ack = StepAck({(write.question_id, write.name): "refused" for write, _ in batch}, frozenset())
        except StoreError as error:
            log.warning("step: %s", error)
            return False
        self._used_up |= ack.used_up
        busy = []
        for write, acknowledged in batch:
            state = ack.states.get((write.question_id, write.name), "refused")
            running = self._jobs.get(write.question_id, write.attempt)
            if state == "busy" or (state == "lost" and running is not None and running.may_be_invisible):
                busy.append((write, acknowledged))
            elif state in ("lost", "cancel", "given"):
                self._stop(write.question_id, write.attempt, state)
            elif not acknowledged.done():
                if state == "ok" and running is not None and write.settled.seq is not None:
                    running.reply.stream.on_stored(write.settled.seq, write.settled.parts)
                acknowledged.set_result(state)
        if busy:  # its user keeps it locked, usually for a moment
            self._group.create_task(self._send_until_answered(busy))
        return True

    def _stop(self, question_id: str, attempt: int, state: str) -> None:
        running = self._jobs.get(question_id, attempt)
        if running is not None:
            self._jobs.stop(running, _REASONS[state])


def _size(write: StepWrite) -> int:
    return len(write.settled.text) + len(repr(write.value))


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
