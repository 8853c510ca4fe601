"""Answers of the database, as older and newer schemas give them."""

from __future__ import annotations

from typing import Any

from bridge.model import Message, Step
from bridge.rows import decode_claim


def answer(history: list[dict[str, Any]]) -> dict[str, Any]:
    """A claim of one question with this history."""
    session: dict[str, Any] = {"id": "s", "user_id": "u", "title": None, "function": "Chat", "metadata": {}}
    job: dict[str, Any] = {"question_id": "q", "reply_id": "r", "attempt": 1, "failures": 0, "cancel": False}
    job |= {"queued_ms": 1, "message": "hello", "data": None, "session": session, "files": [], "history": history}
    return {"jobs": [job], "next_in_ms": None, "workers": 1}


def test_history_of_either_schema_is_decoded() -> None:
    user: dict[str, Any] = {"role": "user", "content": "one"}
    replies: list[dict[str, Any]] = [
        {"role": "assistant", "content": "two"},  # an older schema
        {"role": "assistant", "content": "two", "data": None},
        {"role": "assistant", "content": "", "data": {"n": [1]}},
    ]
    (job,) = decode_claim(answer([message for reply in replies for message in (user, reply)])).jobs
    assert job.turn is not None
    assert job.turn.messages[1::2] == (
        Message("assistant", "two"),
        Message("assistant", "two"),
        Message("assistant", "", {"n": [1]}),
    )
    assert job.turn.messages[0] == Message("user", "one")


def test_steps_come_with_the_question_or_are_called_for() -> None:
    step = {"name": "plan", "ordinal": 1, "kind": "done", "value": [1], "is_done": True, "is_due": False}
    step |= {"emitted_before": 2, "emitted": 3, "new in a later schema": 1}
    claim = answer([])
    claim["jobs"][0] |= {"steps": 1, "known": [step]}
    assert decode_claim(claim).jobs[0].known == (Step("plan", 1, "done", [1], True, False, 2, 3),)
    del claim["jobs"][0]["known"]
    assert decode_claim(claim).jobs[0].known is None
