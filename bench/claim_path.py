"""The claim path, as a baseline beside dispatch in the same project: no worker hears, so every question is claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.database import Database
from bench.fleet import DEFAULTS
from bench.world import Project

# Workers go on writing that they hear, with their beats and claims.
CREATE = """
    create table bridge.bench_claim_path (is_taken boolean not null);
    insert into bridge.bench_claim_path values (false);
    create function bridge.bench_hear_nothing() returns trigger
    language plpgsql security definer set search_path = ''
    as $$
    begin
        if (select p.is_taken from bridge.bench_claim_path p) then
            new.capacity := 0;
            new.hears_until := '-infinity';
        end if;
        return new;
    end
    $$;
    create trigger bench_hear_nothing before insert or update on bridge.workers
        for each row execute function bridge.bench_hear_nothing();
"""
DROP = """
    drop trigger if exists bench_hear_nothing on bridge.workers;
    drop function if exists bridge.bench_hear_nothing();
    drop table if exists bridge.bench_claim_path;
"""
Take = Callable[[bool], Awaitable[None]]


@asynccontextmanager
async def claim_path(project: Project) -> AsyncIterator[Take]:
    """Yield a function that lets the next questions take the claim path (True) or be dispatched again (False)."""
    async with project.database() as db:
        await db.execute(DROP + CREATE)
        try:
            yield lambda is_taken: _take(db, is_taken)
        finally:
            await _take(db, False)
            await db.execute(DROP)


async def _take(db: Database, is_taken: bool) -> None:
    async with db.transaction():
        cursor = await db.execute(
            "update bridge.bench_claim_path set is_taken = %s where is_taken <> %s", [is_taken] * 2
        )
        if cursor.rowcount:
            await db.execute(
                "update bridge.workers set capacity = %s, hears_until = now() + interval '15 seconds'",
                (DEFAULTS.concurrency,),
            )
