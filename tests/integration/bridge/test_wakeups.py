"""A question reaches the worker in four ways, each tested without the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest

from bridge.realtime.listener import Signal, Work
from bridge.store import Store
from bridge.worker import Worker
from devstack.stack import Stack
from tests.support import database
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import claims, is_idle, worker_settings, working


@asynccontextmanager
async def replaced(db: psycopg.AsyncConnection[Row], function: str, body: str) -> AsyncIterator[None]:
    """While the block runs, a function of the schema `bridge` does something else."""
    row = await (
        await db.execute("select pg_get_functiondef(%s::regproc) as definition", (f"bridge.{function}",))
    ).fetchone()
    assert row is not None
    await db.execute(body)
    try:
        yield
    finally:
        await db.execute(row["definition"])


def without_dispatch(db: psycopg.AsyncConnection[Row]) -> AbstractAsyncContextManager[None]:
    """While the block runs, no worker is chosen: questions are announced to all."""
    return replaced(
        db,
        "choose_worker",
        """
        create or replace function bridge.choose_worker(
            session_id uuid, user_id uuid, function text, finisher text, failed_by text, excluded uuid[],
            may_take_last boolean, has_steps boolean,
            out worker text, out slot int, out lease interval
        ) language sql set search_path = '' as 'select null::text, null::int, null::interval'
        """,
    )


@asynccontextmanager
async def proven(environment: dict[str, str], user: Person) -> AsyncIterator[Worker]:
    """A worker whose model has answered once: after that, it claims once more."""
    async with working(environment) as worker:
        await user.reply(await user.ask(await user.open_session(title="named"), "[[text=hi]]"))
        await until(lambda: not worker.jobs.count and is_idle(worker), within=10)
        yield worker


async def test_dispatch_needs_no_claim(environment: dict[str, str], user: Person) -> None:
    async with proven(environment, user) as worker:
        before = claims(worker)
        message_id = await user.ask(await user.open_session(title="named"), "[[text=once]]")
        assert (await user.reply(message_id))["content"] == "once"
        await until(lambda: not worker.jobs.count and is_idle(worker), within=10)
        assert claims(worker) == before
        assert worker.metrics.value("bridge_dispatched_total") == 2


async def test_large_dispatch_is_claimed(environment: dict[str, str], user: Person) -> None:
    """Realtime stores each broadcast, so it brings only the hint that there is a question."""
    async with proven(environment, user) as worker:
        session_id = await user.open_session(title="named")
        for _ in range(2):
            await user.reply(await user.ask(session_id, "[[text=first]]" + "x" * 20_000))
        before = claims(worker)
        message_id = await user.ask(session_id, "[[text=second]]")
        assert (await user.reply(message_id))["attempt"] == 1
        assert claims(worker, woken_by="dispatch") == 2
        assert claims(worker) == before + 1


async def test_lost_dispatch_is_found_by_worker_itself(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """It hears of the insert by postgres_changes, and knows that there is no other worker that could have it."""
    async with proven(environment, user) as worker:
        session_id = await user.open_session(title="named")
        nothing = "create or replace function bridge.announce(topic text, event text, payload jsonb) returns void"
        async with replaced(db, "announce", f"{nothing} language sql set search_path = '' as ''"):
            message_id = await user.ask(session_id, "[[text=found]]")
        began = time.monotonic()
        reply = await user.reply(message_id)
        assert (reply["content"], reply["attempt"]) == ("found", 1)
        assert time.monotonic() - began < worker.settings.sweep_seconds / 3
        assert claims(worker, woken_by="watch") == 1


async def test_next_question_of_session_comes_with_answer_to_finish(environment: dict[str, str], user: Person) -> None:
    async with proven(environment, user) as worker:
        session_id = await user.open_session(title="named")
        before = claims(worker)
        questions = [await user.ask(session_id, f"[[text=number{n} delay=0.2]]") for n in range(3)]
        for n, question in enumerate(questions):
            assert (await user.reply(question))["content"] == f"number{n}"
        await until(lambda: not worker.jobs.count and is_idle(worker), within=10)
        assert claims(worker) == before


async def test_broadcast_wakes_worker_without_postgres_changes(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment) as worker, without_dispatch(db):
        await db.execute("alter publication supabase_realtime drop table public.messages")
        try:
            began = time.monotonic()
            message_id = await user.ask(await user.open_session(), "[[text=fine]]")
            assert (await user.reply(message_id))["content"] == "fine"
            assert time.monotonic() - began < worker.settings.sweep_seconds / 3
            assert worker.metrics.value("bridge_missed_wakeups_total") == 0
        finally:
            await db.execute("alter publication supabase_realtime add table public.messages")


async def test_postgres_changes_wake_worker_without_broadcasts(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    # announcements fail, as when realtime.send does
    nothing = "create or replace function bridge.announce_work(question_ids uuid[]) returns void"
    async with (
        working(environment) as worker,
        without_dispatch(db),
        replaced(db, "announce_work", f"{nothing} language sql set search_path = '' as ''"),
    ):
        began = time.monotonic()
        message_id = await user.ask(await user.open_session(), "[[text=fine]]")
        assert (await user.reply(message_id))["content"] == "fine"
        assert time.monotonic() - began < worker.settings.sweep_seconds / 3


async def test_sweep_finds_question_without_realtime(stack: Stack, environment: dict[str, str], user: Person) -> None:
    await stack.realtime.stop()
    try:
        async with working(environment, ready=False, sweep_seconds=0.5) as worker:
            message_id = await user.ask(await user.open_session(), "[[text=found]]")
            assert (await user.reply(message_id))["content"] == "found"
            assert not worker.listener.is_ready
    finally:
        await stack.realtime.start()


async def test_question_announced_twice_is_claimed_once(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment) as worker, without_dispatch(db):
        enqueue, late = worker.listener._enqueue, list[Work]()

        def hold_back_changes(signal: Signal) -> None:
            """Keep the signals of postgres_changes until the broadcast has been handled."""
            if isinstance(signal, Work) and signal.source == "changes":
                late.append(signal)
            else:
                enqueue(signal)

        worker.listener._enqueue = hold_back_changes  # type: ignore[method-assign]  # to delay some
        before = claims(worker, woken_by="broadcast")
        message_id = await user.ask(await user.open_session(title="named"), "[[text=once]]")
        await user.reply(message_id)
        await until(lambda: not worker.jobs.count and late, within=10)
        assert [signal.question_ids for signal in late] == [(message_id,)]
        enqueue(late[0])
        await until(lambda: is_idle(worker), within=10)
        assert claims(worker, woken_by="broadcast") == before + 1
        assert claims(worker, woken_by="changes") == 0


async def test_work_announced_before_its_commit_is_claimed_later(
    stack: Stack, environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Realtime reads the write-ahead log, so a claim may come before the commit is visible to it."""
    async with working(environment) as worker, database.database(stack.admin_url) as other:
        session_id = await user.open_session(title="named")
        async with other.transaction():
            row = "insert into public.messages (session_id, content) values (%s, '[[text=seen]]') returning id::text"
            (message,) = await (await other.execute(row, (session_id,))).fetchall()
            (xid,) = await (await other.execute("select pg_current_xact_id()::text::bigint as xid")).fetchall()
            before = claims(worker)
            worker.listener._enqueue(Work("broadcast", (message["id"],), xid["xid"]))
            await until(lambda: claims(worker) >= before + 3, 5, 0.005)  # it claims repeatedly
        assert (await user.reply(message["id"]))["content"] == "seen"

        def has_stopped_claiming() -> bool:
            """It has seen the transaction, and the next claim is not due soon."""
            due = worker.claims._due
            is_far = due is None or due.when() - asyncio.get_running_loop().time() > 1
            return is_idle(worker) and not worker.claims._unseen and is_far

        await until(has_stopped_claiming, within=10)


