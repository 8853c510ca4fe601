"""When to claim: woken by news, by something that falls due, by a slot that is free again, or else by the sweep.

Claims of a worker are serial. A wake-up that comes during one means another; one that finds no slot free waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable

from bridge.errors import StoreError
from bridge.model import Claim, Snapshot
from bridge.settings import Settings
from bridge.store import CALL_SECONDS, TRIES

log = logging.getLogger(__name__)

# How long to wait for a commit to be seen that Realtime told of already.
UNSEEN_SECONDS = 0.02
# How long it is waited for. A database that lost its last commits will not show it.
LONGEST_UNSEEN_SECONDS = 10.0
# How long to wait for what is due and did not come: somebody has it locked.
LOCKED_SECONDS = 0.5
# Every worker hears of new work. Of a larger fleet about so many claim at once, which leaves a question without one in
# 3,000; the others look a little later, once for all that they heard of meanwhile.
PROMPT_WORKERS = 8
LATER_SECONDS = (0.5, 2.0)
# A claim asks for no more than this: each job may bring 768 KiB, and the whole answer has 6 s at the server. One that
# failed is followed by one for half as many, and from then on by one more each time.
MOST_SLOTS = 32
# How long looks of other calls may stand in for claims, however long leases are.
LONGEST_SECONDS = 30.0
# Beyond so many sweeps without a turn of the loop, or without a look for work, something is wrong.
PATIENCE_SWEEPS = 3


class Claims:
    """Asks when there is a reason to: `ask` claims for so many slots, `take` gets what came and what woke it.

    `slots` tells how many more jobs the worker can work on.
    """

    def __init__(
        self,
        settings: Settings,
        slots: Callable[[], int],
        ask: Callable[[int], Awaitable[Claim]],
        take: Callable[[Claim, str], None],
    ) -> None:
        self.looked_at: float | None = None  # when the worker last knew what there is to claim
        self.ended = asyncio.Event()
        self._settings = settings
        self._slots = slots
        self._ask = ask
        self._take = take
        self._claimed_at = time.monotonic()
        self._claim_by = math.inf
        self._is_claiming = False
        self._most = MOST_SLOTS
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._source = "start"
        self._wake.set()
        self._free = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None
        self._unseen: dict[int, float] = {}  # by transaction, when it was heard of

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

    def hear(self, source: str, xid: int | None, workers: int) -> None:
        """There is news, from the transaction `xid` if that is told, and so many workers hear of it."""
        if random.random() * workers >= PROMPT_WORKERS:
            self.wake_in(random.uniform(*LATER_SECONDS))
            return
        if xid is not None:
            self._unseen[xid] = time.monotonic()
        self.wake(source)

    def wake_in(self, seconds: float | None) -> None:
        """Claim when something falls due. Answers may overtake each other, so the earliest time holds."""
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        # a little late, each worker differently: one of them takes it, the others need not ask at once
        at = loop.time() + seconds + random.uniform(0, 0.3 if seconds > 1 else 0.03)
        if self._due is not None:
            if self._due.when() <= at:
                return
            self._due.cancel()
        self._due = loop.call_at(at, self._fall_due)

    def _fall_due(self) -> None:
        self._due = None
        self.wake("due")

    def look(self, *, ready: bool | None) -> None:
        """Another call told whether there is something to claim (None: it did not). If not, the sweep can wait."""
        if ready is False:
            self.looked_at = time.monotonic()

    def slots_changed(self) -> None:
        """See whether a slot is free."""
        if self._slots() > 0 or self._stopping.is_set():
            self._free.set()
        else:
            self._free.clear()

    def stop(self) -> None:
        """Begin no more claims; `ended` is set when the last one was answered."""
        self._stopping.set()
        self._wake.set()
        self._free.set()

    async def run(self) -> None:
        """Claim until `stop` is called."""
        self.slots_changed()
        try:
            pause = 0.0
            while True:
                source = await self._woken()
                if self._stopping.is_set():
                    break
                pause = 0.0 if await self._claim(source) else await self._rest(pause)
        finally:
            self._claim_by = math.inf
            if self._due is not None:
                self._due.cancel()
            self.ended.set()

    async def _claim(self, source: str) -> bool:
        """Ask once. False if there was no answer: it is to be asked again."""
        self._wake.clear()  # a wake-up from here on means another claim
        slots = min(max(0, self._slots()), self._most)
        self._claim_by = time.monotonic() + 2 * TRIES * CALL_SECONDS
        self._is_claiming = True
        try:
            claim = await self._ask(slots)
        except StoreError as error:
            log.warning("claim: %s", error)
            self._most = max(1, self._most // 2)
            self.wake(source)
            return False
        finally:
            self._is_claiming = False
        self._most = min(self._most + 1, MOST_SLOTS)
        self.looked_at = self._claimed_at = time.monotonic()
        self.wake_in(LOCKED_SECONDS if claim.next_in == 0 and len(claim.jobs) < slots else claim.next_in)
        self._take(claim, source)
        self._look_again(claim.snapshot)
        if len(claim.jobs) >= slots:
            self.wake("more")  # waits for a free slot
        return True

    async def _rest(self, pause: float) -> float:
        """Wait after a failure, each time longer, a sweep at the most; gives the pause."""
        pause = min(max(0.25, pause * 2), self._settings.sweep_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.5, 1)):
                await self._stopping.wait()
        return pause

    def _look_again(self, snapshot: Snapshot | None) -> None:
        """Claim again for work that was announced a moment before its transaction could be seen."""
        since = time.monotonic() - LONGEST_UNSEEN_SECONDS
        self._unseen = {
            xid: at
            for xid, at in self._unseen.items()
            if snapshot is not None and not snapshot.sees(xid) and at > since
        }
        if self._unseen:
            self.wake_in(UNSEEN_SECONDS)

    async def _woken(self) -> str:
        """Wait for a reason to claim, and a slot to claim for; say which reason it was."""
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
        # with every slot taken a sweep still asks for what this worker holds without knowing it
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.sweep_seconds):
                await self._free.wait()
        return source

    def _sweep_at(self, share: float) -> float:
        """When to claim although nothing woke it: a sweep after the last look, but a lease after the last claim.

        Only a claim learns of what this worker holds without knowing it, and of what was long in coming.
        """
        sweep = self._settings.sweep_seconds * share
        looked_at = max(self._claimed_at, self.looked_at or 0.0)
        return min(looked_at + sweep, self._claimed_at + max(sweep, min(self._settings.lease_seconds, LONGEST_SECONDS)))
