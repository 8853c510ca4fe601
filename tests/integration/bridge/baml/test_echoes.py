"""A provider that repeats the prompt or the key: neither is in what operators read."""

from __future__ import annotations

import io
import json
import logging
import random
from types import ModuleType
from typing import Any

import psycopg
import pytest

from bridge import logs
from bridge.errors import TurnFailure
from bridge.functions import Functions
from bridge.model import Turn
from tests.integration.bridge.baml.calls import KEY, collect, turn, variables
from tests.support.commands import run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.echoes import answers, forms
from tests.support.raw_provider import RawProvider, Refusal, Sent
from tests.support.users import Person
from tests.support.workers import working

SECRET = "xyzzyplugh"
PROMPT = f"the plan is {SECRET}"
FORMS = forms(SECRET, KEY)


def repeats(text: str) -> bool:
    return SECRET in text.lower() or KEY[:9] in text


@pytest.mark.parametrize("echo", FORMS)
@pytest.mark.parametrize("shape", ["Text", "Note"])
async def test_detail_repeats_neither_prompt_nor_key(
    provider_functions: Functions, provider: RawProvider, echo: str, shape: str
) -> None:
    count = 0
    for name, answer in answers(echo):
        provider.answers = [answer]
        failure, model = await outcome(provider_functions, turn(PROMPT, f"{shape}{name}"))
        assert not repeats(str(model)), (name, answer)
        if failure is not None:
            assert failure.detail
            assert not repeats(f"{failure.code} {failure.detail} {failure.names}"), (name, answer, failure.detail)
            assert KEY not in failure.said
            # that of a refusal is the model's own, for the user
            assert failure.code == "model_filtered" or not repeats(failure.message), (name, answer)
        count += 1
    assert count > 150


async def outcome(functions: Functions, asked: Turn) -> tuple[TurnFailure | None, str | None]:
    """The failure of a turn, or else the model that answered."""
    try:
        _, completion = await collect(functions, asked)
    except TurnFailure as failure:
        return failure, None
    return None, completion.usage.model


async def test_code_that_repeats_nothing_is_shown(provider_functions: Functions, provider: RawProvider) -> None:
    provider.answers = [Refusal(400, json.dumps({"error": {"message": SECRET, "code": "brand_new_code"}}))]
    failure, _ = await outcome(provider_functions, turn(PROMPT, "TextChat"))
    assert failure is not None
    assert failure.detail == "HTTP 400: brand_new_code"


@pytest.mark.parametrize("words", ["false", "true"])
async def test_log_run_and_dead_letter_repeat_neither_prompt_nor_key(
    environment: dict[str, str],
    provider: RawProvider,
    provider_client: ModuleType,
    user: Person,
    db: psycopg.AsyncConnection[Row],
    words: str,
) -> None:
    """Except the log, if the operator wants the provider's words; no key is in them either."""
    everything = [(echo, *answer) for echo in FORMS for answer in answers(echo)]
    streamed = [one for one in everything if one[0] == FORMS[0] and isinstance(one[2], Sent)]  # refusals among them
    chosen = streamed + random.Random(1).sample(everything, 25)
    env = variables(provider.url) | {"FIRST_BASE_URL": provider.url, "BEDROCK_URL": provider.url}
    names = {f"Text{name}" for _, name, _ in chosen}
    lines = io.StringIO()
    handlers = [logging.StreamHandler(lines), logging.StreamHandler(lines)]
    handlers[0].setFormatter(logs._Json("test"))
    handlers[1].setFormatter(logs._Console())
    root = logging.getLogger("bridge")
    before = root.level
    root.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    settings: dict[str, Any] = {"functions": ",".join(sorted(names)), "max_failures": 1, "log_provider_errors": words}
    try:
        async with working(environment, client=provider_client, variables=env, **settings):
            for number, (_, name, answer) in enumerate(chosen):
                question = f"question {number}. {PROMPT}"
                provider.answers_to[question] = [answer]
                await user.reply(await user.ask(await user.open_session(f"Text{name}", title="named"), question))
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
    assert lines.getvalue().count('"attempt failed') > 30
    assert repeats(lines.getvalue()) == (words == "true")
    assert KEY not in lines.getvalue()
    runs = await (await db.execute("select error, model from bridge.runs")).fetchall()
    assert len(runs) == len(chosen)
    assert [run for run in runs if repeats(json.dumps(run))] == []
    letters = await (
        await db.execute("select error from bridge.dead_letters where error ->> 'code' <> 'model_filtered'")
    ).fetchall()
    assert len(letters) > 20
    assert [letter for letter in letters if repeats(json.dumps(letter))] == []
    for arguments in (["dead", "list"], ["dead", "list", "--json"]):
        _, out, err = await wait_for_exit(await run_bridge(*arguments, **environment))
        assert "attempt" in out
        assert not repeats(out + err)