@pytest.mark.quiet
async def test_beats_with_empty_queue_replace_sweep(environment: dict[str, str], user: Person) -> None:
    async with working(environment, sweep_seconds=3, checkpoint_seconds=0.1, lease_seconds=60) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=120 delay=0.05]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        before, sweeps = claims(worker), claims(worker, woken_by="sweep")
        assert (await user.reply(message_id))["status"] == "done"  # after six seconds
        assert claims(worker) == before
        await until(lambda: claims(worker, woken_by="sweep") > sweeps, within=20)


async def test_beats_replace_sweep_for_one_lease_at_most(environment: dict[str, str], user: Person) -> None:
    """Only a claim returns jobs that the worker holds without knowing it."""
    async with working(environment, sweep_seconds=0.5, checkpoint_seconds=0.1, lease_seconds=2) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        before = claims(worker, woken_by="sweep")
        reply = await user.reply(message_id, lambda _: claims(worker, woken_by="sweep") > before)
        assert reply["status"] == "running"
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()


async def test_question_for_other_workers_causes_no_more_claims(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Neither one that waits for them, nor one whose lease with them has ended."""
    other = await Store.open(worker_settings(environment), "other")
    try:
        sessions = [await user.open_session("Compare", title="named") for _ in range(2)]
        await user.ask(sessions[0], "held, until its lease ends")
        assert len((await other.claim(1, [], ["Compare"])).jobs) == 1
        await db.execute("update bridge.jobs set lease_until = now() - interval '1 second'")
        async with working(environment, functions="Chat", sweep_seconds=60) as worker:
            before = claims(worker)
            await user.ask(sessions[1], "waits")
            # everything that the worker hears and does brings it the hints
            assert (await user.reply(await user.ask(await user.open_session(title="named"), "[[text=a]]")))["content"]
            await until(lambda: is_idle(worker) and not worker.jobs.count, within=10)
            due = worker.claims._due
            assert due is None or due.when() - asyncio.get_running_loop().time() > 10
            # one for each announcement, one more for a commit that was announced too early, one for the reply's end
            assert claims(worker) - before <= 6
            assert worker.metrics.value("bridge_missed_wakeups_total") == 0
        waiting = await (await db.execute("select function from bridge.jobs")).fetchall()
        assert [row["function"] for row in waiting] == ["Compare"] * 2
    finally:
        await other.close()


async def test_unknown_function_fails_when_its_time_has_come(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """The worker has set itself a time, and does not take it for a lost announcement."""
    async with working(environment, sweep_seconds=60) as worker:
        message_id = await user.ask(await user.open_session("Nonesuch", title="named"), "hello")
        await until(lambda: is_idle(worker), within=10)
        await db.execute("update bridge.jobs set run_at = run_at - interval '29 seconds'")
        await user.reply(await user.ask(await user.open_session(title="named"), "[[text=a]]"))  # brings the hints
        row = await user.reply(message_id)
        assert (row["status"], row["error"]["code"], row["attempt"]) == ("failed", "unknown_function", 1)
        assert worker.metrics.value("bridge_missed_wakeups_total") == 0
