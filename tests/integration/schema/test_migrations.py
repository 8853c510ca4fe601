"""The migrations and what they make: applied once, hardened, linted and typed."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from devstack import DevstackError, migrations
from devstack.stack import Stack
from tests.support import ROOT, shipped
from tests.support.database import Row


async def supabase(stack: Stack, home: Path, *arguments: str) -> str:
    """Return what the Supabase CLI prints for the stack's database. Raises `DevstackError` with its message."""
    url, project = stack.environment["SUPABASE_DB_URL"], shipped.project()
    return await migrations.cli(*arguments, url=url, home=home, project=project)


async def test_second_push_changes_nothing(stack: Stack, tmp_path: Path, db: psycopg.AsyncConnection[Row]) -> None:
    versions = "select version from supabase_migrations.schema_migrations order by version"
    before = await (await db.execute(versions)).fetchall()
    assert len(before) == len(list((shipped.project() / "supabase" / "migrations").glob("*.sql")))
    output = await supabase(stack, tmp_path, "db", "push")
    assert "up to date" in output.lower()
    assert await (await db.execute(versions)).fetchall() == before


async def test_every_table_and_function_has_a_comment(db: psycopg.AsyncConnection[Row]) -> None:
    missing = await db.execute(
        """
        select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('public', 'bridge') and c.relkind in ('r', 'v')
           and obj_description(c.oid, 'pg_class') is null
        union all
        select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname in ('public', 'bridge') and obj_description(p.oid, 'pg_proc') is null
        """
    )
    assert await missing.fetchall() == []


async def test_functions_are_hardened(db: psycopg.AsyncConnection[Row]) -> None:
    rows = await db.execute(
        """
        select p.proname as name, p.proconfig as config, n.nspname as schema,
               has_function_privilege('anon', p.oid, 'execute') as anon,
               has_function_privilege('authenticated', p.oid, 'execute') as authenticated,
               (select count(*) from pg_proc q where q.pronamespace = n.oid and q.proname = p.proname) as overloads
          from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('public', 'bridge')
        """
    )
    functions = await rows.fetchall()
    assert functions
    for function in functions:
        assert 'search_path=""' in (function["config"] or []), function["name"]
        assert function["anon"] is False, function["name"]
        is_for_users = function["name"] in ("cancel_message", "retry_message", "answer_message", "may_upload")
        assert function["authenticated"] is is_for_users, function
        assert function["overloads"] == 1, function["name"]
        if function["schema"] == "public":
            assert any(item.startswith("statement_timeout=") for item in function["config"]), function["name"]


@pytest.mark.parametrize(
    ("file", "table", "created"),
    [("topics", "realtime.messages", 1), ("bucket", "storage.objects", 3)],
    ids=["of topics", "of attachments"],
)
async def test_refused_policies_are_a_warning(
    db: psycopg.AsyncConnection[Row], file: str, table: str, created: int
) -> None:
    """supabase/cli issue 6116: on some projects `db push` may not create policies on tables of Supabase."""
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(f"{notice.severity} {notice.message_primary}"))
    source = (ROOT / "supabase" / "schemas" / f"{file}.sql").read_text()
    apply = source[source.index("do $$") :].encode()
    found = (
        "select 'policy' as kind, policyname as name from pg_policies"
        " where policyname like 'bridge: %%' and schemaname || '.' || tablename = %s"
        " union all select 'trigger', tgname from pg_trigger where tgname like 'bridge: %%' and tgrelid = %s::regclass"
    )
    for row in await (await db.execute(found.encode(), (table, table))).fetchall():
        await db.execute(f'drop {row["kind"]} "{row["name"]}" on {table}'.encode())
    await db.execute("create role unprivileged nologin")
    try:
        await db.execute("grant usage on schema realtime, storage, bridge to unprivileged")
        await db.execute("grant execute on function bridge.topics_policy, bridge.attachments_access to unprivileged")
        await db.execute("grant execute on function bridge.has_attachments_access to unprivileged")
        await db.execute("set role unprivileged")
        await db.execute(apply)
    finally:
        await db.execute("reset role")
        await db.execute("drop owned by unprivileged")
        await db.execute("drop role unprivileged")
        await db.execute(apply)
    assert [notice for notice in notices if notice.startswith("WARNING") and "bridge doctor" in notice]
    assert len(await (await db.execute(found.encode(), (table, table))).fetchall()) == created


async def test_advisors_have_no_warning(stack: Stack, tmp_path: Path) -> None:
    output = await supabase(stack, tmp_path, "db", "advisors", "--level", "warn", "--fail-on", "warn")
    assert "WARN" not in output


async def test_client_types_match_the_schema(stack: Stack, tmp_path: Path) -> None:
    types = await supabase(stack, tmp_path, "gen", "types", "--lang=typescript", "--schema", "public")
    committed = (ROOT / "client" / "src" / "database.types.ts").read_text()
    assert committed.endswith(types), "run `make types`"


def test_baseline_is_made_of_the_schema_files() -> None:
    (first, *later) = migrations.files(shipped.project())
    assert first.name.endswith("_baseline.sql")
    if not later:
        assert first.read_text() == migrations.baseline(shipped.project()), (
            "run `python -m devstack.migrations baseline`"
        )


def test_baseline_is_not_written_once_there_are_later_migrations(tmp_path: Path) -> None:
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "1_baseline.sql").touch()
    (folder / "2_more.sql").touch()
    with pytest.raises(DevstackError, match=r"must be the only migration, but there are: 1_baseline.sql, 2_more.sql"):
        migrations.write_baseline(tmp_path)
