"""Realtime as a part of the devstack: it reports failures, and what it is waiting for."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from devstack import DevstackError
from devstack.realtime import wal
from devstack.stack import Stack


async def test_realtime_failure_is_reported(embedded: Stack) -> None:
    """A bug that ends one of its tasks is reported like the crash of another part."""
    failure = asyncio.create_task(embedded.failed())
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def break_down() -> None:
        await broken

    task = asyncio.create_task(break_down(), name="a part of Realtime")
    task.add_done_callback(embedded.realtime._task_ended)
    broken.set_exception(RuntimeError("broken"))
    try:
        async with asyncio.timeout(5):
            assert await failure == "Realtime exited unexpectedly: a part of Realtime: RuntimeError('broken')"
    finally:
        embedded.realtime._failed.clear()


async def test_open_write_transaction_delays_realtime_start(embedded: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot can only be created once open write transactions have finished; the wait is announced and bounded."""
    monkeypatch.setattr(wal, "SLOT_SECONDS", 2.5)
    lines: list[str] = []
    monkeypatch.setattr(embedded, "_progress", lines.append)
    await embedded.realtime.stop()
    try:
        async with await psycopg.AsyncConnection.connect(embedded.environment["SUPABASE_DB_URL"]) as writing:
            await writing.execute("create table public.unfinished (id int)")
            with pytest.raises(DevstackError, match=r"no replication slot within 2 s: .*see pg_stat_activity") as error:
                await embedded._start_realtime()
            assert "\n" not in str(error.value)
            await writing.rollback()
        assert lines == ["Realtime is waiting for open write transactions to finish …"]
    finally:
        await embedded.realtime.start()
