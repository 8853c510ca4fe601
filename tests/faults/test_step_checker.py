"""The checker of steps finds each kind of violation, and none in a sound ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.agent_plan import pieces_of, plan
from tests.faults.answers import Given
from tests.faults.audit import StepWrite, Write
from tests.faults.checker import Expected, Ledger, check
from tests.faults.step_checker import Effect, StepLedger, check_steps

Q = "question"
AT = datetime(2026, 12, 1, tzinfo=UTC)


def step(id: int, name: str, value: Any, attempt: int, chars: int, **fields: Any) -> StepWrite:
    return replace(StepWrite(id, "insert", Q, name, "done", value, True, attempt, chars, transaction=id), **fields)


def row(id: int, content: str, attempt: int, transaction: int = 0) -> Write:
    """The reply's row as it is then."""
    return Write(id, AT, "messages", "update", Q, "session", 3, attempt, transaction=transaction or id, content=content)


def effect(attempt: int, name: str, key: str = "") -> Effect:
    return Effect(Q, attempt, name, key or f"key of {name}")


# step1 and once2 end in attempt 1, whose worker vanishes in step3; attempt 2 asks, and attempt 3 has the answer
LEDGER = Ledger(
    expected=[Expected(Q, "session")],
    messages=[],
    writes=[
        *(row(1, "", 1), row(3, "One step1! ", 1, transaction=2), row(5, "One step1! once2! Thr", 1)),
        *(row(7, "One step1! once2! ", 2), row(9, "One step1! once2! step3! ", 2, transaction=8)),
        *(row(12, "One step1! once2! step3! ", 3), row(13, "One step1! once2! step3! ask4:yes ", 3)),
    ],
    runs=[
        {"message_id": Q, "attempt": 1, "worker": "a", "outcome": "lost"},
        {"message_id": Q, "attempt": 2, "worker": "b", "outcome": "waiting"},
        {"message_id": Q, "attempt": 3, "worker": "b", "outcome": "done"},
    ],
)
YES, NO = {"approved": True}, {"approved": False}
ASKED = step(10, "ask4", None, 2, 25, kind="ask", is_done=False)
SOUND = StepLedger(
    effects=[effect(1, "step1"), effect(1, "once2"), effect(1, "step3"), effect(2, "step3")],
    steps=[
        step(2, "step1", "step1!", 1, 11),
        step(4, "once2", None, 1, 11, kind="begun", is_done=False),
        step(6, "once2", "once2!", 1, 18, operation="update"),
        step(8, "step3", "step3!", 2, 25),
        ASKED,
        replace(ASKED, id=11, operation="update", value=YES, is_done=True),
    ],
    answers=[Given(Q, "ask4", YES, "taken"), Given(Q, "ask4", NO, "answered")],
    shown={Q: [(1, "One step1! once2! Thr"), (2, "One step1! once2! "), (3, "One step1! once2! step3! ask4:yes ")]},
)


def kinds(steps: StepLedger, ledger: Ledger = LEDGER) -> set[str]:
    return {violation.kind for violation in check_steps(ledger, steps)}


def test_sound_ledger_has_no_violations() -> None:
    assert check_steps(LEDGER, SOUND) == []


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        pytest.param(replace(SOUND, effects=SOUND.effects[1:]), "lost", id="remembered, but never run"),
        pytest.param(replace(SOUND, effects=[*SOUND.effects, effect(2, "step1")]), "repeated", id="after its end"),
        pytest.param(replace(SOUND, effects=[*SOUND.effects, effect(1, "step3")]), "repeated", id="in one attempt"),
        pytest.param(replace(SOUND, effects=[*SOUND.effects, effect(2, "once2")]), "repeated", id="once, and again"),
        pytest.param(
            replace(SOUND, effects=[*SOUND.effects, effect(3, "step5"), effect(4, "step5")]), "repeated", id="no reason"
        ),
        pytest.param(
            replace(SOUND, effects=[*SOUND.effects[:3], effect(2, "step3", "another key")]), "repeated", id="two keys"
        ),
        pytest.param(
            replace(SOUND, steps=[*SOUND.steps, step(20, "step1", "other!", 3, 25, operation="update")]),
            "changed",
            id="another value",
        ),
        pytest.param(
            replace(SOUND, shown={Q: [(1, "One step1! once2! Thr"), (2, "One ")]}), "taken back", id="on the screen"
        ),
        pytest.param(
            replace(SOUND, answers=[*SOUND.answers, Given(Q, "ask4", YES, "taken")]), "doubled", id="taken twice"
        ),
        pytest.param(replace(SOUND, answers=[Given(Q, "ask4", NO, "taken")]), "wrong", id="another answer"),
        pytest.param(
            replace(SOUND, steps=[*SOUND.steps[:-1], replace(ASKED, id=11, kind="failed", is_done=True)]),
            "lost",
            id="taken and too late",
        ),
        pytest.param(replace(SOUND, steps=SOUND.steps[:-1]), "lost", id="taken and forgotten"),
    ],
)
def test_planted_violation_is_found(steps: StepLedger, found: str) -> None:
    assert kinds(steps) == {found}


