"""Migrations keep the functions that older workers and frontends call."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import class_row

from devstack import migrations
from devstack.stack import Stack
from tests.support import shipped
from tests.support.database import Row, database

# Functions that a migration removes on purpose: `name: why no one calls it any more`.
WITHDRAWN: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Signature:
    """A function that a role of the API may call. REST passes arguments by name."""

    name: str
    arguments: Sequence[str]
    types: Sequence[str]
    defaults: int
    returns: str
    roles: Sequence[str]

    @property
    def typed(self) -> dict[str, str]:
        return dict(zip(self.arguments, self.types, strict=True))

    @property
    def required(self) -> set[str]:
        return set(self.arguments[: len(self.arguments) - self.defaults])


async def granted(db: psycopg.AsyncConnection[Row]) -> list[Signature]:
    """Every function of `public` that `authenticated` or `service_role` may call."""
    async with db.cursor(row_factory=class_row(Signature)) as cursor:
        await cursor.execute(
            """
            select p.proname::text as name, coalesce(p.proargnames, '{}') as arguments,
                   array(select format_type(t, null) from unnest(p.proargtypes) with ordinality a (t, n) order by n)
                       as types,
                   p.pronargdefaults::int as defaults, format_type(p.prorettype, null) as returns,
                   array(select r from unnest(array['authenticated', 'service_role']) r
                          where has_function_privilege(r, p.oid, 'execute')) as roles
              from pg_proc p
             where p.pronamespace = 'public'::regnamespace
               and (has_function_privilege('authenticated', p.oid, 'execute')
                    or has_function_privilege('service_role', p.oid, 'execute'))
             order by 1
            """
        )
        return await cursor.fetchall()


def broken(before: Sequence[Signature], after: Sequence[Signature]) -> list[str]:
    """Return what breaks for callers of the functions as they were before."""
    found = []
    for old in before:
        if old.name in WITHDRAWN:
            continue
        now = [new for new in after if new.name == old.name]
        if len(now) != 1:
            found.append(f"{old.name}: has {len(now)} definitions, and REST needs exactly one")
            continue
        (new,) = now
        if missing := old.typed.items() - new.typed.items():
            found.append(f"{old.name}: no longer takes {sorted(missing)}")
        if wanted := new.required - old.required:
            found.append(f"{old.name}: newly requires {sorted(wanted)}")
        if new.returns != old.returns:
            found.append(f"{old.name}: returns {new.returns} instead of {old.returns}")
        if lost := set(old.roles) - set(new.roles):
            found.append(f"{old.name}: {sorted(lost)} may no longer call it")
    return found


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """Connect, as the role that runs migrations, to a Supabase without any."""
    (tmp_path / "project" / "supabase" / "migrations").mkdir(parents=True)
    version = int(os.environ.get("DEVSTACK_POSTGRES", "18"))
    async with (
        Stack(tmp_path / "data", 0, postgres_version=version, fsync=False, project=tmp_path / "project") as stack,
        database(stack.environment["SUPABASE_DB_URL"]) as owner,
    ):
        yield owner


async def test_rpc_signatures_stay_backward_compatible(
    owner: psycopg.AsyncConnection[Row],
) -> None:
    before: list[Signature] = []
    for file in migrations.files(shipped.project()):
        async with owner.transaction():
            await owner.execute(file.read_bytes())
        after = await granted(owner)
        assert broken(before, after) == [], file.name
        before = after
    assert {"bridge_claim", "bridge_beat", "bridge_finish", "cancel_message"} <= {s.name for s in before}

    # the check itself finds what breaks callers, and accepts what does not
    drop, grant = (
        "drop function public.bridge_beat;",
        "grant execute on all functions in schema public to service_role;",
    )
    withheld = "revoke execute on function public.bridge_beat from public, authenticated, service_role;"
    create = "create function public.bridge_beat({}) returns {} language sql as $$ select null::{} $$;"

    def beat(arguments: str, returns: str = "jsonb") -> str:
        return create.format(arguments, returns, returns) + grant.format("service_role")

    for change, text in (
        (drop, "has 0 definitions"),
        (beat("worker text, jobs jsonb, more int default 1"), "has 2 definitions"),
        (drop + beat("worker text, jobs jsonb"), None),
        (drop + beat("worker text, jobs jsonb, more int default 1"), None),
        (drop + beat("worker text, jobs jsonb, more int"), "requires ['more']"),
        (drop + beat("worker text, items jsonb"), "no longer takes [('jobs', 'jsonb')]"),
        (drop + beat("worker text, jobs json"), "no longer takes [('jobs', 'jsonb')]"),
        (drop + beat("worker text, jobs jsonb", "text"), "returns text"),
        (drop + beat("worker text, jobs jsonb") + withheld, "has 0 definitions"),
        (
            withheld + "grant execute on function public.bridge_beat to authenticated",
            "['service_role'] may no longer call it",
        ),
    ):
        async with owner.transaction(force_rollback=True):
            await owner.execute(change.encode())
            found = broken(before, await granted(owner))
        assert bool(found) is bool(text), change
        assert text is None or any(text in line for line in found), found
