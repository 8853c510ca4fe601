"""The model of a question or of its session reaches the worker, and only a client of baml_src is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from bridge import doctor
from devstack.model import ModelServer
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import working

SHORTHAND = "openai/gpt-5"


@pytest.fixture
async def models(db: psycopg.AsyncConnection[Row]) -> AsyncIterator[tuple[str, ...]]:
    """The rows of public.models: the client that there is, and a name that BAML would take for a provider's model."""
    names = ("Model", SHORTHAND)
    for name in names:
        await db.execute("insert into public.models (name) values (%s)", (name,))
    yield names
    await db.execute("delete from public.models where name = any(%s)", (list(names),))


async def test_model_of_the_question_or_the_session_is_asked(
    environment: dict[str, str], user: Person, models: tuple[str, ...]
) -> None:
    async with working(environment):
        good = await user.open_session("Chat", title="named", model="Model")
        bad = await user.open_session("Chat", title="named", model=SHORTHAND)
        rows = [
            await user.reply(await user.ask(good, "hi")),
            await user.reply(await user.ask(good, "hi", model=SHORTHAND)),
            await user.reply(await user.ask(bad, "hi", model="Model")),
            await user.reply(await user.ask(bad, "hi")),
        ]
        assert [(row["error"] or {}).get("code") for row in rows] == [None, "unknown_model", None, "unknown_model"]
        assert rows[1]["error"]["message"] == "There is no model named `openai/gpt-5`."


async def test_doctor_names_models_that_are_no_client(
    environment: dict[str, str], model: ModelServer, models: tuple[str, ...]
) -> None:
    env = environment | {"LLM_BASE_URL": model.url, "LLM_API_KEY": "key", "LLM_MODEL": "scripted"}
    found = {finding.name: finding async for finding in doctor.examine(env) if finding.problem}
    assert set(found) == {"models"}
    assert "names openai/gpt-5, but baml_src has no client" in (found["models"].problem or "")
    assert "delete the row" in found["models"].remedy
