"""The migrations as `supabase` sees them: applied once, linted, and typed."""

from __future__ import annotations

from pathlib import Path

import psycopg

from devstack import migrations
from devstack.stack import Stack
from tests.support import ROOT
from tests.support.database import Row


async def supabase(stack: Stack, home: Path, *arguments: str) -> str:
    """What the Supabase CLI prints about the stack's database; raises DevstackError with its words if it fails."""
    return await migrations.cli(*arguments, url=stack.environment["SUPABASE_DB_URL"], home=home)


async def test_a_second_push_changes_nothing(stack: Stack, tmp_path: Path, db: psycopg.AsyncConnection[Row]) -> None:
    versions = "select version from supabase_migrations.schema_migrations order by version"
    before = await (await db.execute(versions)).fetchall()
    assert len(before) == len(list((ROOT / "supabase" / "migrations").glob("*.sql")))
    said = await supabase(stack, tmp_path, "db", "push")
    assert "up to date" in said.lower()
    assert await (await db.execute(versions)).fetchall() == before


async def test_every_table_and_function_has_a_comment(db: psycopg.AsyncConnection[Row]) -> None:
    missing = await db.execute(
        """
        select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname in ('public', 'bridge') and c.relkind = 'r' and obj_description(c.oid, 'pg_class') is null
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
        assert function["authenticated"] is (function["name"] in ("cancel_message", "retry_message")), function
        assert function["overloads"] == 1, function["name"]
        if function["schema"] == "public":
            assert any(item.startswith("statement_timeout=") for item in function["config"]), function["name"]


async def test_the_hosted_service_may_refuse_the_topics(db: psycopg.AsyncConnection[Row]) -> None:
    """supabase/cli issue 6116: `db push` may not create policies on realtime.messages. That is a warning."""
    notices: list[str] = []
    db.add_notice_handler(lambda notice: notices.append(f"{notice.severity} {notice.message_primary}"))
    migration = next((ROOT / "supabase" / "migrations").glob("*_topics.sql")).read_text()
    apply = migration[migration.index("do $$") :].encode()
    await db.execute('drop policy "bridge: users hear their sessions" on realtime.messages')
    await db.execute("create role unprivileged nologin")
    try:
        await db.execute("grant usage on schema realtime, bridge to unprivileged")
        await db.execute("grant execute on function bridge.topics_policy to unprivileged")
        await db.execute("set role unprivileged")
        await db.execute(apply)
    finally:
        await db.execute("reset role")
        await db.execute("drop owned by unprivileged")
        await db.execute("drop role unprivileged")
        await db.execute(apply)
    assert [notice for notice in notices if notice.startswith("WARNING") and "bridge doctor" in notice]
    policies = await db.execute("select count(*) as count from pg_policies where policyname like 'bridge: %'")
    assert await policies.fetchall() == [{"count": 1}]


async def test_advisors_have_no_warning(stack: Stack, tmp_path: Path) -> None:
    said = await supabase(stack, tmp_path, "db", "advisors", "--level", "warn", "--fail-on", "warn")
    assert "WARN" not in said


async def test_the_clients_types_are_those_of_the_schema(stack: Stack, tmp_path: Path) -> None:
    said = await supabase(stack, tmp_path, "gen", "types", "--lang=typescript", "--schema", "public")
    committed = (ROOT / "client" / "src" / "database.types.ts").read_text()
    assert committed.endswith(said), "run `make types`"
