"""An insert wakes the worker three ways; each is shown alone."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from bridge.inbox import Signal, Work
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working


async def test_wakes_by_broadcast_with_postgres_changes_off(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment) as worker:
        await db.execute("alter publication supabase_realtime drop table public.messages")
        try:
            began = time.monotonic()
            message_id = await user.ask(await user.open_session(), "[[text=heard]]")
            assert (await user.reply(message_id))["content"] == "heard"
            assert time.monotonic() - began < worker.settings.sweep_seconds / 3
            assert worker.metrics.missed_wakeups == 0
        finally:
            await db.execute("alter publication supabase_realtime add table public.messages")


async def test_wakes_by_postgres_changes_with_broadcasts_off(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment) as worker:
        # the announcements fail from here on, as they do when realtime.send does
        await db.execute("alter function bridge.announce_work rename to announce_work_off")
        await db.execute(
            "create function bridge.announce_work(question_ids uuid[]) returns void"
            " language sql set search_path = '' as ''"
        )
        try:
            began = time.monotonic()
            message_id = await user.ask(await user.open_session(), "[[text=heard]]")
            assert (await user.reply(message_id))["content"] == "heard"
            assert time.monotonic() - began < worker.settings.sweep_seconds / 3
        finally:
            await db.execute("drop function bridge.announce_work")
            await db.execute("alter function bridge.announce_work_off rename to announce_work")


async def test_wakes_by_the_sweep_with_realtime_stopped(
    stack: Stack, environment: dict[str, str], user: Person
) -> None:
    await stack.realtime.stop()
    try:
        async with working(environment, ready=False, sweep_seconds=0.5) as worker:
            message_id = await user.ask(await user.open_session(), "[[text=found]]")
            assert (await user.reply(message_id))["content"] == "found"
            assert not worker.inbox.is_ready
    finally:
        await stack.realtime.start()


async def test_a_row_heard_of_twice_wakes_once(environment: dict[str, str], user: Person) -> None:
    async with working(environment) as worker:
        put, late = worker.inbox._put, list[Work]()

        def sort(signal: Signal) -> None:
            """Keep what postgres_changes tells until the broadcast has done its part."""
            if isinstance(signal, Work) and signal.source == "changes":
                late.append(signal)
            else:
                put(signal)

        worker.inbox._put = sort  # type: ignore[method-assign]  # it listens in
        before = worker.metrics.claims.copy()
        message_id = await user.ask(await user.open_session(title="named"), "[[text=once]]")
        await user.reply(message_id)
        await until(lambda: not worker.hands and late, within=10)
        assert [signal.message_ids for signal in late] == [(message_id,)]
        put(late[0])
        await until(lambda: worker.is_waiting, within=10)
        assert worker.metrics.claims["broadcast"] == before["broadcast"] + 1
        assert worker.metrics.claims["changes"] == 0


async def test_work_announced_before_it_can_be_seen(
    stack: Stack, environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Realtime reads the log of commits; a claim may ask a moment before the commit counts for others."""
    async with working(environment) as worker, database.database(stack.admin_url) as other:
        session_id = await user.open_session(title="named")
        async with other.transaction():
            row = "insert into public.messages (session_id, content) values (%s, '[[text=seen]]') returning id::text"
            (message,) = await (await other.execute(row, (session_id,))).fetchall()
            (xid,) = await (await other.execute("select pg_current_xact_id()::text::bigint as xid")).fetchall()
            before = worker.metrics.claims.total()
            worker.inbox._put(Work("broadcast", (message["id"],), xid["xid"]))
            async with asyncio.timeout(5):
                while worker.metrics.claims.total() < before + 3:  # noqa: ASYNC110  # it looks again and again
                    await asyncio.sleep(0.005)
        assert (await user.reply(message["id"]))["content"] == "seen"

        def looks_no_more() -> bool:
            """It has seen that transaction, and what is due next is far away."""
            due = worker.claims._due
            is_far = due is None or due.when() - asyncio.get_running_loop().time() > 1
            return worker.is_waiting and not worker.claims._unseen and is_far

        await until(looks_no_more, within=10)


@pytest.mark.quiet
async def test_beats_that_find_nothing_to_claim_stand_in_for_the_sweep(
    environment: dict[str, str], user: Person
) -> None:
    async with working(environment, sweep_seconds=3, checkpoint_seconds=0.1, lease_seconds=60) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=120 delay=0.05]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        before = worker.metrics.claims.copy()
        assert (await user.reply(message_id))["status"] == "done"  # six seconds later
        assert worker.metrics.claims == before
        await until(lambda: worker.metrics.claims["sweep"] > before["sweep"], within=20)


async def test_but_not_for_longer_than_a_lease(environment: dict[str, str], user: Person) -> None:
    """Only a claim learns of what this worker holds without knowing it."""
    async with working(environment, sweep_seconds=0.5, checkpoint_seconds=0.1, lease_seconds=2) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        before = worker.metrics.claims["sweep"]
        reply = await user.reply(message_id, lambda _: worker.metrics.claims["sweep"] > before)
        assert reply["status"] == "running"
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
