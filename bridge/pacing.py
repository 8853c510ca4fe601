"""The fleet's quota of Realtime events: every worker paces its deltas to its share of it."""

import time
from collections.abc import Callable

# How many seconds' worth of the share can be saved up.
BURST_SECONDS = 0.5
# How many seconds' worth can be overdrawn. Realtime counts over windows of 5 s (v2.129.8).
DEBT_SECONDS = 5.0
# What a delta costs: the send and its delivery.
EVENTS_PER_DELTA = 2
# What a reply costs besides its deltas, with one tab open: the events of its rows (question: new, done; reply: new,
# done), each with a delivery, those that its worker is delivered too, and the dispatch with its delivery.
EVENTS_PER_REPLY = 12
# How many workers of a fleet hear of each question by postgres_changes.
WATCHERS = 2


class Quota:
    """A token bucket of events, filled at this worker's share of `events_per_second`."""

    def __init__(self, events_per_second: float, fleet_size: Callable[[], int]) -> None:
        self._events_per_second = events_per_second
        self._fleet_size = fleet_size
        self._budget = 0.0
        self._filled_at = time.monotonic()

    def spend_reply(self) -> None:
        """Pay for the row events of a reply."""
        self.spend(EVENTS_PER_REPLY + min(WATCHERS, self._fleet_size()))

    def spend(self, events: float) -> None:
        """Pay for events, even if that overdraws the budget: first deltas and ends of replies do not wait."""
        now, rate = time.monotonic(), self._rate()
        most = max(BURST_SECONDS * rate, EVENTS_PER_DELTA)  # however small the share, a delta can be saved up for
        budget = min(most, self._budget + (now - self._filled_at) * rate) - events
        self._budget = max(budget, -DEBT_SECONDS * rate)  # later deltas pay back what was overdrawn, within reason
        self._filled_at = now

    def delay(self, events: float) -> float:
        """How many seconds until the budget allows so many events; zero or less: now."""
        self.spend(0)
        return (events - self._budget) / self._rate()

    def _rate(self) -> float:
        return self._events_per_second / max(1, self._fleet_size())
