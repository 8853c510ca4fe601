"""The parts that every test of the whole shares: one embedded Supabase, one scripted model."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support import database, users
from tests.support.database import Row
from tests.support.users import Person

# what Hypothesis draws is judged by what comes of it, not by how fast (where CI=true it says so itself)
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# Open files to lock, not to read: flock(2) knows no names, and both are there in every clone.
_DOOR, _ROOM = os.open(Path(__file__).parent, os.O_RDONLY), os.open(__file__, os.O_RDONLY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `quiet` run when no other process of this folder runs one, and none begin beside it."""
    fcntl.flock(_DOOR, fcntl.LOCK_EX)  # who waits for the room holds the door, so that others cannot pass by for ever
    fcntl.flock(_ROOM, fcntl.LOCK_EX if item.get_closest_marker("quiet") else fcntl.LOCK_SH)
    fcntl.flock(_DOOR, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        fcntl.flock(_ROOM, fcntl.LOCK_UN)


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
        async with database.database(running.admin_url) as connection:
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
        people.append(await users.person(environment))
        return people[-1]

    yield sign_up
    for somebody in people:
        await somebody.close()
    await database.delete_all_users(stack.admin_url)


@pytest.fixture
async def user(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    """Somebody who is signed up."""
    return await sign_up()


@pytest.fixture
async def db(stack: Stack) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """The database, as its superuser."""
    async with database.database(stack.admin_url) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith(("BRIDGE_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
