"""The parts that every test of the whole shares: one embedded Supabase, one scripted model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from devstack.model import ModelServer
from devstack.stack import Stack
from tests import harness
from tests.harness import Person, Row


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """An embedded Supabase with the migrations applied. Changes are polled fast, refused joins answered fast."""
    folder: Path = tmp_path_factory.mktemp("stack")
    version = int(os.environ.get("DEVSTACK_POSTGRES", "18"))
    async with Stack(
        folder,
        0,
        postgres_version=version,
        fsync=False,
        polling_delay=(0.02, 0.05),
        denied_delay=0.1,
        progress=lambda _: None,
    ) as running:
        async with harness.database(running.admin_url) as connection:
            # a test asks more in a second than a person in an hour; tests of the limits set their user's own
            await connection.execute("update bridge.limits set value = null where name not like '%%bytes'")
        yield running


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ModelServer]:
    """A scripted model; the LLM_* settings point to it."""
    async with ModelServer() as server:
        os.environ |= {"LLM_BASE_URL": server.url, "LLM_API_KEY": "key", "LLM_MODEL": "scripted"}
        yield server


@pytest.fixture
def environment(stack: Stack, model: ModelServer) -> dict[str, str]:
    """What a worker and its users need, as variables."""
    return stack.environment


@pytest.fixture
async def sign_up(stack: Stack, environment: dict[str, str]) -> AsyncIterator[Callable[[], Awaitable[Person]]]:
    """Signs somebody up. All of them, with all they have, are gone after the test."""
    people: list[Person] = []

    async def sign_up() -> Person:
        people.append(await harness.person(environment))
        return people[-1]

    yield sign_up
    for somebody in people:
        await somebody.close()
    async with harness.database(stack.admin_url) as connection:
        await connection.execute("delete from auth.users")


@pytest.fixture
async def user(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    """Somebody who is signed up."""
    return await sign_up()


@pytest.fixture
async def db(stack: Stack) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """The database, as its superuser."""
    async with harness.database(stack.admin_url) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith(("BRIDGE_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
