"""The schema is upgraded under load while an older worker runs: nothing is lost, nothing is answered twice.

The upgrade is made here, of what later migrations may do: a new column and index on the queue, and the worker's
functions created again with one more argument and one more key in their answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devstack import migrations
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.audit import Audit
from tests.faults.chaos import read
from tests.faults.checker import Expected, check
from tests.faults.test_deploy import busy
from tests.support import shipped
from tests.support.database import Row, database
from tests.support.users import Person, person
from tests.support.waiting import until
from tests.support.workers import worker_process

LATER = {
    "20990101000001_column.sql": """
        alter table bridge.jobs add column priority int not null default 0;
        create index jobs_by_priority on bridge.jobs (priority, run_at) where worker is null;
    """,
    # run by the migration itself, on whatever the functions are then
    "20990101000002_functions.sql": """
        do $upgrade$
        declare
            old regprocedure;
            definition text;
        begin
            for old in
                select p.oid from pg_catalog.pg_proc p
                 where p.pronamespace = 'public'::regnamespace
                   and p.proname in ('bridge_claim', 'bridge_beat', 'bridge_finish')
            loop
                definition := regexp_replace(pg_get_functiondef(old), '[)](\\s+RETURNS)',
                                             ', more integer DEFAULT NULL)\\1');
                definition := regexp_replace(definition, 'return (hints|bridge[.]queue_hints)',
                                             'return jsonb_build_object(''later'', true) || \\1');
                execute 'drop function ' || old;
                execute definition;
            end loop;
        end
        $upgrade$;
        revoke all on function public.bridge_claim, public.bridge_beat, public.bridge_finish
            from public, anon, authenticated;
        grant execute on function public.bridge_claim, public.bridge_beat, public.bridge_finish to service_role;
    """,
}
SESSIONS = 8
CODE_SESSIONS = 2
DRAIN_SECONDS = 20
AFTERWARDS = 3  # replies of the old worker on the new schema before it is drained


@pytest.fixture
async def own_stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A Supabase of the test's own, with today's schema."""
    version = int(os.environ.get("DEVSTACK_POSTGRES", "18"))
    async with Stack(
        tmp_path / "data",
        0,
        postgres_version=version,
        fsync=False,
        polling_delay=(0.02, 0.05),
        denied_delay=0.1,
        project=shipped.project(),
    ) as stack:
        yield stack


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """A project with later migrations."""
    project = tmp_path / "project"
    shipped.copy_supabase(project)
    for name, text in LATER.items():
        (project / "supabase" / "migrations" / name).write_text(text)
    return project


class Asking:
    """Asks all the time, in every session; a refused insert is raised."""

    def __init__(self, user: Person) -> None:
        self.expected: list[Expected] = []
        self.enough = asyncio.Event()
        self._user = user

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(SESSIONS):
                group.create_task(self._asks(is_code=n < CODE_SESSIONS))

    async def _asks(self, *, is_code: bool) -> None:
        session_id = await self._user.open_session("Code" if is_code else "Chat", title="named")
        n = 0
        while not self.enough.is_set():
            n += 1
            mark = f"m{len(self.expected):05d}"
            text = " ".join([mark, *(f"word{k}" for k in range(30))])
            if is_code:
                data = {"reply": text, "files": [{"path": f"{mark}.txt", "content": mark, "language": "text"}]}
                message_id = await self._user.ask(session_id, f"[[delay=0.01 json={json.dumps(data)}]]")
                self._expect(Expected(message_id, session_id, text, mark, data, {f"{mark}.txt": mark}))
            else:
                message_id = await self._user.ask(session_id, f'[[delay=0.02 text="{text}"]]')
                self._expect(Expected(message_id, session_id, text, mark))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.6):
                    await self.enough.wait()

    def _expect(self, expected: Expected) -> None:
        self.expected.append(expected)


async def answered_by(db: psycopg.AsyncConnection[Row], messages: list[Expected]) -> Counter[str]:
    """Return how many of these each worker has answered."""
    cursor = await db.execute(
        "select worker, count(*) from bridge.runs where outcome = 'done' and question_id = any (%s::uuid[]) group by 1",
        ([expected.message_id for expected in messages],),
    )
    return Counter({row["worker"]: row["count"] for row in await cursor.fetchall()})


async def test_upgrade_of_schema_under_load_loses_and_repeats_nothing(
    own_stack: Stack, later: Path, model: ModelServer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sweep_seconds": 30, "drain_seconds": DRAIN_SECONDS, "concurrency": SESSIONS // 2}
    url = own_stack.environment["SUPABASE_DB_URL"]
    async with contextlib.AsyncExitStack() as opened:
        db = await opened.enter_async_context(database(own_stack.admin_url))
        await db.execute("update bridge.limits set value = null where name not like '%%bytes'")
        audit = Audit(db, calls=False)
        await audit.install()
        user = await person(own_stack.environment)
        opened.push_async_callback(user.close)
        old = await opened.enter_async_context(worker_process(own_stack.environment, tmp_path / "old.log", **settings))
        asking = Asking(user)
        loading = asyncio.create_task(asking.run())
        try:
            await until(lambda: len(asking.expected) > SESSIONS, 20)
            await busy(old)
            before = len(asking.expected)
            await migrations.push(url, home=tmp_path / "cli", project=later)
            await own_stack.lite.reload()
            assert await migrations.pending(url, later) == ()
            assert len(asking.expected) > before, "no question came during the upgrade"

            after = len(asking.expected)

            async def goes_on() -> bool:
                return (await answered_by(db, asking.expected[after:])).total() >= AFTERWARDS

            await until(goes_on, 30)  # only the old one, on the new schema
            hints = await (await db.execute("select public.bridge_beat('probe', '[]', more => 1) as answer")).fetchall()
            assert hints[0]["answer"]["later"] is True
            new = await opened.enter_async_context(
                worker_process(own_stack.environment, tmp_path / "new.log", **settings)
            )
            await busy(new)
            await busy(old)
            old.signal(signal.SIGTERM)
            assert await old.ended(DRAIN_SECONDS + 5) == 0

            async def share_the_work() -> bool:
                shares = await answered_by(db, asking.expected)
                return len(shares) == 2 and min(shares.values()) > AFTERWARDS

            await until(share_the_work, 30)  # only the new one
        finally:
            asking.enough.set()
            await loading
        await until(lambda: _is_quiet(db), 30)
        ledger = await read(own_stack, asking.expected)
        shares = await answered_by(db, asking.expected)
    assert check(ledger) == []
    assert len(ledger.expected) > 3 * SESSIONS
    # one attempt each: none failed, none was released, none was taken over
    assert Counter(run["outcome"] for run in ledger.runs) == {"done": len(ledger.expected)}
    assert {run["attempt"] for run in ledger.runs} == {1}
    assert len(shares) == 2
    assert min(shares.values()) > AFTERWARDS
    for worker in (old, new):
        assert [line for line in worker.lines() if line["level"] in ("warning", "error", "critical")] == []


async def _is_quiet(db: psycopg.AsyncConnection[Row]) -> bool:
    return not await (await db.execute("select 1 as one from bridge.jobs limit 1")).fetchall()
