"""The database has the roles, privileges and settings that migrations find on the hosted service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from devstack import migrations
from devstack.stack import Stack
from tests.integration.devstack.conftest import User

Connection = psycopg.AsyncConnection[Any]


@pytest_asyncio.fixture(loop_scope="session")
async def admin(embedded: Stack) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(embedded.admin_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture(loop_scope="session")
async def owner(embedded: Stack) -> AsyncIterator[Connection]:
    """A connection as the role that runs migrations."""
    url = embedded.environment["SUPABASE_DB_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def one(connection: Connection, query: str, *values: object) -> Any:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    ("role", "options"),
    [  # login, superuser, inherit, createdb, createrole, replication, bypassrls
        ("postgres", (True, False, True, True, True, True, True)),
        ("anon", (False, False, True, False, False, False, False)),
        ("authenticated", (False, False, True, False, False, False, False)),
        ("service_role", (False, False, True, False, False, False, True)),
        ("authenticator", (True, False, False, False, False, False, False)),
        ("supabase_auth_admin", (True, False, False, False, True, False, False)),
        ("supabase_admin", (True, True, True, True, True, True, True)),
    ],
)
async def test_role_has_hosted_options(admin: Connection, role: str, options: tuple[bool, ...]) -> None:
    found = await admin.execute(
        "select rolcanlogin, rolsuper, rolinherit, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        " from pg_roles where rolname = %s",
        (role,),
    )
    assert await found.fetchone() == options


async def test_api_roles_inherit_nothing(admin: Connection) -> None:
    """They inherit, so a membership would open what the other role may do."""
    memberships = "select member::regrole::text, roleid::regrole::text from pg_auth_members where member::regrole::text"
    for role in ("anon", "authenticated", "service_role"):
        assert await (await admin.execute(f"{memberships} = %s", (role,))).fetchall() == []


async def test_only_known_roles_can_log_in(admin: Connection) -> None:
    rows = await (await admin.execute("select rolname from pg_roles where rolcanlogin")).fetchall()
    assert {name for (name,) in rows} == {"postgres", "authenticator", "supabase_auth_admin", "supabase_admin"}


async def test_database_has_hosted_settings(admin: Connection) -> None:
    assert await one(admin, "show wal_level") == "logical"
    assert await one(admin, "select datdba::regrole::text from pg_database where datname = 'postgres'") == "postgres"
    for role, setting in (
        ("anon", "statement_timeout=3s"),
        ("authenticated", "statement_timeout=8s"),
        ("authenticator", "statement_timeout=8s"),
        ("authenticator", "lock_timeout=8s"),
    ):
        assert setting in await one(admin, "select rolconfig from pg_roles where rolname = %s", role)
    assert await one(admin, "select rolconfig from pg_roles where rolname = 'service_role'") is None


async def test_migration_role_can_run_migrations(owner: Connection) -> None:
    assert await one(owner, "select current_setting('search_path')") == '"$user", public, extensions'
    assert await one(
        owner, "select pubowner::regrole::text from pg_publication where pubname = 'supabase_realtime'"
    ) == ("postgres")
    async with owner.transaction(force_rollback=True):
        await owner.execute("create schema mine")
        await owner.execute("create table public.made (id uuid references auth.users)")
        await owner.execute("alter publication supabase_realtime add table public.made")
        for role in ("anon", "authenticated", "service_role"):
            assert await one(owner, "select has_table_privilege(%s, 'public.made', 'insert')", role)
            await owner.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            await owner.execute("reset role")
        await owner.execute("create role bridge_reader")
        await owner.execute("grant authenticated to bridge_reader")


async def test_migration_role_is_not_superuser(owner: Connection) -> None:
    for statement in (
        "alter table realtime.messages add column x int",
        "create function public.c() returns int language c as 'x', 'y'",
        "alter role anon superuser",
        "copy (select 1) to program 'true'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await owner.execute(statement)


async def test_auth_functions_read_claims(admin: Connection, alice: User) -> None:
    async with admin.transaction(force_rollback=True):
        for name in ("uid", "role", "email", "jwt"):
            assert await one(admin, f"select auth.{name}()") is None
        claims = f'{{"sub": "{alice.id}", "role": "authenticated", "email": "{alice.email}"}}'
        await admin.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        assert str(await one(admin, "select auth.uid()")) == alice.id
        assert await one(admin, "select auth.role()") == "authenticated"
        assert await one(admin, "select auth.email()") == alice.email
        assert await one(admin, "select auth.jwt() ->> 'sub'") == alice.id


async def test_postgres_listens_only_on_loopback(embedded: Stack, admin: Connection) -> None:
    assert await one(admin, "show listen_addresses") == "127.0.0.1"
    assert await one(admin, "show unix_socket_directories") == ""
    assert embedded.gateway.url.startswith("http://127.0.0.1:")
    with pytest.raises(psycopg.OperationalError, match="password"):
        await psycopg.AsyncConnection.connect(embedded.postgres.dsn("postgres", "wrong"))


async def test_start_leaves_no_pending_migrations(embedded: Stack) -> None:
    url = embedded.environment["SUPABASE_DB_URL"]
    assert await migrations.pending(url, embedded.project) == ()
