"""The loop: claims what there is to do, keeps leases and checkpoints beating, writes results, drains.

One task each: the claims, `_beat`, the results on their way to the database, `_listen` (what the inbox hears), and one
for every job in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bridge import turn
from bridge.claims import Claims
from bridge.errors import HandlerFailed, StoreError, Unstorable
from bridge.functions import Functions
from bridge.inbox import Cancel, Inbox, Work
from bridge.metrics import Metrics
from bridge.model import Answers, Claim, Job, Result
from bridge.outbox import Outbox
from bridge.results import Results
from bridge.settings import Settings
from bridge.store import CALL_SECONDS, TRIES, Store
from bridge.stream import Stream
from bridge.watchdog import Watchdog

log = logging.getLogger(__name__)

# Questions that were heard of lately: postgres_changes tells of each once more.
RECENT = 10_000
# A first attempt that waited longer than this until a sweep found it was announced in vain.
ANNOUNCED_MS = 2_000
# A lease is beaten at least so often while it lasts: the database extends it when a quarter has passed.
LEASE_SHARE = 6
# How long to wait before a refused failure is told once more.
UNSTORABLE_SECONDS = 5.0
# How long a cancel is remembered whose job is not in hand.
CANCEL_SECONDS = 10.0
# After the drain, results of what was released are still written for this long.
RELEASE_SECONDS = 10.0
# A claim under way when the drain is over is still waited for: the store gives it up by then.
LATE_CLAIM_SECONDS = TRIES * CALL_SECONDS


@dataclass(slots=True)
class Hand:
    """A job in hand: from its claim until the database has its result, or until it is lost."""

    job: Job
    stream: Stream
    began: float
    beaten_at: float
    started: bool = False
    again: bool = False  # it was announced once more while it was in hand
    task: asyncio.Task[None] | None = None
    stop: Literal["cancelled", "released", "lost"] | None = None


class Worker:
    """Everything a worker has in hand. `run` returns when it has drained."""

    def __init__(self, settings: Settings, store: Store, functions: Functions, name: str, watchdog: Watchdog) -> None:
        self.name = name
        self.settings = settings
        self.metrics = Metrics()
        self.inbox = Inbox(settings.realtime_url, settings.supabase_key, self.metrics.resubscriptions.inc)
        self.outbox = Outbox(settings, self.metrics)
        self.hands: dict[str, Hand] = {}
        self.claims = Claims(settings, self._slots, self._ask, self._claimed)
        self._watchdog = watchdog
        self._store = store
        self._functions = functions
        self._busy = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._cancels: dict[str, float] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._results = Results(store, self._answered, settings.sweep_seconds)
        self._draining = asyncio.Event()
        self._is_releasing = False
        self._jobs = asyncio.TaskGroup()
        self._errands: set[asyncio.Task[None]] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether all that was heard so far has led to a claim that was answered."""
        return self.inbox.signals.empty() and self.claims.is_waiting

    @property
    def is_draining(self) -> bool:
        """Whether no more is claimed."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Claim no more; `run` returns when what is in hand has ended, or after DRAIN_SECONDS."""
        self._draining.set()
        self.claims.stop()

    async def run(self) -> None:
        """Work until `drain` is called and done. An error of the loop itself is raised, in a group."""
        loops = {
            "inbox": self.inbox.run,
            "outbox": self.outbox.run,
            "listen": self._listen,
            "tick": self._tick,
            "claim": self.claims.run,
            "beat": self._beat,
            "finish": self._results.run,
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop(), name=name) for name, loop in loops.items()]
            try:
                async with self._jobs:
                    try:
                        await self._drained()
                    finally:
                        for job in [hand.task for hand in self.hands.values()] + list(self._errands):
                            if job is not None:
                                job.cancel()
            finally:
                for task in tasks:
                    task.cancel()

    async def _drained(self) -> None:
        await self._draining.wait()
        log.info("draining", extra={"in_hand": len(self.hands)})
        await _within(CALL_SECONDS, self.claims.ended.wait())  # a claim under way may bring work, which is drained too
        await _within(self.settings.drain_seconds, self._empty.wait())
        self._is_releasing = True  # what a claim brings from here on as well
        for hand in list(self.hands.values()):
            self._stop(hand, "released")
        await _within(LATE_CLAIM_SECONDS, self.claims.ended.wait())
        await _within(RELEASE_SECONDS, self._empty.wait())
        try:
            await self._store.leave()
        except StoreError as error:
            log.warning("leave: %s", error)

    # -- what the inbox hears ----------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            signal = await self.inbox.signals.get()
            if isinstance(signal, Cancel):
                self._cancel(signal.message_id)
            elif self._is_news(signal):
                self.claims.hear(signal.source, signal.xid, self.outbox.workers)

    def _cancel(self, message_id: str) -> None:
        if (hand := self.hands.get(message_id)) is not None:
            self._stop(hand, "cancelled")
            return
        # its claim's answer may be on the way
        now = time.monotonic()
        self._cancels = {id_: at for id_, at in self._cancels.items() if now - at < CANCEL_SECONDS}
        self._cancels[message_id] = now

    def _is_news(self, work: Work) -> bool:
        """Whether it tells of more than work in hand, or of a row that was heard of before."""
        if not work.message_ids:
            return True
        for hand in (self.hands[message_id] for message_id in work.message_ids if message_id in self.hands):
            hand.again |= work.source == "broadcast"
        fresh = [
            message_id
            for message_id in work.message_ids
            if message_id not in self.hands and not (work.source == "changes" and message_id in self._recent)
        ]
        self._recent.update(dict.fromkeys(fresh))
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return bool(fresh)

    async def _tick(self) -> None:
        """Feed the watchdog, as long as claims are made."""
        while True:
            if not self.claims.is_late:
                self._watchdog.feed()
            await asyncio.sleep(min(1.0, self.settings.sweep_seconds / 4))

    # -- claim -------------------------------------------------------------------------------------

    def _slots(self) -> int:
        return self.settings.concurrency - len(self.hands)

    async def _ask(self, slots: int) -> Claim:
        return await self._store.claim(slots, list(self.hands))

    def _claimed(self, claim: Claim, source: str) -> None:
        now = time.monotonic()
        self.metrics.claims.labels(source).inc()
        self.outbox.workers = claim.workers
        for job in claim.jobs:
            self._take(job, now)
        if source == "sweep" and any(job.attempt == 1 and job.ready_ms > ANNOUNCED_MS for job in claim.jobs):
            self.metrics.missed_wakeups.inc()
            log.warning("the sweep found work that nobody announced")
            self.inbox.distrust()

    def _take(self, job: Job, now: float) -> None:
        if (known := self.hands.get(job.message_id)) is not None:
            known.again = True  # another attempt, while the end of the last one is still being told
            return
        stream = self.outbox.open(job)
        hand = self.hands[job.message_id] = Hand(job, stream, began=now, beaten_at=now)
        self.metrics.claimed.inc()
        self.metrics.takeovers.inc(job.taken_over)
        self.metrics.queue_seconds.observe(job.queued_ms / 1000)
        self._busy.set()
        self._empty.clear()
        self.claims.slots_changed()
        hand.task = self._jobs.create_task(self._work(hand), name=f"job {job.message_id}")
        if self._cancels.pop(job.message_id, None) is not None:
            self._stop(hand, "cancelled")
        elif self._is_releasing:
            self._stop(hand, "released")

    # -- a job in hand -----------------------------------------------------------------------------

    async def _work(self, hand: Hand) -> None:
        job, hand.started = hand.job, True
        if job.cancel:  # taken over after its user cancelled it: the text that is there stays
            self._put(hand, Result(job.message_id, job.attempt, "cancelled"))
            return
        try:
            if hand.stop is not None:  # asked for before it began
                raise asyncio.CancelledError
            result = await turn.answer(job, hand.stream, self.outbox, self._functions, self.settings, hand.began)
        except asyncio.CancelledError:
            result = await self._stopped(hand)
        except Exception as error:  # a fault of ours with this one job: it must not end the others
            result = turn.failure(job, None, self.settings, hand.began, error)
        self._put(hand, result)

    async def _stopped(self, hand: Hand) -> Result:
        """The result of a job that was cancelled; raises CancelledError if it is the worker that leaves."""
        job = hand.job
        if hand.stop is None:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            error = HandlerFailed("internal", "Something went wrong while answering.", detail="it cancelled itself")
            return turn.failure(job, hand.stream, self.settings, hand.began, error)
        if hand.stop == "released":
            run = turn.measure(job, hand.stream, hand.began, turn.spent(job, hand.stream))
            return Result(job.message_id, job.attempt, "released", run=run)
        if hand.stop == "cancelled":
            await self.outbox.flush(hand.stream)
        return turn.stopped(job, hand.stream, hand.began)  # of a lost one, the database keeps what was spent alone

    def _stop(self, hand: Hand, reason: Literal["cancelled", "released", "lost"]) -> None:
        if hand.stop is not None or hand.task is None or hand.task.done():
            return
        hand.stop = reason
        if hand.started:  # a task that is cancelled before its first step would never say how it ended
            hand.task.cancel()

    def _forget(self, hand: Hand) -> None:
        self.outbox.close(hand.stream)
        if self.hands.get(hand.job.message_id) is hand:
            del self.hands[hand.job.message_id]
            if hand.again:
                self.claims.wake("broadcast")
        self.claims.slots_changed()
        if not self.hands:
            self._busy.clear()
            self._empty.set()

    # -- leases and checkpoints ----------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await self._busy.wait()
            await asyncio.sleep(min(self.settings.checkpoint_seconds, self.settings.lease_seconds / LEASE_SHARE))
            now = time.monotonic()
            items = []
            beaten = []
            for hand in self.hands.values():
                item = self.outbox.checkpoint(hand.stream)
                if item.seq is not None or now - hand.beaten_at > self.settings.lease_seconds / LEASE_SHARE:
                    items.append(item)
                    beaten.append(hand)
            if not items:
                continue
            try:
                answers = await self._store.beat(items)
            except StoreError as error:
                log.warning("beat: %s", error)
                for hand in beaten:
                    hand.stream.forget_checkpoint()
                continue
            self._outlook(answers)
            for hand in beaten:
                state = answers.states.get(hand.job.message_id)
                if state is not None:
                    hand.beaten_at = now
                if state == "cancel":
                    self._stop(hand, "cancelled")
                elif state == "lost" and hand.task is not None and not hand.task.done():
                    log.warning("lease lost", extra=_about(hand.job))
                    self._stop(hand, "lost")

    def _outlook(self, answers: Answers) -> None:
        self.outbox.workers = answers.workers
        self.claims.wake_in(answers.next_in)
        self.claims.look(ready=answers.ready)

    # -- results -------------------------------------------------------------------------------------

    def _put(self, hand: Hand, result: Result, after: float = 0) -> None:
        user_id = hand.job.turn.user_id if hand.job.turn is not None else None
        self._results.put(replace(result, user_id=user_id), after)

    def _answered(self, batch: Sequence[Result], answers: Answers | None) -> None:
        if answers is not None:
            self._outlook(answers)
        for result in batch:
            hand = self.hands.get(result.message_id)
            if hand is None or hand.job.attempt != result.attempt:
                continue
            state = answers.states.get(result.message_id) if answers is not None else None
            if state is None:
                # refused as a whole, whatever is in it: end it as failed with nothing of it, until that is taken
                error = Unstorable("unstorable", "The reply could not be stored.")
                failure = turn.failure(hand.job, None, self.settings, hand.began, error)
                self._put(hand, failure, after=0 if result.outcome != "failed" else UNSTORABLE_SECONDS)
            else:
                self._ended(hand, result, state)

    def _ended(self, hand: Hand, result: Result, state: str) -> None:
        self._forget(hand)
        self.metrics.attempt_ended(result, state)
        log.info(
            "attempt ended",
            extra=_about(hand.job) | {"outcome": result.outcome, "state": state, "duration_ms": result.run.duration_ms},
        )
        session = hand.job.turn.session if hand.job.turn is not None else None
        if state == "ok" and result.outcome == "done" and result.text and session is not None and not session.title:
            self._errand(turn.name_session(hand.job, result.text, self._functions, self._store))

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done on the side; it ends with the worker."""
        if self.is_draining:
            work.close()
            return
        task = self._jobs.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)


async def _within(seconds: float, waiting: Awaitable[object]) -> None:
    """Wait so long at the most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting


def _about(job: Job) -> dict[str, object]:
    session_id = job.turn.session.id if job.turn is not None else None
    return {"message_id": job.message_id, "session_id": session_id, "attempt": job.attempt}
