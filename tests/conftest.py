"""Fixtures that all tests share: one embedded Supabase, one scripted model, users, a database connection."""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support import ROOT, database, shipped, users
from tests.support.database import Row
from tests.support.users import Person

# no deadlines: shared machines are slow at times (with CI=true, this is the default)
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# Under `nohup` or in the background, what the tests start would ignore these signals too. A handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests import and start is what the project ships, whatever its user has added.
sys.path.insert(0, str(shipped.project()))
os.environ["PYTHONPATH"] = f"{shipped.project()}{os.pathsep}{ROOT}"
importlib.import_module("baml_client")  # now: pytest puts the folder of the clone before all others later

# Two files that exist in every clone, opened only to be locked with flock(2).
_QUEUE, _RUNNING = os.open(Path(__file__).parent, os.O_RDONLY), os.open(__file__, os.O_RDONLY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `quiet` while no other pytest process of this clone runs a test."""
    fcntl.flock(_QUEUE, fcntl.LOCK_EX)  # held while waiting, so that new tests cannot starve a quiet one
    fcntl.flock(_RUNNING, fcntl.LOCK_EX if item.get_closest_marker("quiet") else fcntl.LOCK_SH)
    fcntl.flock(_QUEUE, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        fcntl.flock(_RUNNING, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """An embedded Supabase with the migrations applied, which polls for changes and refuses joins quickly."""
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
        project=shipped.project(),
    ) as running:
        async with database.database(running.admin_url) as connection:
            # a test sends more in a second than a user in an hour; the tests of limits set a user's own
            await connection.execute("update bridge.limits set value = null where name not like '%%bytes'")
        yield running


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ModelServer]:
    """A scripted model, which the LLM_* settings point to."""
    async with ModelServer() as server:
        os.environ |= {"LLM_BASE_URL": server.url, "LLM_API_KEY": "key", "LLM_MODEL": "scripted"}
        yield server


@pytest.fixture
def environment(stack: Stack, model: ModelServer) -> dict[str, str]:
    """The environment variables that a worker and its users need."""
    return stack.environment


@pytest.fixture
async def sign_up(stack: Stack, environment: dict[str, str]) -> AsyncIterator[Callable[[], Awaitable[Person]]]:
    """Sign up a user. After the test, all users and their data are deleted."""
    people: list[Person] = []

    async def sign_up() -> Person:
        people.append(await users.person(environment))
        return people[-1]

    yield sign_up
    for one in people:
        await one.close()
    await database.delete_all_users(stack.admin_url)


@pytest.fixture
async def user(sign_up: Callable[[], Awaitable[Person]]) -> Person:
    """A signed-up user."""
    return await sign_up()


@pytest.fixture
async def db(stack: Stack) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """A connection to the database as its superuser."""
    async with database.database(stack.admin_url) as connection:
        yield connection


@pytest.fixture(scope="session", autouse=True)
def _shipped_project() -> None:
    """Run in the folder of the shipped project, where there is no file `.env`."""
    os.chdir(shipped.project())  # not earlier: processes of xdist look for the configuration where they start


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own settings from tests."""
    for name in [name for name in os.environ if name.startswith(("BRIDGE_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
