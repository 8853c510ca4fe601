"""The tables of Storage as a migration and SQL see them."""

from __future__ import annotations

import psycopg
import pytest

from devstack.stack import Stack
from devstack.storage import SCHEMA_SQL


async def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements in a transaction that is rolled back; return the rows of the last one."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for statement in statements:
            cursor = await connection.execute(statement.encode())
        rows = await cursor.fetchall() if cursor.description else []
        await connection.rollback()
        return rows


async def test_the_schema_is_idempotent(embedded: Stack) -> None:
    await run(embedded.admin_url, SCHEMA_SQL, SCHEMA_SQL)


async def test_a_migration_creates_buckets_policies_and_triggers(embedded: Stack) -> None:
    rows = await run(
        embedded.environment["SUPABASE_DB_URL"],
        "insert into storage.buckets (id, name) values ('of-a-migration', 'of-a-migration')",
        "create policy mine on storage.objects for select to authenticated using (owner_id = 'me')",
        "create policy all_buckets on storage.buckets for select to authenticated using (true)",
        "drop policy mine on storage.objects",
        "create function public.noted() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger noted after insert on storage.objects for each row execute function public.noted()",
        "insert into storage.objects (bucket_id, name) values ('of-a-migration', 'a/b.txt')",
        "select path_tokens from storage.objects where bucket_id = 'of-a-migration'",
    )
    assert rows == [(["a", "b.txt"],)]


@pytest.mark.parametrize(
    "statement",
    [
        "alter table storage.objects add column mine text",
        "alter table storage.objects enable row level security",
        "alter table storage.buckets disable row level security",
        "create index mine on storage.objects (owner_id)",
        "create table storage.mine (id int)",
        "create function storage.mine() returns int language sql as 'select 1'",
        "drop table storage.objects",
        "set role supabase_storage_admin",
    ],
)
async def test_a_migration_cannot_change_the_tables(embedded: Stack, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await run(embedded.environment["SUPABASE_DB_URL"], statement)


@pytest.mark.parametrize("table", ["objects", "buckets"])
async def test_rows_are_not_deleted_in_sql(embedded: Stack, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Use the Storage API instead"):
        await run(embedded.admin_url, f"delete from storage.{table}")
    allow = "set local storage.allow_delete_query = 'true'"
    await run(embedded.admin_url, allow, "delete from storage.objects", f"delete from storage.{table}")


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("foldername('a/b/c.png')", ["a", "b"]),
        ("foldername('c.png')", []),
        ("filename('a/b/c.png')", "c.png"),
        ("extension('a/b/c.tar.gz')", "gz"),
        ("extension('a.b/c')", "c"),
        ("allow_only_operation('object.upload')", True),
        ("allow_only_operation('storage.object.upload')", True),
        ("allow_only_operation('object.list')", False),
        ("allow_only_operation('')", False),
        ("allow_any_operation(array['object.list', 'object.upload'])", True),
        ("allow_any_operation('{}')", False),
    ],
)
async def test_functions_for_policies(embedded: Stack, call: str, result: object) -> None:
    url = embedded.environment["SUPABASE_DB_URL"]
    operation = "set local storage.operation = 'storage.object.upload'"
    assert await run(url, operation, f"select storage.{call}") == [(result,)]
    assert await run(url, "select storage.operation(), storage.allow_only_operation('object.list')") == [(None, False)]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_without_a_policy_nothing_is_allowed(embedded: Stack, role: str) -> None:
    url = embedded.environment["SUPABASE_DB_URL"]
    assert await run(url, f"set local role {role}", "select from storage.objects") == []
    assert await run(url, f"set local role {role}", "select from storage.buckets") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        await run(url, f"set local role {role}", "insert into storage.buckets (id, name) values ('mine', 'mine')")
