"""Fixtures for the tests of what you build.

`make test` runs this folder after the project's own tests. To run it alone: `.venv/bin/python -m pytest app_tests`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.functions import Functions
from bridge.model import Attachment, CodeFile, Completion, Message, Session, Turn
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support import database, users
from tests.support.users import Person


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A scripted model: a question's text tells it what to answer, as in `[[text=Hello]]` (see docs/devstack.md).

    `model.requests[-1].body` is what your function has sent.
    """
    async with ModelServer() as server:
        yield server


@pytest.fixture
def turn() -> Callable[..., Turn]:
    """Make the input of a handler: `turn("the question", files=[…], language="German")`. Other names are its `data`."""

    def make(
        message: str,
        *,
        function: str = "",
        messages: Sequence[Message] = (),
        files: Sequence[CodeFile] = (),
        attachments: Sequence[Attachment] = (),
        user_id: str = "user",
        question_id: str = "00000000-0000-4000-8000-000000000000",  # steps derive their keys from it
        attempt: int = 1,
        **data: Any,
    ) -> Turn:
        session = Session("session", user_id, None, function, {})
        context = (tuple(messages), tuple(files), session, user_id)
        return Turn(function, message, *context, data, question_id, attempt, attachments=tuple(attachments))

    return make


@pytest.fixture
async def ask(
    model: ModelServer, turn: Callable[..., Turn], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Awaitable[Completion]]:
    """Answer a question as a worker does: `await ask("Translate", "[[text=Hallo]]", language="German")`.

    The reply has `text`, `data` and `files`. Handlers can be asked too, once your test has imported their module. A
    reply that would fail raises `bridge.TurnFailure`.
    """
    variables = {"LLM_BASE_URL": model.url, "LLM_API_KEY": "key", "LLM_MODEL": "scripted"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)  # handlers that call BAML read it here

    async def ask(function: str, message: str, **others: Any) -> Completion:
        functions = Functions.load([function], env=variables)
        try:
            async for piece in functions.run(turn(message, function=function, **others)):
                last = piece
        finally:
            await functions.close()
        assert isinstance(last, Completion)
        return last

    return ask


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """An embedded Supabase with all migrations, yours too. `stack.admin_url` connects to its database."""
    folder: Path = tmp_path_factory.mktemp("stack")
    async with Stack(folder, 0, fsync=False, progress=lambda _: None) as running:
        yield running


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[Person]:
    """A signed-up user: `user.client` is the official client, `await user.rows("notes")` reads as that user."""
    person = await users.person(stack.environment)
    yield person
    await person.close()
    await database.delete_all_users(stack.admin_url)
