"""Generated streams, read in process: only a whole answer is done, and each whole answer is.

`STREAMS` sets how many are tried: `STREAMS=100000 pytest tests/unit/bridge/test_generated_streams.py`.
"""

import os

from hypothesis import HealthCheck, given, settings

from bridge.baml.answer import Answer
from bridge.baml.events import read_event
from bridge.errors import AnswerTooLong, ContextTooLong, ModelRefused, ModelUnavailable, TurnFailure
from tests.support.streams import Case, Outcome, cases

STREAMS = int(os.environ.get("STREAMS", "1500"))
BROKEN = ModelUnavailable("model_cut", "The model's answer was cut off.", detail="the connection broke")


def judge(case: Case, *, is_text: bool) -> tuple[Outcome, str]:
    answer = Answer()
    for event in case.events:
        read_event(answer, event)
    return outcome_of(answer.judge(BROKEN if case.is_cut else None, is_text=is_text)), answer.text


def outcome_of(failure: TurnFailure | None) -> Outcome:
    match failure:
        case None:
            return "done"
        case ContextTooLong():
            return "context"
        case AnswerTooLong():
            return "too_long"
        case ModelRefused():
            return "refused"
    assert failure.retryable, failure
    return "retry"


@settings(max_examples=STREAMS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(cases())
def test_only_a_whole_answer_is_done(case: Case) -> None:
    outcome, text = judge(case, is_text=True)
    assert outcome == case.outcome
    if outcome == "done":
        assert text == case.text
    assert judge(case, is_text=False)[0] == case.outcome_of_structure
