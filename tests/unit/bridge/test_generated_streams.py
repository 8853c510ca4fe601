"""Generated streams, read in process: only a whole answer is done, and each whole answer is.

`STREAMS` sets how many are tried: `STREAMS=100000 pytest tests/unit/bridge/test_generated_streams.py`.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import bridge.baml.answer as answer_room
import bridge.baml.events as events_room
from bridge.baml.answer import Answer, Part
from bridge.baml.endings import REFUSED, TOO_LONG
from bridge.baml.events import read_event
from bridge.errors import ModelUnavailable, TurnFailure
from tests.support import wire
from tests.support.streams import Case, Outcome, cases, outcome_of

STREAMS = int(os.environ.get("STREAMS", "800"))
BROKEN = ModelUnavailable("model_cut", "The model's answer was cut off.", detail="the connection broke")


def judge(case: Case, *, is_text: bool) -> tuple[Outcome, str]:
    answer = Answer()
    for event in case.events:
        read_event(answer, event)
    assert answer.take_thoughts() == ""
    return outcome_of(answer.judge(BROKEN if case.is_cut else None, is_text=is_text)), answer.text


def think(case: Case, *, often: bool) -> str:
    """Read the reasoning, at the end or after each event."""
    answer, taken = Answer(keeps_thoughts=True), []
    for event in case.events:
        read_event(answer, event)
        if often:
            taken.append(answer.take_thoughts())
    thoughts = "".join([*taken, answer.take_thoughts()])
    assert wire.SECRET not in thoughts
    if not often:  # otherwise, a tag that was lost may have made thoughts of the text for a while
        assert answer.thought >= len(thoughts)
    return thoughts


def check(case: Case) -> None:
    outcome, text = judge(case, is_text=True)
    assert outcome == case.outcome
    if outcome == "done":
        assert text == case.text
    assert judge(case, is_text=False)[0] == case.outcome_of_structure
    at_once, piece_by_piece = think(case, often=False), think(case, often=True)
    if outcome != "done":
        return
    assert at_once == "".join([*case.thoughts, case.tagged])
    if not case.tagged:
        assert piece_by_piece == at_once
    elif len(case.how) == 3:  # if the tags are damaged, only the whole text tells
        assert sorted(piece_by_piece) == sorted(at_once)  # what one event brings in both ways may be in any order


@settings(max_examples=STREAMS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(cases())
def test_only_a_whole_answer_is_done(case: Case) -> None:
    check(case)


def ignore(*_: object, **__: object) -> None:
    """Stand in for a method that does what it should."""


def end_at_mark(answer: Answer) -> None:
    if answer.reason is None:
        answer.reason = "stop"


def always_lose(answer: Answer, detail: str) -> None:
    answer.lost = detail


def always_fail(answer: Answer, failure: TurnFailure) -> None:
    answer._failure = failure


def plain_text_only(answer: Answer, content: object, part: Part | None = None) -> None:
    if isinstance(content, str):
        answer.say(content, part)


# What is broken, and the damage that shows it, if it takes a certain one.
FAULTS: dict[str, tuple[object, str, object, str | None]] = {
    "an unknown end counts as a good one": (
        answer_room,
        "is_good",
        lambda reason: reason not in TOO_LONG | REFUSED,
        None,
    ),
    "[DONE] without a reason is an end": (Answer, "close", end_at_mark, "cut"),
    "an event that cannot be read is dropped": (Answer, "lose", ignore, "garbage"),
    "an error in the stream is swallowed": (Answer, "fail", ignore, "error"),
    "a whole answer is thrown away for its tail": (Answer, "lose", always_lose, "garbage"),
    "a whole answer is thrown away for a late error": (Answer, "fail", always_fail, "error"),
    "an empty answer is done": (Answer, "text", property(lambda answer: answer.raw or "x"), None),
    "reasoning in the text is shown": (answer_room, "without_reasoning", lambda text, **_: text, None),
    "reasoning apart from the text is lost": (Answer, "think", ignore, None),
    "reasoning in the text is lost": (answer_room, "_inside", lambda *_: "", None),
    "reasoning that is repeated as a whole counts twice": (Answer, "settle_thought", Answer.think, None),
    "reasoning is read in one dialect alone": (events_room, "_THOUGHTS", frozenset({"reasoning"}), None),
    "what is encrypted is shown": (events_room, "_THOUGHT_FIELDS", (*events_room._THOUGHT_FIELDS, "signature"), None),
    "words of a refusal are lost": (Answer, "refuse", ignore, None),
    "text in parts is not read": (events_room, "_say", plain_text_only, None),
    "text that is repeated as a whole is not used": (Answer, "settle_all", ignore, "truncated"),
    "a delta that comes twice counts twice": (Answer, "is_repeated", lambda *_: False, "double"),
    "a cut after the end counts as a cut": (Answer, "end", ignore, "cut"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_generator_finds_the_fault(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    room, name, broken, damage = FAULTS[fault]
    monkeypatch.setattr(room, name, broken)
    find = settings(
        max_examples=10_000,  # the first find ends it
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
        derandomize=True,
    )(given(cases(damage))(check))
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        find()
