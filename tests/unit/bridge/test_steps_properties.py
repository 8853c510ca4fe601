"""Handlers with steps, whose workers vanish at any moment: the reply is that of a run without such moments."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from bridge.handlers import Handler
from bridge.model import Turn
from tests.support import virtual_time
from tests.support.attempts import Attempts, End
from tests.support.walks import Act, Behind, Both, Emit, Simple, Walk, answers, check, handler_of

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
ENDS = st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["kill", "freeze"])), max_size=5)


def answer(walk: Walk, seed: int, ends: Sequence[End]) -> None:
    async def main() -> None:
        attempts = Attempts(handler_of(walk), seed, ends, answers(walk))
        row = await attempts.answer_all()
        check(walk, attempts, row)

    virtual_time.run(main())


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
    "a model is cut short": (Both("group", ((act("fail", "a"),), (act("say", "say"),), (act("yes", "b"),))),),
}


@pytest.mark.parametrize("walk", FOUND.values(), ids=FOUND)
def test_what_was_found(walk: Walk) -> None:
    for seed in range(100):
        draw = random.Random(seed)
        ends: list[End] = [(draw.randint(1, 40), "kill") for _ in range(3)]
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
