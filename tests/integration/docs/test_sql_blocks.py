"""SQL blocks run with an operator's role, in a transaction that is rolled back."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.blocks import Block, code_of
from tests.support.users import Person

CHECKED = code_of("sql")


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
async def test_sql_block_runs(block: Block, environment: dict[str, str], user: Person) -> None:
    connection = await psycopg.AsyncConnection.connect(environment["SUPABASE_DB_URL"])
    async with connection:
        await connection.execute(block.text.replace("'…'", f"'{user.id}'").encode())
        await connection.rollback()
