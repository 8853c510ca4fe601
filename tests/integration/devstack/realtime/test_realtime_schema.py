"""Schema `realtime` is restricted for the role that runs migrations, as on the hosted service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from devstack.__main__ import postgres_version
from devstack.postgres import Postgres
from tests.integration.devstack.realtime.service import PASSWORD, execute, running_postgres, served, token

REJECTED = [
    "comment on table realtime.messages is 'x'",
    "comment on policy allowed on realtime.messages is 'x'",
    "alter table realtime.messages add column x int",
    "alter table realtime.messages disable row level security",
    "alter table realtime.messages owner to postgres",
    "create index on realtime.messages (topic)",
    "alter table realtime.messages disable trigger all",
    "create function realtime.mine() returns int language sql return 1",
    "create table realtime.mine ()",
    "drop table realtime.messages cascade",
    "drop function realtime.topic() cascade",
    "drop schema realtime cascade",
    "create or replace function realtime.topic() returns text language sql as $$ select ''::text $$",
    "alter function realtime.topic() rename to other",
    "comment on function realtime.topic() is 'x'",
    "alter publication supabase_realtime add table realtime.messages",
    "drop event trigger devstack_refuse_ddl",
    "set role supabase_realtime_admin",
]


@pytest.fixture(scope="module", params=[18, 16])
async def database(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The connection URL of the role `postgres`, for each Postgres version."""
    setup = """
        create policy allowed on realtime.messages for select to authenticated using (true);
        create function public.nothing() returns trigger language plpgsql as 'begin return null; end';
    """
    if request.param == postgres_version():
        dsn = postgres.dsn("postgres", PASSWORD)
        await execute(dsn, setup)
        yield dsn
        await execute(dsn, "drop policy allowed on realtime.messages; drop function public.nothing()")
        return
    async with running_postgres(tmp_path_factory.mktemp("other"), setup, version=request.param) as server:
        yield server.dsn("postgres", PASSWORD)


@pytest.mark.parametrize("statement", REJECTED)
async def test_ddl_is_rejected(database: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await execute(database, statement)


async def test_migration_role_can_create_alter_and_drop_policies(database: str) -> None:
    await execute(
        database,
        "create policy mine on realtime.messages for insert to authenticated with check (realtime.topic() = 'a')",
    )
    await execute(database, "alter policy mine on realtime.messages with check (realtime.topic() = 'b')")
    await execute(database, "drop policy mine on realtime.messages")


async def test_migration_role_can_create_and_drop_triggers(database: str) -> None:
    await execute(
        database,
        "create trigger mine after insert on realtime.messages for each row execute function public.nothing()",
    )
    await execute(database, "select realtime.send('{}'::jsonb, 'e', 'nobody')")
    await execute(database, "drop trigger mine on realtime.messages")


async def test_migration_role_has_all_rights_on_messages(database: str) -> None:
    await execute(database, "select realtime.send('{}'::jsonb, 'e', 'mine')")
    await execute(database, "update realtime.messages set event = 'f' where topic = 'mine'")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        deleted = await connection.execute("delete from realtime.messages where topic = 'mine' returning event")
        assert await deleted.fetchall() == [("f",)]
    await execute(database, "truncate realtime.messages")


async def test_functions_have_the_settings_and_grants_of_the_hosted_service(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        found = await connection.execute(
            "select p.proname::text, p.proconfig, p.prosecdef,"
            " exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)"
            " from pg_catalog.pg_proc p where p.pronamespace = 'realtime'::regnamespace order by 1"
        )
        assert await found.fetchall() == [
            (name, None, False, True) for name in ("broadcast_changes", "send", "send_binary", "topic")
        ]


async def test_publication_of_messages_is_made_by_the_server(tmp_path: Path) -> None:
    """A migration that runs before the server does not find it; then it has the defaults, and only inserts are sent."""
    publication = "select * from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication'"
    policy = "create policy allowed on realtime.messages for select to authenticated using (true)"
    async with (
        running_postgres(tmp_path, policy) as server,
        await psycopg.AsyncConnection.connect(
            server.dsn("postgres", PASSWORD), autocommit=True, row_factory=dict_row
        ) as connection,
    ):
        assert await (await connection.execute(publication)).fetchall() == []
        async with served(server) as service:
            (row,) = await (await connection.execute(publication)).fetchall()
            owner = await connection.execute("select %s::oid::regrole::text as name", (row["pubowner"],))
            assert await owner.fetchall() == [{"name": "supabase_admin"}]
            options = ("pubinsert", "pubupdate", "pubdelete", "pubtruncate", "pubviaroot", "puballtables")
            assert [row[name] for name in options] == [True, True, True, True, False, False]
            client = await service.connect()
            await client.join("room:1", token(), private=True)
            await connection.execute("select realtime.send('{}'::jsonb, 'e', 'room:1')")
            await connection.execute("update realtime.messages set event = 'changed'")
            await connection.execute("delete from realtime.messages")
            await connection.execute("select realtime.send('{}'::jsonb, 'last', 'room:1')")
            events = [(await client.event("broadcast"))["event"] for _ in range(2)]
            assert events == ["e", "last"]


async def test_other_schemas_are_unrestricted(database: str) -> None:
    await execute(database, "create table public.free (topic text); comment on table public.free is 'x'")
    await execute(database, "create function public.f() returns text language sql as 'select realtime.topic()'")
    await execute(database, "drop function public.f(); drop table public.free")


async def test_send_raises_warning_on_failure(database: str) -> None:
    notices: list[str] = []
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        await connection.execute("select realtime.send('[1]'::jsonb, 'e', 'nobody', true)")
        await connection.execute("select realtime.send('{}'::jsonb, 'e', null, true)")
    assert len(notices) == 2
    assert all(notice.startswith("WarnSendingBroadcastMessage: ") for notice in notices)


async def test_send_stores_message(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("""select realtime.send('{"a": 1}'::jsonb, 'e', 'nobody')""")
        cursor = await connection.execute(
            "select payload ->> 'id' = id::text, extension, event, private, realtime.topic()"
            " from realtime.messages where topic = 'nobody'"
        )
        assert await cursor.fetchall() == [(True, "broadcast", "e", True, "nobody")]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
async def test_api_role_can_select_but_not_delete(database: str, role: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("select set_config('role', %s, true)", (role,))
        await connection.execute("select topic from realtime.messages")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("delete from realtime.messages")
