"""The checker finds each kind of violation, and none in a sound ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.faults.audit import Write
from tests.faults.checker import Expected, Ledger, check
from tests.support.database import Row

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
FIRST, SECOND, THIRD = "question-1", "question-2", "question-3"
TEXT = "m00001 one two three"


def write(id: int, message_id: str, ordinal: int, **fields: Any) -> Write:
    """A write, `id` seconds after BEGAN."""
    base = Write(id, BEGAN + timedelta(seconds=id), "jobs", "update", message_id, "session", ordinal, 1)
    return replace(base, **fields)


def story(begin: int, message_id: str, ordinal: int, worker: str = "a") -> list[Write]:
    """The five writes, a second apart, of a question that one worker claims, checkpoints and finishes."""
    by = {"caller": worker, "caller_attempt": 1}
    return [
        write(begin, message_id, ordinal, worker=worker, call="bridge_claim", caller=worker),
        write(begin + 1, message_id, ordinal, relation="messages", operation="insert", call="bridge_claim"),
        write(begin + 2, message_id, ordinal, relation="messages", call="bridge_beat", **by),
        write(begin + 3, message_id, ordinal, relation="messages", status="done", call="bridge_finish", **by),
        write(begin + 4, message_id, ordinal, operation="delete", worker=worker, call="bridge_finish", **by),
    ]


def dispatched(id: int, message_id: str, ordinal: int, worker: str = "a") -> Write:
    """Queued, and given to a worker by the insert."""
    return write(id, message_id, ordinal, operation="insert", worker=worker)


def question(message_id: str, status: str = "done") -> Row:
    return {"id": message_id, "session_id": "session", "role": "user", "status": status, "reply_to": None}


def reply(message_id: str, content: str = TEXT, status: str = "done", **fields: Any) -> Row:
    return {
        **{"id": f"reply to {message_id}", "session_id": "session", "role": "assistant", "status": status},
        **{"reply_to": message_id, "content": content, "data": None, "error": None, "attempt": 1},
        **fields,
    }


def expected(message_id: str, **fields: Any) -> Expected:
    return replace(Expected(message_id, "session", TEXT, "m00001"), **fields)


def queued(id: int, message_id: str, ordinal: int) -> Write:
    return write(id, message_id, ordinal, operation="insert", attempt=0)


SOUND = Ledger(
    expected=[
        expected(FIRST),
        expected(SECOND, cancelled=True),
        expected(THIRD, error="model_refused"),
    ],
    messages=[
        *(question(FIRST), reply(FIRST)),
        *(question(SECOND, "cancelled"), reply(SECOND, "m00001 one", "cancelled")),
        *(question(THIRD, "failed"), reply(THIRD, "m00", "failed", error={"code": "model_refused", "message": "no"})),
    ],
    writes=[
        *(queued(1, FIRST, 2), queued(2, SECOND, 4), queued(3, THIRD, 6)),
        *(*story(10, FIRST, 2), *story(20, SECOND, 4, "b"), *story(30, THIRD, 6)),
    ],
    runs=[{"message_id": FIRST, "attempt": 1, "worker": "a", "outcome": "done"}],
)


def kinds(ledger: Ledger) -> set[tuple[str, str]]:
    return {(violation.kind, violation.message_id) for violation in check(ledger)}


def test_sound_ledger_has_no_violations() -> None:
    assert check(SOUND) == []


def with_messages(change: Callable[[Row], Row | None]) -> Ledger:
    changed = [change(row) for row in SOUND.messages]
    return replace(SOUND, messages=[row for row in changed if row is not None])


def with_reply(**fields: Any) -> Ledger:
    return with_messages(lambda row: row | fields if row["reply_to"] == FIRST else row)


def taken_over(**late: Any) -> Ledger:
    """Worker b takes over the first question from worker a; then comes a late write."""
    writes = [
        *(queued(1, FIRST, 2), *story(10, FIRST, 2)[:3]),
        write(15, FIRST, 2, attempt=2, worker="b", call="bridge_claim", caller="b"),
        write(16, FIRST, 2, **late),
    ]
    return replace(SOUND, writes=writes)


@pytest.mark.parametrize(
    ("ledger", "found"),
    [
        pytest.param(with_reply(content=TEXT + TEXT), {("doubled", FIRST)}, id="text twice"),
        pytest.param(with_reply(content="m00001 on" + TEXT), {("doubled", FIRST)}, id="text after a part of itself"),
        pytest.param(replace(SOUND, messages=[*SOUND.messages, reply(FIRST)]), {("doubled", FIRST)}, id="two replies"),
        pytest.param(replace(SOUND, runs=[*SOUND.runs] * 2), {("doubled", FIRST)}, id="finished twice"),
        pytest.param(
            with_messages(lambda row: None if row["reply_to"] == FIRST else row), {("lost", FIRST)}, id="no reply"
        ),
        pytest.param(
            with_messages(lambda row: None if row["id"] == FIRST else row), {("lost", FIRST)}, id="no question"
        ),
        pytest.param(
            with_messages(lambda row: row | {"status": "running"} if FIRST in (row["id"], row["reply_to"]) else row),
            {("lost", FIRST)},
            id="still running",
        ),
        pytest.param(replace(SOUND, jobs=[FIRST]), {("lost", FIRST)}, id="job left"),
        pytest.param(
            with_messages(lambda row: row | {"status": "failed"} if FIRST in (row["id"], row["reply_to"]) else row),
            {("lost", FIRST)},
            id="failed without reason",
        ),
        pytest.param(with_reply(content="m00001 one three"), {("wrong", FIRST)}, id="part missing"),
        pytest.param(with_reply(status="failed"), {("wrong", FIRST), ("lost", FIRST)}, id="two statuses"),
        pytest.param(
            with_messages(lambda row: row | {"content": "m00001 two"} if row["reply_to"] == SECOND else row),
            {("wrong", SECOND)},
            id="cancelled with another text",
        ),
        pytest.param(
            replace(SOUND, writes=[*SOUND.writes[:3], *story(10, SECOND, 4), *story(20, FIRST, 2)]),
            {("out of order", SECOND)},
            id="second before first",
        ),
        pytest.param(
            replace(SOUND, writes=[*SOUND.writes[:3], *story(10, FIRST, 2), *story(13, SECOND, 4, "b")]),
            {("two at once", SECOND), ("out of order", SECOND)},
            id="second while first runs",
        ),
        pytest.param(
            replace(SOUND, writes=[dispatched(10, FIRST, 2), *story(11, FIRST, 2)[1:], dispatched(13, SECOND, 4)]),
            {("two at once", SECOND), ("out of order", SECOND)},
            id="second dispatched while first runs",
        ),
        pytest.param(
            replace(SOUND, writes=[dispatched(10, FIRST, 2), *story(11, FIRST, 2, "b")[2:]]),
            {("late write", FIRST)},
            id="write by a worker that it was not dispatched to",
        ),
        pytest.param(
            taken_over(relation="messages", call="bridge_beat", caller="a", caller_attempt=1),
            {("late write", FIRST)},
            id="checkpoint after takeover",
        ),
        pytest.param(
            taken_over(operation="delete", call="bridge_finish", caller="a", caller_attempt=1),
            {("late write", FIRST)},
            id="finish after takeover",
        ),
        pytest.param(
            taken_over(attempt=2, call="bridge_beat", caller="c", caller_attempt=2),
            {("late write", FIRST)},
            id="write by a worker that never held it",
        ),
    ],
)
def test_planted_violation_is_found(ledger: Ledger, found: set[tuple[str, str]]) -> None:
    assert kinds(ledger) == found


@pytest.mark.parametrize("order", [(FIRST, THIRD), (THIRD, FIRST)])
def test_retried_question_may_run_before_or_after_waiting_one(order: tuple[str, str]) -> None:
    """A user retries the first while the second runs and the third waits."""
    places = {FIRST: (2, 2), THIRD: (6, 1)}  # ordinal and attempt
    writes = [*(queued(1, FIRST, 2), *story(10, FIRST, 2)), queued(16, SECOND, 4), *story(18, SECOND, 4)]
    writes += [queued(17, THIRD, 6), replace(queued(19, FIRST, 2), attempt=1)]
    for begin, message_id in zip((30, 40), order, strict=True):
        ordinal, attempt = places[message_id]
        for one in story(begin, message_id, ordinal):
            writes.append(replace(one, attempt=attempt, caller_attempt=one.caller_attempt and attempt))
    assert check(replace(SOUND, writes=writes)) == []


@pytest.mark.parametrize(("transaction", "found"), [(7, set()), (8, {("late write", FIRST)})])
def test_worker_hands_on_what_it_holds_in_one_call(transaction: int, found: set[tuple[str, str]]) -> None:
    """It gives back the first question, which is dispatched to another worker in the same call."""
    by: dict[str, Any] = {"call": "bridge_finish", "caller": "a", "caller_attempt": 1, "transaction": 7}
    writes = [
        *(dispatched(10, FIRST, 2), write(12, FIRST, 2, **by)),
        write(13, FIRST, 2, worker="b", **by | {"attempt": 2}),
        write(14, FIRST, 2, relation="messages", **by | {"attempt": 2, "transaction": transaction}),
    ]
    assert kinds(replace(SOUND, writes=writes)) == found


def test_dispatch_that_failed_is_no_attempt() -> None:
    """Its worker could not be told at the commit; another one claims the same attempt."""
    taken_back = write(11, FIRST, 2, attempt=0)
    assert kinds(replace(SOUND, writes=[dispatched(10, FIRST, 2), taken_back, *story(12, FIRST, 2, "b")])) == set()
