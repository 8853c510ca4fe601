"""The schema files and the migrations make the same database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bridge.model import Description
from bridge.rows import encode_description
from devstack import migrations, storage
from devstack.realtime import SCHEMA_SQL
from devstack.stack import Stack
from tests.integration.schema.catalogue import catalogue, difference
from tests.support import shipped
from tests.support.database import Row, database

DEVSTACK = migrations.PROJECT / "devstack"


@asynccontextmanager
async def made_of(stack: Stack, name: str, files: Iterable[Path]) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """Connect as the superuser to a database of the stack's server that `postgres` made of these files."""
    urls = [url.rpartition("/")[0] + f"/{name}" for url in (stack.admin_url, stack.environment["SUPABASE_DB_URL"])]
    async with database(stack.admin_url) as server:
        await server.execute(sql.SQL("create database {} owner postgres").format(sql.Identifier(name)))
        try:
            async with database(urls[0]) as admin:
                await admin.execute((DEVSTACK / "bootstrap.sql").read_bytes())
                # of what the Auth server makes, the schema needs this table
                await admin.execute("create table auth.users (id uuid primary key)")
                await admin.execute("grant all on auth.users to postgres")
                await admin.execute((DEVSTACK / "auth.sql").read_bytes())
                await admin.execute(SCHEMA_SQL.encode())
                await admin.execute(storage.SCHEMA_SQL.encode())
                await admin.execute((DEVSTACK / "guard.sql").read_bytes())
                async with database(urls[1]) as owner:
                    for file in files:
                        async with owner.transaction():
                            await owner.execute(file.read_bytes())
                yield admin
        finally:
            await server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


async def test_schemas_and_migrations_make_the_same_database(stack: Stack) -> None:
    async with (
        made_of(stack, "of_schemas", migrations.schemas(shipped.project())) as schemas,
        made_of(stack, "of_migrations", migrations.files(shipped.project())) as migrated,
    ):
        found = difference(await catalogue(schemas), await catalogue(migrated))
    assert not found, "\n\n".join(found)


async def test_schema_before_the_catalogue_takes_what_a_worker_says_now(stack: Stack) -> None:
    files = migrations.files(shipped.project())
    before = files[: next(n for n, file in enumerate(files) if file.name.endswith("_catalogue.sql"))]
    new = encode_description(Description("New", "A title", "What it does", {}, {"type": "string"}, ["Why?"]))
    async with made_of(stack, "before_the_catalogue", before) as db:
        describe = "select public.bridge_describe(%s::json)"
        await db.execute(describe, (json.dumps([new]),))
        read = await db.execute("select name, result from public.functions")
        assert await read.fetchall() == [{"name": "New", "result": {"type": "string"}}]
        # what has been described by then stays, but for what could never be shown
        await db.execute(describe, (r'[{"name": "a\u001b"}, {"name": "Old", "result": {"a": "\u202e"}}]',))
        for file in files[len(before) :]:
            await db.execute(file.read_bytes())
        read = await db.execute("select name, result, suggestions from public.functions")
        assert await read.fetchall() == [{"name": "New", "result": {"type": "string"}, "suggestions": []}]


def test_every_schema_file_is_listed() -> None:
    folder = shipped.project() / "supabase" / "schemas"
    assert sorted(migrations.schemas(shipped.project())) == sorted(folder.glob("*.sql"))


@pytest.fixture(scope="module")
async def planted(stack: Stack) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """A database for differences, each planted in a transaction that is rolled back."""
    async with made_of(stack, "planted", migrations.schemas(shipped.project())) as db:
        yield db


BODY = "returns text language plpgsql immutable set search_path = '' as $$ begin return ''; end $$"


