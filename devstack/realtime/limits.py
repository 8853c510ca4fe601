"""What a project may ask of Realtime, and how the hosted service measures it (v2.129.8).

Rates are averages over the last minute, taken every 5 s, in 12 parts; a counter that has just begun averages over
what it has, and one that saw nothing for 5 minutes begins anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

TICK_SECONDS = 5.0
TICKS = 12
IDLE_TICKS = 60

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a project's plan; None: none. Two are the same in every plan, and no setting here.

    `events_per_second`: sends and deliveries of broadcasts; `presence_per_second`: the same of presence;
    `joins_per_second`: of channels; `clients`: connections with a joined channel at one time.
    """

    events_per_second: float | None = None
    presence_per_second: float | None = None
    joins_per_second: float | None = None
    clients: int | None = None


NO_LIMITS = Limits()
FREE = Limits(events_per_second=100, presence_per_second=20, joins_per_second=100, clients=200)


class Rate:
    """Counts something, and says whether there was too much of it. `clock` is in seconds."""

    def __init__(self, limit: float | None, clock: Clock = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._parts: deque[int] = deque(maxlen=TICKS)
        self._count = 0
        self._idle = 0
        self._average = 0.0
        self._next: float | None = None

    def add(self, count: int = 1) -> None:
        """Count."""
        if self._limit is not None:
            self._tick()
            self._count += count

    @property
    def average(self) -> float:
        """What came in a second, on average, as of the last tick."""
        self._tick()
        return self._average

    def is_exceeded(self) -> bool:
        """Say whether the average has reached the limit."""
        return self._limit is not None and self.average >= self._limit

    def _tick(self) -> None:
        now = self._clock()
        if self._next is None:
            self._next = now + TICK_SECONDS
        if now < self._next:
            return
        passed = int((now - self._next) / TICK_SECONDS) + 1
        self._next += passed * TICK_SECONDS
        for _ in range(min(passed, IDLE_TICKS + 1)):
            self._idle = 0 if self._count else self._idle + 1
            self._parts.append(self._count)
            self._count = 0
        if self._idle >= IDLE_TICKS:
            self._parts.clear()
            self._idle = 0
        self._average = sum(self._parts) / (len(self._parts) or 1) / TICK_SECONDS


class Window:
    """Allows so many calls in a span of time, which begins at the first call."""

    def __init__(self, calls: int, seconds: float, clock: Clock = time.monotonic) -> None:
        self._calls = calls
        self._seconds = seconds
        self._clock = clock
        self._count = 0
        self._ends = float("-inf")

    def allows(self) -> bool:
        """Take note of a call; False if it is one too many."""
        now = self._clock()
        if now > self._ends:
            self._count, self._ends = 0, now + self._seconds
        self._count += 1
        return self._count <= self._calls
