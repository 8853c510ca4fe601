"""Circuit breakers: a worker whose model or network is out of order takes less, while other workers take more.

    proven ──failure──▶ suspect ──3 failures alike──▶ open ──after a minute──▶ probing ──▶ proven, or open again
       ▲                   │                                                    │
       └──── a sign of life from the model ◀────────────────────────────────────┘

One for each function, as each may have a client of its own. A worker that starts takes three questions until the model
has answered; one that is suspect or probing, one. So a broken worker makes three attempts a minute at most, unless it
broke while it answered more.

None of this counts for a function that no other worker answers well: then the worker takes all it can, as there is
nobody to leave it to. `bridge_claim` decides that.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

# So many failures alike, one after the other, open the breaker of a function that worked before. Of one that has not
# worked yet, so many attempts may wait for a sign of life.
MOST_FAILURES = 3
# How long it stays open.
PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _State:
    is_proven: bool = False
    code: str = ""  # of the last failure
    failures: int = 0  # with this code, since a sign of life
    open_until: float = -math.inf  # on the clock
    unanswered: set[str] = field(default_factory=set)  # attempts without a sign of life so far


@dataclass(frozen=True, slots=True)
class Plan:
    """What a claim should take of functions that other workers answer as well.

    Of one that is `probing`, as many questions as it is named times; of one that is `paused`, none.

    `failing`: those whose model was out of order when it was last asked; the fleet relies on other workers for them.
    """

    probing: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()


class Breakers:
    """The breakers of these functions. `clock` gives monotonic seconds."""

    def __init__(self, functions: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states = {name: _State() for name in functions}
        self._elsewhere: Collection[str] = ()

    def on_elsewhere(self, functions: Collection[str]) -> None:
        """Learn which functions other workers answer well."""
        self._elsewhere = functions

    def plan(self) -> Plan:
        """What the next claim should take."""
        now = self._clock()
        probing: list[str] = []
        paused: list[str] = []
        for name, state in self._states.items():
            if state.failures or not state.is_proven:
                most = 1 if state.failures else MOST_FAILURES
                room = 0 if now < state.open_until else most - len(state.unanswered)
                if room > 0:
                    probing += [name] * room
                else:
                    paused.append(name)
        failing = tuple(name for name, state in self._states.items() if state.failures)
        return Plan(tuple(probing), tuple(paused), failing)

    @property
    def open(self) -> Mapping[str, str]:
        """The functions that are left to other workers, each with the code of its last failure."""
        now = self._clock()
        is_open = {name for name in self._elsewhere if name in self._states and now < self._states[name].open_until}
        return {name: self._states[name].code for name in sorted(is_open)}

    @property
    def next_probe_in(self) -> float | None:
        """Seconds until the next open breaker lets a question through; None: none is open."""
        now = self._clock()
        waits = [state.open_until - now for state in self._states.values() if now < state.open_until]
        return min(waits, default=None)

    def on_start(self, function: str, attempt: str) -> None:
        """An attempt begins."""
        if (state := self._states.get(function)) is not None:
            state.unanswered.add(attempt)

    def on_life(self, function: str, attempt: str) -> bool:
        """The model has written a word or a thought. True if more questions can be taken than before."""
        if (state := self._states.get(function)) is None:
            return False
        state.unanswered.discard(attempt)
        was_limited = not state.is_proven or state.failures > 0
        state.is_proven, state.failures, state.open_until = True, 0, -math.inf
        return was_limited

    def on_failure(self, function: str, attempt: str, code: str) -> None:
        """The model or the way to it was out of order."""
        if (state := self._states.get(function)) is None:
            return
        state.unanswered.discard(attempt)
        state.failures = state.failures + 1 if code == state.code else 1
        state.code = code
        now = self._clock()
        if now < state.open_until:  # one that had begun before
            return
        if not state.is_proven or state.failures >= MOST_FAILURES:
            state.open_until = now + PAUSE_SECONDS
            state.is_proven = False

    def on_end(self, function: str, attempt: str) -> None:
        """An attempt ended in a way that says nothing of the model, such as a cancel."""
        if (state := self._states.get(function)) is not None:
            state.unanswered.discard(attempt)
