"""The Realtime limits of a plan, measured as the hosted service does (v2.129.8).

A rate is an average over the last minute: 12 intervals of 5 s, updated at the end of each. A new counter averages over
the intervals it has so far; a counter with no events for 5 minutes starts over.
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
    """The limits of a plan; None means unlimited. Limits that are the same in every plan are constants elsewhere.

    `events_per_second`: broadcasts sent and delivered. `presence_per_second`: the same for presence messages.
    `joins_per_second`: channel joins. `clients`: concurrent connections with at least one joined channel.
    """

    events_per_second: float | None = None
    presence_per_second: float | None = None
    joins_per_second: float | None = None
    clients: int | None = None


NO_LIMITS = Limits()
FREE = Limits(events_per_second=100, presence_per_second=20, joins_per_second=100, clients=200)


class Rate:
    """Measures a rate and compares it with a limit. `clock` returns seconds."""

    def __init__(self, limit: float | None, clock: Clock = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._intervals: deque[int] = deque(maxlen=TICKS)
        self._count = 0
        self._idle = 0
        self._average = 0.0
        self._next: float | None = None

    def add(self, count: int = 1) -> None:
        """Count events."""
        if self._limit is not None:
            self._tick()
            self._count += count

    @property
    def average(self) -> float:
        """Events per second as of the last tick."""
        self._tick()
        return self._average

    def is_exceeded(self) -> bool:
        """Return whether the average has reached the limit."""
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
            self._intervals.append(self._count)
            self._count = 0
        if self._idle >= IDLE_TICKS:
            self._intervals.clear()
            self._idle = 0
        self._average = sum(self._intervals) / (len(self._intervals) or 1) / TICK_SECONDS


class Window:
    """Allows `calls` calls within `seconds`, counted from the first call."""

    def __init__(self, calls: int, seconds: float, clock: Clock = time.monotonic) -> None:
        self._calls = calls
        self._seconds = seconds
        self._clock = clock
        self._count = 0
        self._ends = float("-inf")

    def allows(self) -> bool:
        """Count a call; return whether it is within the limit."""
        now = self._clock()
        if now > self._ends:
            self._count, self._ends = 0, now + self._seconds
        self._count += 1
        return self._count <= self._calls
