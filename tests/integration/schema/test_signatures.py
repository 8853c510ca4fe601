"""No migration takes a function away from workers and frontends that were there before it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import class_row

from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.support.database import Row, database

# A function that a migration takes away on purpose: `name: why nobody calls it any more`.
WITHDRAWN: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Signature:
    """A function that a role of the API may call: by names, as REST does."""

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
    """What somebody who calls the functions as they were cannot do any more."""
    found = []
    for old in before:
        if old.name in WITHDRAWN:
            continue
        now = [new for new in after if new.name == old.name]
        if len(now) != 1:
            found.append(f"{old.name}: there are {len(now)} of it; REST calls the one there is")
            continue
        (new,) = now
        if missing := old.typed.items() - new.typed.items():
            found.append(f"{old.name}: it takes no {sorted(missing)}")
        if wanted := new.required - old.required:
            found.append(f"{old.name}: it wants {sorted(wanted)}")
        if new.returns != old.returns:
            found.append(f"{old.name}: it returns {new.returns}, no {old.returns}")
        if lost := set(old.roles) - set(new.roles):
            found.append(f"{old.name}: {sorted(lost)} may not call it")
    return found


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
    """The database of a Supabase without any migration, as who runs them."""
    (tmp_path / "project" / "supabase" / "migrations").mkdir(parents=True)
    version = int(os.environ.get("DEVSTACK_POSTGRES", "18"))
    async with (
        Stack(tmp_path / "data", 0, postgres_version=version, fsync=False, project=tmp_path / "project") as stack,
        database(stack.environment["SUPABASE_DB_URL"]) as owner,
    ):
        yield owner


async def test_what_could_be_called_can_be_called_after_every_later_migration(
    owner: psycopg.AsyncConnection[Row],
) -> None:
    before: list[Signature] = []
    files = sorted((PROJECT / "supabase" / "migrations").glob("*.sql"))
    for file in files:
        async with owner.transaction():
            await owner.execute(file.read_bytes())
        after = await granted(owner)
        assert broken(before, after) == [], file.name
        before = after
    assert {"bridge_claim", "bridge_beat", "bridge_finish", "cancel_message"} <= {s.name for s in before}

    # the rule itself: what breaks callers is found, and what does not is let through
    drop, grant = (
        "drop function public.bridge_beat;",
        "grant execute on all functions in schema public to service_role;",
    )
    withheld = "revoke execute on function public.bridge_beat from public, authenticated, service_role;"
    create = "create function public.bridge_beat({}) returns {} language sql as $$ select null::{} $$;"

    def beat(arguments: str, returns: str = "jsonb") -> str:
        return create.format(arguments, returns, returns) + grant.format("service_role")

    for change, says in (
        (drop, "there are 0"),
        (beat("worker text, jobs jsonb, more int default 1"), "there are 2"),
        (drop + beat("worker text, jobs jsonb"), None),
        (drop + beat("worker text, jobs jsonb, more int default 1"), None),
        (drop + beat("worker text, jobs jsonb, more int"), "wants ['more']"),
        (drop + beat("worker text, items jsonb"), "it takes no [('jobs', 'jsonb')]"),
        (drop + beat("worker text, jobs json"), "it takes no [('jobs', 'jsonb')]"),
        (drop + beat("worker text, jobs jsonb", "text"), "returns text"),
        (drop + beat("worker text, jobs jsonb") + withheld, "there are 0"),
        (
            withheld + "grant execute on function public.bridge_beat to authenticated",
            "['service_role'] may not call it",
        ),
    ):
        async with owner.transaction(force_rollback=True):
            await owner.execute(change.encode())
            found = broken(before, await granted(owner))
        assert bool(found) is bool(says), change
        assert says is None or any(says in text for text in found), found