@pytest.mark.parametrize("content", ["", "One step1! ", "One step1! other! "])
def test_text_that_is_taken_back_is_found(content: str) -> None:
    writes = [replace(write, content=content) if write.id == 7 else write for write in LEDGER.writes]
    assert kinds(SOUND, replace(LEDGER, writes=writes)) == {"taken back"}


def test_attempt_that_waited_has_remembered_what_it_ran() -> None:
    runs = [run | {"outcome": "waiting"} for run in LEDGER.runs]
    assert kinds(SOUND, replace(LEDGER, runs=runs)) == {"repeated"}


def test_regenerated_reply_begins_anew() -> None:
    """Its steps are deleted: they have other keys and values, and its text is another one."""
    again = replace(
        SOUND,
        effects=[*SOUND.effects, effect(4, "step1", "key of the second set")],
        steps=[
            *SOUND.steps,
            step(20, "step1", "step1!", 1, 11, operation="delete"),
            step(30, "step1", "another!", 4, 9),
        ],
        answers=(),
    )
    ledger = replace(
        LEDGER,
        expected=[Expected(Q, "session", retries=1)],
        writes=[*LEDGER.writes, row(21, "", 4), row(29, "another! ", 4)],
    )
    assert check_steps(ledger, again) == []
    assert kinds(again, replace(ledger, expected=LEDGER.expected)) == {"repeated"}


# -- what a reply must be


def reply(text: str, status: str = "done", **expected: Any) -> set[str]:
    """The kinds of violations of a reply with this text."""
    operations: list[list[Any]] = [
        ["text", "One "],
        ["once", "a"],
        ["both", [["ask", "late1", 1.0], ["say", '[[delay=0 text="a word"]]'], ["tool", "b"]]],
        ["run", "Walk", [["text", "in "], ["refuse", "c"]]],
    ]
    pieces = tuple(piece for operation in operations for piece in pieces_of(operation))
    fields = {"session_id": "session", "status": status, "data": None, "error": None, "attempt": 1}
    messages = [
        {"id": Q, "role": "user", "reply_to": None, "content": "", **fields},
        {"id": "reply", "role": "assistant", "reply_to": Q, "content": text, **fields},
    ]
    item = replace(Expected(Q, "session", pieces=pieces), **expected)
    return {violation.kind for violation in check(Ledger([item], messages))}


@pytest.mark.parametrize("once", ["a!", "a?"])
@pytest.mark.parametrize("late", ["late1:yes", "late1:no", "late1…"])
def test_reply_of_the_operations_is_right(once: str, late: str) -> None:
    text = f"One {once} a word[{late} /6/ b!] (in no c ) "
    assert reply(text) == set()
    assert reply(text[:-3]) == {"wrong"}
    assert reply(text + text) == {"wrong"}
    assert reply(text.replace("b!", "b! b!")) == {"wrong"}
    assert reply(text[:-3], "cancelled", cancelled=True) == set()
    assert reply(text[:-3] + "other", "cancelled", cancelled=True) == {"wrong"}


def test_plan_has_every_operation_and_at_most_its_steps() -> None:
    text = "".join(question.content for question in plan(400, 1))
    for operation in ("step", "tool", "once", "fail", "refuse", "ask", "sleep", "say", "call", "both", "run"):
        assert f'["{operation}", ' in text
    assert plan(100, 1) == plan(100, 1) != plan(100, 2)
