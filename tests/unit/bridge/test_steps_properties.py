"""Handlers with steps, whose workers vanish at any moment: the reply is that of a run without such moments."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.handlers import Handler, run_handler
from bridge.model import Session, Turn
from tests.support import virtual_time
from tests.support.attempts import Attempts, End
from tests.support.walks import Act, Behind, Both, Emit, Simple, Walk, answers, check, handler_of, walks

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
ENDS = st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["kill", "freeze"])), max_size=5)


def answer(walk: Walk, seed: int, ends: Sequence[End]) -> None:
    async def main() -> None:
        attempts = Attempts(handler_of(walk), seed, ends, answers(walk))
        row = await attempts.answer_all()
        check(walk, attempts, row)

    virtual_time.run(main())


@settings(max_examples=EXAMPLES)
@given(walks(), st.integers(0, 1 << 16), ENDS)
def test_any_handler_loses_and_doubles_nothing(walk: Walk, seed: int, ends: list[End]) -> None:
    answer(walk, seed, ends)


def act(kind: Simple, name: str) -> Act:
    return Act(kind, name, name)


TEXT = Emit("text", "hello", varies=True)
FOUND: Mapping[str, Walk] = {
    "a remembered step is come to late": (
        TEXT,
        Both("gather", ((Emit("state", "s"), act("step", "a")), (act("step", "b"),))),
    ),
    "steps end in another order": (Both("completed", ((act("step", "a"),), (act("step", "b"),), (act("step", "c"),))),),
    "a text is written while a model speaks": (
        Both("completed", ((act("say", "say"),), (act("step", "b"),))),
        act("step", "c"),
    ),
    "a pause is over while a model speaks": (
        Both("gather", ((act("yes", "a"), act("say", "say")), (Emit("state", "s"), act("sleep", "b")))),
    ),
    "a task beside the handler shows parts": (
        Behind(
            (Emit("part", "p"), Emit("part", "q"), act("step", "a")),
            (Emit("text", "x"), act("step", "b"), Emit("text", "y")),
        ),
    ),
    "a part comes while a step is remembered": (
        Behind((act("step", "a"), Emit("part", "p"), act("step", "b")), (Emit("text", "x"), act("step", "c"))),
    ),
    "an attachment comes behind a step, and others before it": (
        TEXT,
        Emit("file", "f"),
        act("step", "a"),
        TEXT,
        Emit("file", "g"),
        act("fail", "b"),
    ),
    "a model is cut short": (Both("group", ((act("fail", "a"),), (act("say", "say"),), (act("yes", "b"),))),),
    "a handler fails beside its steps": (
        Both("completed", ((act("fail", "a"),), (act("step", "b"), act("step", "c")))),
    ),
}


@pytest.mark.parametrize("walk", FOUND.values(), ids=FOUND)
def test_what_was_found(walk: Walk) -> None:
    for seed in range(100):
        draw = random.Random(seed)
        ends: list[End] = [(draw.randint(1, 40), draw.choice(["kill", "kill", "freeze"])) for _ in range(3)]
        answer(walk, seed, ends)


def test_step_that_is_gone_from_the_code_holds_up_the_others_for_a_moment() -> None:
    before: Walk = (TEXT, act("step", "a"), act("step", "gone"), act("step", "b"), act("fail", "c"), TEXT)
    after: Walk = (TEXT, act("step", "a"), act("step", "b"), act("fail", "c"))

    def handler(attempts: Attempts) -> Handler:
        def walk(turn: Turn) -> AsyncIterator[Any]:
            return handler_of(before if turn.attempt == 1 else after)(attempts)(turn)

        return walk

    async def main() -> str:
        attempts = Attempts(handler, 1, [], {})
        return (await attempts.answer_all()).text

    assert virtual_time.run(main()).endswith("(a 1)(gone 1)(b 1)(c 3)")


async def test_part_that_a_thread_shows_comes_before_its_step_has_ended() -> None:
    async def handler(turn: Turn) -> AsyncIterator[str]:
        def work() -> None:
            turn.show({"type": "data-note", "data": "hello"})

        yield "a"
        await turn.step("step", work)
        yield "b"

    turn = Turn("Walk", "", (), (), Session("", "", None, "Walk", {}), "")
    shown = [(piece.text, getattr(piece, "part", None)) async for piece in run_handler(handler, turn)]
    assert [item for item in shown if any(item)] == [
        ("a", None),
        ("", {"type": "data-note", "data": "hello"}),
        ("b", None),
        ("ab", None),
    ]
