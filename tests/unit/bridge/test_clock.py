"""What a worker makes of the database's clock: never ahead of it, however long its answers travel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.clock import CLOCK_DRIFT, DatabaseClock

SECONDS = st.floats(0, 100, allow_nan=False)
EPOCH = 1_800_000_000.0  # of the database, when the worker's clock is at zero


@given(answers=st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=20), waited=SECONDS)
def test_age_is_never_too_large_and_as_exact_as_the_fastest_answer(
    answers: list[tuple[float, float]], waited: float
) -> None:
    """Each answer comes some time after the one before it, and has travelled for some time."""
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.clock.time.monotonic", lambda: now)
        clock = DatabaseClock()
        assert clock.age(EPOCH) == 0
        for pause, travelled in answers:
            now += pause + travelled
            clock.on_answer(EPOCH + now - travelled)
        sent_at = EPOCH + now
        now += waited
        age = clock.age(sent_at)
    fastest = min(travelled for _, travelled in answers)
    assert age <= waited + 1e-6
    assert age >= waited - fastest - CLOCK_DRIFT * now - 1e-6


def test_answer_that_was_read_late_hides_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still reads what has waited for it: an answer, and a dispatch as old."""
    now = 0.0
    monkeypatch.setattr("bridge.clock.time.monotonic", lambda: now)
    clock = DatabaseClock()
    clock.on_answer(EPOCH)
    now = 5.0
    clock.on_answer(EPOCH + 0.5)
    assert clock.age(EPOCH + 0.5) == pytest.approx(4.5, abs=0.01)