@pytest.mark.parametrize(
    ("change", "finds"),
    [
        ("create table bridge.more (id int)", "relation bridge.more: only in supabase/migrations"),
        ("drop view bridge.live_workers", "relation bridge.live_workers: only in supabase/schemas"),
        ("alter table bridge.jobs add column more int", "column bridge.jobs.more: only in"),
        ("alter table bridge.jobs alter column failures type bigint", "column bridge.jobs.failures:"),
        ("alter table bridge.jobs alter column failures set default 1", "column bridge.jobs.failures:"),
        ("alter table bridge.jobs alter column failures drop not null", "column bridge.jobs.failures:"),
        ("alter table bridge.jobs alter column id set generated by default", "column bridge.jobs.id:"),
        ("alter table public.messages alter column content set storage external", "column public.messages.content:"),
        ("alter sequence bridge.jobs_id_seq cache 10", "sequence bridge.jobs_id_seq:"),
        ("alter table bridge.jobs drop constraint jobs_held_is_head", "constraint jobs_held_is_head on bridge.jobs:"),
        ("alter table bridge.jobs alter constraint jobs_session_id_fkey deferrable", "constraint jobs_session_id_fkey"),
        ("drop index bridge.jobs_ready", "index bridge.jobs_ready: only in"),
        (
            "drop index bridge.jobs_held; create index jobs_held on bridge.jobs (run_at) where worker is not null",
            "index bridge.jobs_held:",
        ),
        ("alter table bridge.jobs set (fillfactor = 80)", "relation bridge.jobs:"),
        ("alter table bridge.jobs replica identity full", "relation bridge.jobs:"),
        (f"create or replace function bridge.topics_policy() {BODY}", "function bridge.topics_policy():"),
        ("alter function bridge.promote() reset enable_seqscan", "function bridge.promote():"),
        ("alter function bridge.queue_hints(text) volatile", "function bridge.queue_hints(text):"),
        ("alter function public.bridge_status() security invoker", "function public.bridge_status():"),
        ("alter function bridge.promote() owner to supabase_admin", "function bridge.promote():"),
        (f"create function bridge.topics_policy(a int) {BODY}", "function bridge.topics_policy(integer): only in"),
        ("grant select on bridge.jobs to authenticated", "relation bridge.jobs:"),
        ("grant update (status) on public.messages to authenticated", "column public.messages.status:"),
        ("grant execute on function public.bridge_status to anon", "function public.bridge_status():"),
        ("grant usage on schema bridge to anon", "schema bridge:"),
        ("alter default privileges in schema bridge grant select on tables to anon", "default grants"),
        ('drop policy "users ask in their own sessions" on public.messages', 'policy "users ask in'),
        ('alter policy "users ask in their own sessions" on public.messages with check (true)', 'policy "users ask in'),
        ('drop policy "bridge: users listen on their own topics" on realtime.messages', 'policy "bridge: users'),
        ("alter table public.messages disable row level security", "relation public.messages:"),
        ("alter table public.messages force row level security", "relation public.messages:"),
        ("drop trigger promote on bridge.jobs", "trigger promote on bridge.jobs: only in"),
        ("alter table bridge.jobs disable trigger promote", "trigger promote on bridge.jobs:"),
        ("comment on table bridge.jobs is 'Jobs.'", "comment table bridge.jobs:"),
        ("comment on column bridge.jobs.run_at is null", "comment table column bridge.jobs.run_at: only in"),
        ("comment on function bridge.promote is 'Promotes.'", "comment function bridge.promote():"),
        ("alter publication supabase_realtime drop table public.messages", "published public.messages in"),
        ("update bridge.limits set value = 31 where value = 30", "limit messages_per_minute for everybody:"),
        ("create type bridge.mood as enum ('good')", "type bridge.mood: only in"),
    ],
)
async def test_planted_difference_is_found(planted: psycopg.AsyncConnection[Row], change: str, finds: str) -> None:
    async with planted.transaction(force_rollback=True):
        before = await catalogue(planted)
        await planted.execute(change.encode())
        found = difference(before, await catalogue(planted))
    assert any(text.startswith(finds) for text in found), found


async def test_untouched_database_has_no_difference(planted: psycopg.AsyncConnection[Row]) -> None:
    assert difference(await catalogue(planted), await catalogue(planted)) == []
