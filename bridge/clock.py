"""The database's clock, as seen from a worker: how old is what the database has sent?"""

import time

# By how much a clock may run faster than the database's, as a share.
CLOCK_DRIFT = 1e-4


class DatabaseClock:
    """The database's clock, as far as its answers tell: never ahead of it by more than the clocks drift apart."""

    def __init__(self) -> None:
        self._offset: float | None = None  # of the database's clock to this process's monotonic one, in seconds
        self._set_at = 0.0

    def on_answer(self, at: float) -> None:
        """An answer that was made at this time in the database has arrived."""
        now = time.monotonic()
        offset = at - now  # too small by the time that the answer has travelled: the largest is the best
        if self._offset is not None:
            offset = max(offset, self._offset - CLOCK_DRIFT * (now - self._set_at))
        self._offset, self._set_at = offset, now

    def age(self, at: float) -> float:
        """How many seconds ago that time in the database was, at least; 0 if no answer has arrived yet."""
        return 0.0 if self._offset is None else time.monotonic() + self._offset - at
