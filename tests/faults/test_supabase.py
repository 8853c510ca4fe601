"""REST and Postgres go wrong: nothing is lost, nothing is said twice, and the worker goes on when they do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge import store, worker
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.proxy import Proxy
from tests.support.database import Row, database
from tests.support.users import ENDED, Person
from tests.support.waiting import until, waits_for_a_lock
from tests.support.workers import outcomes, working

Fault = Callable[[Proxy], AbstractAsyncContextManager[None]]
FILLER = "".join(f"word{n % 100:02d} " for n in range(100))
SWEEP_SECONDS = 1.0


async def runs(db: psycopg.AsyncConnection[Row], message_ids: list[str]) -> list[tuple[int, str]]:
    """Attempt and outcome of every attempt at these questions."""
    cursor = await db.execute(
        "select attempt, outcome from bridge.runs where question_id = any (%s::uuid[])", [message_ids]
    )
    return [(row["attempt"], row["outcome"]) for row in await cursor.fetchall()]


def requests_since(began: float, model: ModelServer) -> int:
    """How many the model got since then."""
    return sum(exchange.started_at > began for exchange in model.requests)


# -- answers lost after the work was done ------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, store.TRIES + 1])
@pytest.mark.parametrize("name", ["bridge_claim", "bridge_beat", "bridge_finish"])
async def test_a_lost_answer_costs_nothing(
    name: str,
    times: int,
    cut_off: dict[str, str],
    proxy: Proxy,
    user: Person,
    model: ModelServer,
    db: psycopg.AsyncConnection[Row],
) -> None:
    sessions = [await user.open_session(title="named") for _ in range(4)]
    async with working(cut_off, sweep_seconds=SWEEP_SECONDS, lease_seconds=60, checkpoint_seconds=0.1) as running:
        began = time.monotonic()
        proxy.rest.lose[name] = times
        # in each session a second one waits behind the first; they last for more beats than answers are lost
        asked = [await user.ask(session_id, "[[tokens=30 delay=0.05]]") for session_id in sessions * 2]
        replies = [await user.reply(message_id) for message_id in asked]  # a lease would take 60 s
        assert proxy.lost[name] == times
        assert [(reply["status"], reply["attempt"], reply["content"]) for reply in replies] == [
            ("done", 1, FILLER[: 30 * 7])
        ] * len(asked)
        assert await runs(db, asked) == [(1, "done")] * len(asked)
        assert requests_since(began, model) == len(asked)  # the model was paid once for each
        await until(lambda: not running.jobs.count, 15)
        assert running.metrics.value("bridge_leases_lost_total") == 0
        assert outcomes(running) == {"done": len(asked)}


async def test_a_checkpoint_that_did_not_arrive_is_sent_again(
    cut_off: dict[str, str], proxy: Proxy, user: Person
) -> None:
    async with working(cut_off, sweep_seconds=30, checkpoint_seconds=0.1):
        proxy.rest.status, proxy.rest.only = 503, "bridge_beat"
        # nothing more is said after these, so nothing but the lost checkpoint is left to be written
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=20 first=0.01 stall=20 times=1]]")
        await until(lambda: proxy.calls["bridge_beat"] >= 2 * store.TRIES, 20)
        await proxy.calm()
        row = await user.reply(message_id, lambda row: row["seq"] > 0)
        assert row["content"].strip() == FILLER[: 20 * 7].strip()
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


# -- REST in trouble -----------------------------------------------------------------------------------------


def answered(status: int) -> Fault:
    @asynccontextmanager
    async def fault(proxy: Proxy) -> AsyncIterator[None]:
        proxy.rest.status = status
        yield

    return fault


@asynccontextmanager
async def hanging(proxy: Proxy) -> AsyncIterator[None]:
    proxy.rest.hangs = True
    yield


@asynccontextmanager
async def resetting(proxy: Proxy) -> AsyncIterator[None]:
    proxy.rest.resets = True
    yield


@asynccontextmanager
async def refusing(proxy: Proxy) -> AsyncIterator[None]:
    await proxy.refuse()
    proxy.rest.resets = True  # those that are connected already
    yield


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(answered(500), id="500"),
        pytest.param(answered(502), id="502"),
        pytest.param(answered(503), id="503"),
        pytest.param(hanging, id="hanging"),
        pytest.param(resetting, id="resetting"),
        pytest.param(refusing, id="refused"),
    ],
)
async def test_rest_in_trouble(
    fault: Fault,
    cut_off: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: psycopg.AsyncConnection[Row],
    model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "CALL_SECONDS", 1.0)
    async with working(cut_off, sweep_seconds=SWEEP_SECONDS) as running:
        began = time.monotonic()
        session_id = await user.open_session(title="named")
        streaming = await user.ask(session_id, "[[tokens=100 delay=0.01]]")
        await user.reply(streaming, lambda row: row["seq"] > 0)
        async with fault(proxy):
            # it ends while the fault is on; one waits behind it, and one is new
            asked = [streaming, await user.ask(session_id, "[[text=behind]]")]
            asked.append(await user.ask(await user.open_session(title="named"), "[[text=new]]"))
            before, at = proxy.calls.total(), time.monotonic()
            await asyncio.sleep(1.5)
            assert proxy.calls.total() - before <= (time.monotonic() - at) * 20  # it does not hammer
        await proxy.calm()
        replies = [await user.reply(message_id) for message_id in asked]  # a lease would take 30 s
        assert [reply["content"] for reply in replies] == [FILLER, "behind", "new"]
        assert await runs(db, asked) == [(1, "done")] * 3
        assert requests_since(began, model) == 3  # what had been said was kept until it could be written
        assert running.metrics.value("bridge_leases_lost_total") == 0


@pytest.mark.parametrize("way", ["refused while it drains", "refused before it drains"])
async def test_a_result_that_a_gateway_refuses_ends_a_drain(
    way: str, cut_off: dict[str, str], proxy: Proxy, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """It is ended as failed at once: neither waits the drain for it, nor does another worker call the model again."""
    async with working(cut_off, drain_seconds=60, lease_seconds=60) as running:
        proxy.rest.largest, proxy.rest.only = 2000, "bridge_finish"
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=400 delay=0.002]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        if way == "refused before it drains":
            await user.reply(message_id)
        running.drain()
    row = await user.reply(message_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "unstorable")
    assert await runs(db, [message_id]) == [(1, "failed")]


async def test_what_a_claim_brings_late_into_a_drain_is_given_back(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CALL_SECONDS", 0.1)
    async with working(environment, drain_seconds=0, lease_seconds=60) as running, db.transaction():
        await db.execute("lock table bridge.workers in access exclusive mode")
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
        await until(lambda: waits_for_a_lock(db), 10)
        running.drain()
        await asyncio.sleep(0.15)  # past all that a drain waits for: a claim 0.1 s, a reply 0 s
    assert await runs(db, [message_id]) == [(1, "released")]
    async with working(environment):
        await user.reply(message_id, lambda row: row["attempt"] == 2 and row["seq"] > 0)  # a lease would take 60 s
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


# -- Postgres goes away ----------------------------------------------------------------------------------------


async def settled(user: Person, message_id: str, within: float) -> Row:
    """The reply once it has ended, asked for by a client that does not mind being refused."""
    async with asyncio.timeout(within):
        while True:
            try:
                rows = await user.rows("messages", reply_to=message_id)
            except (APIError, httpx.HTTPError):
                rows = []
            if rows and rows[0]["status"] in ENDED:
                return rows[0]
            await asyncio.sleep(0.1)


async def restart(stack: Stack) -> None:
    await stack.postgres.stop()
    await asyncio.sleep(1)
    await stack.postgres.start()


async def crash(stack: Stack) -> None:
    """Kill a server process: all connections are ended, and the log is replayed."""
    async with database(stack.admin_url) as db:
        cursor = await db.execute("select pg_backend_pid() as pid, pg_postmaster_start_time() as started")
        (row,) = await cursor.fetchall()
        # the stack of the tests commits without waiting for the log: what was answered so far must outlive this
        await db.execute("set synchronous_commit = on")
        await db.execute("select pg_logical_emit_message(true, 'faults', 'flushed')")
        os.kill(row["pid"], signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            await db.execute("select pg_sleep(10)")
    async with asyncio.timeout(20):
        while True:
            try:
                async with database(stack.admin_url):
                    return
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("how", [restart, crash])
async def test_postgres_restarted(
    how: Callable[[Stack], Awaitable[None]],
    stack: Stack,
    environment: dict[str, str],
    model: ModelServer,
    user: Person,
) -> None:
    async with working(environment, sweep_seconds=SWEEP_SECONDS) as running:
        began = time.monotonic()
        session_id = await user.open_session(title="named")
        streaming = await user.ask(session_id, "[[tokens=100 delay=0.02]]")
        behind = await user.ask(session_id, "[[text=behind]]")
        await user.reply(streaming, lambda row: row["seq"] > 0)
        await how(stack)
        # sooner than its lease of 30 s would have ended
        replies = [await settled(user, message_id, within=20) for message_id in (streaming, behind)]
        assert [reply["content"] for reply in replies] == [FILLER, "behind"]
        async with database(stack.admin_url) as db:
            assert await runs(db, [streaming, behind]) == [(1, "done")] * 2
        assert requests_since(began, model) == 2
        assert running.metrics.value("bridge_leases_lost_total") == 0
