"""Decides when to claim: at a wake-up, when something falls due, when a slot becomes free, or else at the sweep.

A worker sends one claim at a time. A wake-up during a claim leads to another one; without a free slot it waits.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence

from bridge.breaker import Breakers
from bridge.clock import DatabaseClock
from bridge.errors import StoreError
from bridge.jobs import Jobs
from bridge.metrics import Metrics
from bridge.model import Claim, Job, QueueHints, Snapshot
from bridge.rest import CALL_SECONDS, TRIES
from bridge.settings import Settings
from bridge.store import Store

log = logging.getLogger(__name__)

# How long to wait before claiming again when Realtime has announced a commit that is not visible yet.
UNSEEN_SECONDS = 0.02
# When to forget such a commit: a database that lost its last commits will never show it.
LONGEST_UNSEEN_SECONDS = 10.0
# How long to wait for a job that is due and was not returned: another transaction has it locked.
LOCKED_SECONDS = 0.5
# How long not to claim again for jobs that are ready, and that the last claim has left, although it had room: they are
# locked, or better left to other workers.
READY_SECONDS = 2.0
# Every worker is woken by new work. In a larger fleet about this many claim at once, which leaves one question in 3,000
# without a prompt claim; the others claim a little later, once for everything announced meanwhile.
PROMPT_WORKERS = 8
STAGGER_SECONDS = (0.5, 2.0)
# A claim asks for no more than this: each job can bring 768 KiB, and the server has 6 s for the whole answer. After a
# failure the next claim asks for half as many, then for one more each time.
MOST_SLOTS = 32
# One of so many slots is only for users who have nothing running and little waiting: there is room for who comes next.
RESERVED_SHARE = 4
# How long the hints of other calls can stand in for claims, however long leases are.
LONGEST_SECONDS = 30.0
# After this many sweeps without a turn of the event loop, or without a claim, something is wrong.
PATIENCE_SWEEPS = 3
# If a sweep finds a first attempt that has been ready for longer than this, its announcement was lost.
ANNOUNCED_MS = 2_000


class Claims:
    """Claims jobs of these functions until `stop` is called.

    `on_missed_wakeup`: a sweep has found work that was never announced, or a dispatch was not confirmed in time.
    `hears`: whether jobs can be dispatched to this worker. `on_watches`: whether it hears of inserts by
    postgres_changes. `on_orphans`: there are objects to remove.
    """

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        functions: Sequence[str],
        breakers: Breakers,
        settings: Settings,
        metrics: Metrics,
        on_missed_wakeup: Callable[[], None],
        hears: Callable[[], bool] = lambda: False,
        on_watches: Callable[[bool], None] = lambda watches: None,
        on_orphans: Callable[[], None] = lambda: None,
    ) -> None:
        self.fleet_size = 1  # live workers, as the database last reported
        self.last_answer_at: float | None = None  # monotonic: when the worker last learnt what there is to claim
        self.ended = asyncio.Event()
        self.clock = DatabaseClock()
        self._hears = hears
        self._on_watches = on_watches
        self._on_orphans = on_orphans
        self._store = store
        self._jobs = jobs
        self._functions = functions
        self._breakers = breakers
        self._left_ready = False  # the last claim had room for more, and left it
        self._is_held_back = False  # there is more to claim when a reply has ended
        self._has_ended = False  # one has, since the last claim was sent
        self._settings = settings
        self._metrics = metrics
        self._on_missed_wakeup = on_missed_wakeup
        self._claimed_at = time.monotonic()
        self._claim_by = math.inf
        self._is_claiming = False
        self._most = MOST_SLOTS
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._source = "start"
        self._wake.set()
        self._due: asyncio.TimerHandle | None = None
        self._lease: asyncio.TimerHandle | None = None  # when the next lease ends, as the newest answer said
        self._newest_at = -math.inf  # when that answer was made
        self._unseen: dict[int, float] = {}  # by transaction, when it was announced

    @property
    def is_waiting(self) -> bool:
        """Whether every wake-up so far has led to a claim that was answered."""
        return not self._wake.is_set() and not self._is_claiming

    @property
    def is_late(self) -> bool:
        """Whether a claim should have begun or ended by now."""
        return time.monotonic() > self._claim_by

    def wake(self, source: str) -> None:
        """Claim as soon as there is a slot."""
        self._source = source
        self._wake.set()

    def on_work(self, source: str, xid: int | None) -> None:
        """There is news, from the transaction `xid` if the event named one."""
        if random.random() * self.fleet_size >= PROMPT_WORKERS:
            self.wake_in(random.uniform(*STAGGER_SECONDS))
            return
        if xid is not None:
            self._unseen[xid] = time.monotonic()
        self.wake(source)

    def on_hints(self, hints: QueueHints) -> None:
        """Another call reported the state of the queue. If nothing is ready, the sweep can wait."""
        self._take_hints(hints)
        if hints.ready is False:
            self.last_answer_at = time.monotonic()
        elif hints.ready and self._jobs.free_slots and not self._is_held_back:
            pause = self._claimed_at + READY_SECONDS - time.monotonic() if self._left_ready else 0.0
            if pause > 0:
                self.wake_in(pause)
            else:
                self.wake("ready")

    def _take_hints(self, hints: QueueHints, *, is_locked: bool = False) -> None:
        """`is_locked`: what is due now was not returned, as another transaction has it."""
        self.fleet_size = hints.fleet_size
        self._on_watches(hints.watches)
        if hints.orphans:
            self._on_orphans()
        if hints.missed:
            self._metrics.missed_wakeups.inc()
            log.warning("the database took this worker for one that hears nothing")
            self._on_missed_wakeup()
        # the earliest time wins: an answer may not see yet what a finish at the same moment has put off
        self.wake_in(LOCKED_SECONDS if is_locked and hints.next_in == 0 else hints.next_in)
        if hints.at is not None:
            self.clock.on_answer(hints.at)
            if hints.at < self._newest_at:  # a later answer has overtaken it
                return
            self._newest_at = hints.at
        if hints.tells_leases:
            self._claim_at_lease_end(LOCKED_SECONDS if is_locked and hints.lease_in == 0 else hints.lease_in)

    def _claim_at_lease_end(self, seconds: float | None) -> None:
        """A newer answer replaces what an older one said, as most leases are extended."""
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None
        if seconds is not None:
            self._lease = asyncio.get_running_loop().call_at(self._at(seconds), self.wake, "due")

    def wake_in(self, seconds: float | None) -> None:
        """Claim after this time, or earlier if an earlier call said so."""
        if seconds is None:
            return
        at = self._at(seconds)
        if self._due is not None:
            if self._due.when() <= at:
                return
            self._due.cancel()
        self._due = asyncio.get_running_loop().call_at(at, self._fall_due)

    def _at(self, seconds: float) -> float:
        # a little late, differently in each worker: one takes it, and the others need not claim at the same moment
        return asyncio.get_running_loop().time() + seconds + random.uniform(0, 0.3 if seconds > 1 else 0.03)

    def on_ended(self) -> None:
        """A reply has ended: its slot, and its user's share, are free."""
        self._has_ended = True  # the claim that is running may not have seen it
        if self._is_held_back:
            self.wake("more")

    def _fall_due(self) -> None:
        self._due = None
        self.wake("due")

    def stop(self) -> None:
        """Start no more claims; `ended` is set when the last one was answered."""
        self._stopping.set()
        self._wake.set()
        self._jobs.has_room.set()  # a claim that waits for room ends

    async def run(self) -> None:
        """Claim until `stop` is called."""
        try:
            pause = 0.0
            while True:
                source = await self._woken()
                if self._stopping.is_set():
                    break
                pause = 0.0 if await self._claim(source) else await self._rest(pause)
        finally:
            self._claim_by = math.inf
            for timer in (self._due, self._lease):
                if timer is not None:
                    timer.cancel()
            self.ended.set()

    async def _claim(self, source: str) -> bool:
        """Claim once. False if there was no answer: try again."""
        self._wake.clear()  # a wake-up from here on leads to another claim
        free = self._jobs.free_slots
        slots = min(free, self._most)
        # a quarter of all slots is only for users who have asked little
        reserve = min(slots, max(0, self._settings.concurrency // RESERVED_SHARE - (free - slots)))
        plan = self._breakers.plan()
        was_held_back, self._has_ended = self._is_held_back or bool(plan.paused), False
        self._claim_by = time.monotonic() + 2 * TRIES * CALL_SECONDS
        self._is_claiming = True
        capacity = self._settings.concurrency if self._hears() else 0
        try:
            claim = await self._store.claim(slots, self._jobs.question_ids, self._functions, reserve, plan, capacity)
        except StoreError as error:
            log.warning("claim: %s", error)
            self._most = max(1, self._most // 2)
            self.wake(source)
            return False
        finally:
            self._is_claiming = False
        self._most = min(self._most + 1, MOST_SLOTS)
        self.last_answer_at = self._claimed_at = time.monotonic()
        self._take_hints(claim.hints, is_locked=len(claim.jobs) < slots)
        self._breakers.on_elsewhere(claim.elsewhere)
        self.wake_in(self._breakers.next_probe_in)
        self._left_ready = bool(claim.hints.ready) and len(claim.jobs) < slots
        self._take(claim, source, was_held_back=was_held_back)
        self._claim_again_for_unseen(claim.snapshot)
        self._is_held_back = claim.is_held_back
        if len(claim.jobs) >= slots or (claim.is_held_back and self._has_ended):
            self.wake("more")  # waits for a free slot
        return True

    def _take(self, claim: Claim, source: str, *, was_held_back: bool) -> None:
        self._metrics.claims.labels(source).inc()
        for job in claim.jobs:
            self._jobs.add(job)
        is_news = source == "sweep" and not was_held_back and not claim.hints.missed
        if is_news and any(self._was_missed(job) for job in claim.jobs):
            self._metrics.missed_wakeups.inc()
            log.warning("the sweep found work that was never announced")
            self._on_missed_wakeup()

    def _was_missed(self, job: Job) -> bool:
        """Whether a wake-up should have brought this job long ago. One that no worker can answer had to wait."""
        is_ours = job.turn is None or job.turn.function in self._functions
        return is_ours and job.attempt == 1 and job.ready_ms > ANNOUNCED_MS

    async def _rest(self, pause: float) -> float:
        """Wait after a failure, longer each time, up to a sweep; returns the pause."""
        pause = min(max(0.25, pause * 2), self._settings.sweep_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.5, 1)):
                await self._stopping.wait()
        return pause

    def _claim_again_for_unseen(self, snapshot: Snapshot | None) -> None:
        """Claim again for work that was announced a moment before its transaction became visible."""
        since = time.monotonic() - LONGEST_UNSEEN_SECONDS
        seen = snapshot.sees if snapshot is not None else lambda xid: True
        self._unseen = {xid: at for xid, at in self._unseen.items() if at > since and not seen(xid)}
        if self._unseen:
            self.wake_in(UNSEEN_SECONDS)

    async def _woken(self) -> str:
        """Wait for a reason to claim, and for a free slot; returns the reason."""
        source, share = "sweep", random.uniform(0.9, 1)
        while True:
            now = time.monotonic()
            self._claim_by = now + PATIENCE_SWEEPS * self._settings.sweep_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._sweep_at(share) - now)):
                    await self._wake.wait()
                    source = self._source
                    break
            if time.monotonic() >= self._sweep_at(share):
                break
        # with no free slot, a sweep still asks for jobs that this worker holds without knowing it
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._stopping.is_set() else self._settings.sweep_seconds):
                await self._jobs.has_room.wait()
        return source

    def _sweep_at(self, share: float) -> float:
        """When to claim without a wake-up: a sweep after the last answer, at the latest a lease after the last claim.

        Only a claim finds jobs that this worker holds without knowing it, and transactions that were slow to commit.
        """
        sweep = self._settings.sweep_seconds * share
        answered_at = max(self._claimed_at, self.last_answer_at or 0.0)
        longest = max(sweep, min(self._settings.lease_seconds, LONGEST_SECONDS))
        return min(answered_at + sweep, self._claimed_at + longest)
