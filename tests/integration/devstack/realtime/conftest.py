"""A Postgres for these tests, with the tables that the recordings of the hosted server used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devstack.postgres import Postgres
from tests.integration.devstack.realtime.service import PASSWORD, Service, Sql, running_postgres, served


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    tables = (Path(__file__).parent / "tables.sql").read_text()
    async with running_postgres(tmp_path_factory.mktemp("postgres"), tables) as server:
        yield server


@pytest.fixture
async def service(postgres: Postgres) -> AsyncIterator[Service]:
    async with served(postgres) as running:
        yield running


@pytest.fixture
async def sql(postgres: Postgres) -> AsyncIterator[Sql]:
    """A function that runs a statement as the role that runs migrations, and returns its rows."""
    dsn = postgres.dsn("postgres", PASSWORD)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def run(text: str, *args: Any) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(text, args or None)
            return await cursor.fetchall() if cursor.description else []

        yield run
