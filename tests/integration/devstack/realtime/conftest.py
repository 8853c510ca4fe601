"""A Postgres of the tests' own, with the tables that the recordings of the hosted server were made with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devstack.__main__ import postgres_version
from devstack.postgres import Postgres
from tests.integration.devstack.realtime.service import PASSWORD, Service, execute, prepare, served


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    server = Postgres(folder / "data", password=PASSWORD, log=folder / "log", version=postgres_version(), fsync=False)
    await server.start()
    try:
        await prepare(server)
        await execute(server.dsn("postgres", PASSWORD), (Path(__file__).parent / "tables.sql").read_text())
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def service(postgres: Postgres) -> AsyncIterator[Service]:
    async with served(postgres) as running:
        yield running


@pytest.fixture
async def sql(postgres: Postgres) -> AsyncIterator[Callable[..., Awaitable[list[tuple[Any, ...]]]]]:
    """Run a statement as the role that runs migrations; return its rows."""
    dsn = postgres.dsn("postgres", PASSWORD)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def run(text: str, *args: Any) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(text, args or None)
            return await cursor.fetchall() if cursor.description else []

        yield run
