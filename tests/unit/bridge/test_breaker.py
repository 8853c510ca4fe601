"""A circuit breaker lets few questions through until the model has answered one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.breaker import MOST_FAILURES, Breakers, Plan


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_worker_that_starts_takes_three_questions_until_the_model_has_answered() -> None:
    breakers = Breakers(["Chat"], Clock())
    assert breakers.plan() == Plan(probing=("Chat",) * MOST_FAILURES)
    for attempt in range(MOST_FAILURES):
        breakers.on_start("Chat", str(attempt))
    assert breakers.plan() == Plan(paused=("Chat",))
    assert breakers.on_life("Chat", "1")
    assert breakers.plan() == Plan()
    assert not breakers.on_life("Chat", "2")


def test_only_what_is_left_to_others_is_open() -> None:
    breakers = Breakers(["Chat", "Code"], Clock())
    breakers.on_failure("Chat", "1", "model_unreachable")
    assert breakers.plan() == Plan(probing=("Code",) * MOST_FAILURES, paused=("Chat",), failing=("Chat",))
    assert breakers.open == {}
    breakers.on_elsewhere({"Chat"})  # another worker has started
    assert breakers.open == {"Chat": "model_unreachable"}


def test_proven_worker_may_fail_twice() -> None:
    clock = Clock()
    breakers = Breakers(["Chat"], clock)
    breakers.on_elsewhere({"Chat"})
    breakers.on_life("Chat", "0")
    for attempt in range(MOST_FAILURES - 1):
        breakers.on_failure("Chat", str(attempt), "model_unavailable")
        assert breakers.plan() == Plan(probing=("Chat",), failing=("Chat",))  # one at a time
    breakers.on_failure("Chat", "x", "model_busy")  # another one: the count begins anew
    assert breakers.open == {}
    for attempt in range(MOST_FAILURES - 1):
        breakers.on_failure("Chat", str(attempt), "model_busy")
    assert breakers.open == {"Chat": "model_busy"}
    assert breakers.plan() == Plan(paused=("Chat",), failing=("Chat",))
    assert breakers.next_probe_in is not None
    clock.now += breakers.next_probe_in
    assert breakers.plan() == Plan(probing=("Chat",), failing=("Chat",))
    assert breakers.on_life("Chat", "y")
    assert breakers.plan() == Plan()
    assert breakers.open == {}


def test_unknown_functions_are_ignored() -> None:
    breakers = Breakers([], Clock())
    breakers.on_start("", "1")
    breakers.on_failure("", "1", "x")
    breakers.on_end("", "1")
    assert not breakers.on_life("", "1")


@given(st.lists(st.floats(0, 30), max_size=60))
def test_broken_worker_makes_at_most_three_attempts_a_minute(pauses: list[float]) -> None:
    """Whenever questions come: as many attempts are made as the plan allows, and all of them fail at once."""
    clock = Clock()
    breakers = Breakers(["Chat"], clock)
    attempts: list[float] = []
    for pause in pauses:
        clock.now += pause
        allowed = breakers.plan().probing
        for n, _ in enumerate(allowed):
            breakers.on_start("Chat", str(n))
        for n, _ in enumerate(allowed):
            breakers.on_failure("Chat", str(n), "model_unreachable")
            attempts.append(clock.now)
    for at in attempts:
        assert sum(at <= other < at + 60 for other in attempts) <= 3


@given(st.lists(st.tuples(st.sampled_from(["start", "life", "failure", "end"]), st.sampled_from("abc")), max_size=40))
def test_no_attempt_is_waited_for_after_its_end(events: list[tuple[str, str]]) -> None:
    clock = Clock()
    breakers = Breakers(["Chat"], clock)
    for event, attempt in events:
        match event:
            case "start":
                breakers.on_start("Chat", attempt)
            case "life":
                breakers.on_life("Chat", attempt)
            case "failure":
                breakers.on_failure("Chat", attempt, "x")
            case _:
                breakers.on_end("Chat", attempt)
    for attempt in "abc":
        breakers.on_end("Chat", attempt)
    clock.now += 61
    assert breakers.plan().paused == ()
