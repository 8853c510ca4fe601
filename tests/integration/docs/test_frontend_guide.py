"""The blocks of docs/frontend.md form one program that does what the page promises; its tables are correct."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from bridge import errors
from bridge.errors import TurnFailure
from devstack.migrations import PROJECT
from devstack.model import ModelServer
from tests.integration.docs.conftest import Program
from tests.support.blocks import in_page, rows_of
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import WorkerProcess

PAGE = PROJECT / "docs" / "frontend.md"
CHECKED = in_page("docs/frontend.md", "js")
CHECKS = Path(__file__).with_name("frontend.mjs").read_text()


async def test_page_blocks_form_a_working_frontend(
    worker: WorkerProcess,
    model: ModelServer,
    program: Program,
    sign_up: Callable[[], Awaitable[Person]],
    db: psycopg.AsyncConnection[Row],
    subtests: pytest.Subtests,
) -> None:
    user, other = await sign_up(), await sign_up()
    await db.execute(
        "insert into bridge.limits (name, user_id, value) values ('messages_per_minute', %s, 1)", [other.id]
    )
    blocks = [block.text for block in CHECKED]

    async def release_reply() -> None:
        """Release the reply that is held until the user has edited its file."""
        edited = "select from public.code_files where content = 'x = 5'"
        while True:
            if await (await db.execute(edited)).fetchone() is not None:
                model.let_go(times=99)
                return
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        releasing = group.create_task(release_reply())
        # each check has its own limit of 15 s, and names what did not arrive
        results = await program(user, *blocks, CHECKS, more=[other.email], within=240)
        releasing.cancel()
    assert len(results) == len(re.findall(r"^  async \"", CHECKS, re.M))
    for result in results:
        with subtests.test(result["name"]):
            assert result["error"] is None, result["error"]


@pytest.mark.parametrize("table", ["sessions", "messages", "code_files"])
async def test_documented_columns_match_grants_and_tables(db: psycopg.AsyncConnection[Row], table: str) -> None:
    (row,) = [row for row in rows_of(PAGE, "Tables") if row[0] == f"`{table}`"]
    _, writes, others = (set(re.findall(r"`(\w+)`", cell)) for cell in row)
    granted = await db.execute(
        "select column_name from information_schema.column_privileges where table_schema = 'public'"
        " and table_name = %s and grantee = 'authenticated' and privilege_type = 'INSERT'",
        [table],
    )
    assert writes == {column["column_name"] for column in await granted.fetchall()}
    columns = await db.execute(
        "select column_name from information_schema.columns where table_schema = 'public' and table_name = %s", [table]
    )
    assert writes | others == {column["column_name"] for column in await columns.fetchall()}
    assert not writes & others


async def test_documented_statuses_match_constraint(db: psycopg.AsyncConnection[Row]) -> None:
    found = await db.execute(
        "select pg_get_constraintdef(oid) as text from pg_constraint where conname = 'messages_status'"
    )
    constraint = (await found.fetchone() or {})["text"]
    assert {row[0].strip("`") for row in rows_of(PAGE, "Statuses")} == set(re.findall(r"'(\w+)'::text", constraint))


def test_documented_error_codes_match_code() -> None:
    documented = {
        code: row[2] == "yes"
        for row in rows_of(PAGE, "Errors")
        if row[2] in ("yes", "no")
        for code in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == _codes()


def _codes() -> dict[str, bool]:
    """Every error code that the bridge or the database writes into a reply, and whether the attempt is retried."""
    source = "".join(path.read_text() for path in (PROJECT / "bridge").rglob("*.py"))
    codes: dict[str, bool] = {}
    for name, code in re.findall(r"\b([A-Z]\w+)\(\s*\"([a-z_]+)\",", source):
        if isinstance(found := getattr(errors, name, None), type) and issubclass(found, TurnFailure):
            codes[code] = codes.get(code, False) or found.retryable  # some classes share one
    # these classes take their codes from variables: the others have them in tables
    assert set(re.findall(r"\b([A-Z]\w+)\(\s*code,", source)) == {"ModelUnavailable", "StepUnresolved"}
    codes = {code: False for code in re.findall(r'^    \S+: \("(\w+)", "', source, re.M)} | codes
    codes |= {code: True for code in re.findall(r'\bcode(?:, text)? = .*?"(model_\w+)"', source)}
    codes |= {code: retry == "True" for retry, code in re.findall(r'Verdict\((True|False), "(\w+)"', source)}
    sql = "".join(path.read_text() for path in (PROJECT / "supabase" / "migrations").glob("*.sql"))
    written = set(re.findall(r"'code', '(\w+)', 'message'", sql)) - {"not_begun"}  # only handlers get that
    return codes | {code: False for code in written}
