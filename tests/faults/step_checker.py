"""Checks what a run did with steps: was an effect repeated without need, a value changed, a shown text taken back?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.answers import Given
from tests.faults.audit import StepWrite, Write
from tests.faults.checker import Ledger, Violation

# Attempts after which a step that has run may run again: it was not remembered.
_UNFINISHED = ("lost", "failed", "released")
# Steps by the beginnings of their names: of these, each try is in the ledger.
_NOTED = ("step", "slow", "tool", "once", "fail", "refuse")


@dataclass(frozen=True, slots=True)
class Effect:
    """One try of a step, as it noted it itself."""

    question_id: str
    attempt: int
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class StepLedger:
    """What a run left behind beside messages and jobs.

    `shown` are the attempts and texts that clients were shown of a reply, in order.
    """

    effects: Sequence[Effect] = ()
    steps: Sequence[StepWrite] = ()
    answers: Sequence[Given] = ()
    shown: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)


def check_steps(ledger: Ledger, steps: StepLedger) -> list[Violation]:
    """All violations."""
    retries = {item.message_id: item.retries for item in ledger.expected}
    outcomes = {(run["message_id"], run["attempt"]): run["outcome"] for run in ledger.runs}
    return [
        *_repeated(steps, outcomes, retries),
        *_changed(steps.steps),
        *_taken_back(ledger.writes, steps),
        *_answered(steps, retries),
    ]


def _repeated(
    ledger: StepLedger, outcomes: Mapping[tuple[str, int], str], retries: Mapping[str, int]
) -> Iterator[Violation]:
    tries: dict[tuple[str, str, str], list[int]] = defaultdict(list)  # attempts, by question, name and key
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for effect in ledger.effects:
        tries[effect.question_id, effect.name, effect.key].append(effect.attempt)
        keys[effect.question_id, effect.name].add(effect.key)
    for (question_id, name), used in keys.items():
        if len(used) > 1 + retries.get(question_id, 0):
            yield Violation("repeated", question_id, f"{name} with {len(used)} keys")
    for (question_id, name, _), attempts in tries.items():
        if name.startswith("once") and len(attempts) > 1:
            yield Violation("repeated", question_id, f"{name}, which may run once, in attempts {attempts}")
        for attempt, times in Counter(attempts).items():
            outcome = outcomes.get((question_id, attempt))
            if times > 1:
                yield Violation("repeated", question_id, f"{name} {times} times in attempt {attempt}")
            if attempt < max(attempts) and outcome not in _UNFINISHED:
                yield Violation("repeated", question_id, f"{name} in attempt {attempt}, which was {outcome}, and later")
    for step in ledger.steps:
        if not (step.is_done and step.operation != "delete" and step.name.startswith(_NOTED)):
            continue
        sets = [
            attempts
            for key in keys[step.question_id, step.name]
            if min(attempts := tries[step.question_id, step.name, key]) <= step.attempt
        ]
        if not sets:
            yield Violation("lost", step.question_id, f"{step.name} is remembered, and never ran")
        elif max(last := max(sets, key=min)) > step.attempt:
            yield Violation("repeated", step.question_id, f"{step.name}, remembered in {step.attempt}, in {max(last)}")


def _changed(steps: Sequence[StepWrite]) -> Iterator[Violation]:
    known: dict[tuple[str, str], StepWrite] = {}
    for step in steps:
        before = known.pop((step.question_id, step.name), None)
        if step.operation == "delete":
            continue
        if before is not None and before.is_done and (before.value, before.kind) != (step.value, step.kind):
            yield Violation("changed", step.question_id, f"{step.name} from {before.value!r} to {step.value!r}")
        known[step.question_id, step.name] = step


def _taken_back(writes: Sequence[Write], ledger: StepLedger) -> Iterator[Violation]:
    kept: dict[str, str] = defaultdict(str)  # by question: what finished steps have shown
    content: dict[str, str] = defaultdict(str)
    settling: dict[str, StepWrite] = {}  # the newest step, whose transaction may still write its text
    opened: dict[tuple[str, int], str] = {}  # what an attempt kept
    both: list[Write | StepWrite] = [*(write for write in writes if write.relation == "messages"), *ledger.steps]
    for write in sorted(both, key=lambda write: write.id):
        if isinstance(write, StepWrite):
            if write.operation == "delete":
                kept[write.question_id] = ""
                settling.pop(write.question_id, None)
            else:
                settling[write.question_id] = write
                kept[write.question_id] = max(
                    kept[write.question_id], content[write.question_id][: write.chars], key=len
                )
            continue
        question_id, text = write.message_id, write.content or ""
        step = settling.get(question_id)
        if not text.startswith(kept[question_id]):
            detail = f"attempt {write.attempt} has {text!r}, after {kept[question_id]!r} was finished"
            yield Violation("taken back", question_id, detail)
        if step is not None and step.transaction == write.transaction:
            kept[question_id] = max(kept[question_id], text[: step.chars], key=len)
        content[question_id] = text
        opened.setdefault((question_id, write.attempt), kept[question_id])
    for question_id, shown in ledger.shown.items():
        for attempt, text in shown:
            if not text.startswith(opened.get((question_id, attempt), "")):
                finished = opened[question_id, attempt]
                yield Violation("taken back", question_id, f"shown {text!r}, after {finished!r} was finished")


def _answered(ledger: StepLedger, retries: Mapping[str, int]) -> Iterator[Violation]:
    given: dict[tuple[str, str], list[Given]] = defaultdict(list)
    for answer in ledger.answers:
        given[answer.question_id, answer.ask].append(answer)
    asked = {
        (step.question_id, step.name): step for step in ledger.steps if (step.question_id, step.name) in given
    }  # as it is at the end
    for (question_id, name), answers in given.items():
        if retries.get(question_id):
            continue  # asked again, and answered again
        taken = [answer.value for answer in answers if answer.state == "taken"]
        possible = taken or [answer.value for answer in answers if answer.state is None]
        step = asked.get((question_id, name))
        if len(taken) > 1:
            yield Violation("doubled", question_id, f"{len(taken)} answers to {name} were taken")
        if step is None or not step.is_done:
            if taken:
                yield Violation("lost", question_id, f"the answer to {name} was taken")
        elif step.kind == "failed" and taken:
            yield Violation("lost", question_id, f"the answer to {name} was taken, and nobody answered in time")
        elif step.kind == "ask" and step.value not in possible:
            yield Violation("wrong", question_id, f"{name} got {step.value!r}, and {possible} was taken")
