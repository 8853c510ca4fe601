"""The second lane: notes questions that were inserted, and that this worker does not know of.

Usually the database has handed such a question to another worker. If that one is gone, its lease ends after three
seconds, and somebody has to look then. Two workers of a fleet hear of every insert by postgres_changes, so that this
costs the same in a fleet of any size.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

# When a dispatched job's lease has ended, if nobody has confirmed it.
LOOK_SECONDS = 3.2
# When a worker that is alone looks: a question that it does not know of by then was lost on its way to it.
ALONE_SECONDS = 0.5
# A worker looks no more often than this, however many questions there are.
PAUSE_SECONDS = 5.0
# How many questions to remember. Those beyond are found with them: a look finds whatever can be claimed.
MOST = 1000


class Watch:
    """Calls `look` when a question should have been confirmed, unless `is_known` says that this worker has it."""

    def __init__(self, is_known: Callable[[str], bool], look: Callable[[], None]) -> None:
        self._is_known = is_known
        self._look = look
        self._looked_at = -PAUSE_SECONDS
        self._questions: dict[str, float] = {}  # when to look for each, monotonic; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def note(self, question_ids: Iterable[str], *, is_alone: bool) -> None:
        """These questions were inserted. `is_alone`: there is no other worker."""
        due = time.monotonic() + (ALONE_SECONDS if is_alone else LOOK_SECONDS)
        for question_id in question_ids:
            if len(self._questions) < MOST and not self._is_known(question_id):
                self._questions.setdefault(question_id, due)
        self._arm()

    def close(self) -> None:
        """Look no more."""
        self._questions.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._questions:
            at = max(min(self._questions.values()), self._looked_at + PAUSE_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._fall_due)

    def _fall_due(self) -> None:
        self._timer = None
        now = time.monotonic()
        due = [question_id for question_id, at in self._questions.items() if at <= now]
        is_needed = any(not self._is_known(question_id) for question_id in due)
        for question_id in due:
            del self._questions[question_id]
        if is_needed:
            self._looked_at = now
            self._look()
        self._arm()
