"""What models write around a title, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import pytest

from bridge.errors import ModelUnavailable, ModelUnreachable, TurnFailure
from bridge.functions import Functions
from bridge.model import Completion, Job, Partial, Result, Session, Turn, Usage
from bridge.store import Store
from bridge.titles import clean_title, name_session
from bridge.turn import TITLE


@pytest.mark.parametrize(
    "answer",
    [
        "Deploy it",
        "Deploy it.",
        '"Deploy it"',
        "“Deploy it”",
        "«Deploy it»",
        "# Deploy it",
        "**Deploy it**",
        "- Deploy it",
        "<think>hm\n\nhm</think>\n\nDeploy it",
        "```\nDeploy it\n```",
        '```json\n{"title": "Deploy it"}\n```',
        "Title: Deploy it",
        "**Title:** Deploy it",
        "The title: Deploy it",
        "Session title: Deploy it",
        'Sure! Here is a title:\n\n"Deploy it"',
        "Sure! Here's a title: Deploy it",
        "Sure! Deploy it",
        'Sure, here is a suitable title for the conversation: "Deploy it"',
        "Here is the title you asked for: **Deploy it**",
        '{"title": "Deploy it"}',
        '{"Title": "Deploy it", "language": "en"}',
        '["Deploy it", "Other"]',
        "1. Deploy it\n2. Other",
        "Here are some:\n1. Deploy it\n2. Other",
        "\n\nDeploy it\n\nIt names the subject.",
    ],
)
def test_title_is_found(answer: str) -> None:
    assert clean_title(answer) == "Deploy it"


@pytest.mark.parametrize(
    "answer",
    ["Docker: how to deploy", "Title of a book", "Node.js vs. Deno.", "Titel: Hallo", "Sure-fire plans", "To be…"],
)
def test_title_that_is_clean_stays(answer: str) -> None:
    assert clean_title(answer) == answer


@pytest.mark.parametrize("answer", ["", " \n", "<think>for ever", "```\n```", '""', "***"])
def test_answer_without_a_title_gives_none(answer: str) -> None:
    assert clean_title(answer) == ""


def test_long_title_is_cut() -> None:
    assert len(clean_title("word " * 100)) <= 80


def test_cost_of_a_hostile_title_is_bounded() -> None:
    for answer in (
        "A" + "\n" * 100_000 + "b",
        "[" * 100_000,
        "<think></think>" * 20_000,
        " " * 100_000,
        "```\n" * 50_000,
    ):
        assert len(clean_title(answer)) <= 80


@pytest.mark.parametrize(
    ("failure", "characters", "charged"),
    [
        (ModelUnreachable("model_unavailable", "No."), 400, None),
        (ModelUnavailable("model_busy", "Busy."), 400, 100),
        (ModelUnavailable("model_busy", "Busy."), 0, None),
    ],
    ids=["not_asked", "asked", "handler"],
)
async def test_title_is_charged_if_a_model_was_asked(
    failure: TurnFailure, characters: int, charged: int | None
) -> None:
    charges: list[Usage] = []

    class Broken:
        names = (TITLE,)

        def characters_of(self, _: Turn) -> int:
            return characters

        async def run(self, _: Turn, steps: object = None) -> AsyncGenerator[Partial | Completion, None]:
            raise failure
            yield

    class Ledger:
        async def title(self, session: Session, title: str | None, usage: Usage) -> bool:
            charges.append(usage)
            return True

    turn = Turn("Chat", "a" * 300, (), (), Session("s", "u", None, "Chat", {}), "u")
    result = Result("q", 1, "done", text="b" * 100)
    await name_session(
        Job("q", 1, 0, cancel=False, turn=turn), result, cast(Functions, Broken()), cast(Store, Ledger())
    )
    assert [usage.input_tokens for usage in charges] == [charged]
