"""Faults of REST and Postgres: no reply is lost or repeated, and the worker goes on when they are back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge import rest, store, worker
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.proxy import Proxy, Rest
from tests.support.database import Row, database
from tests.support.users import ENDED, Person
from tests.support.waiting import until, waits_for_a_lock
from tests.support.workers import outcomes, working

FILLER = "".join(f"word{n % 100:02d} " for n in range(100))
SWEEP_SECONDS = 1.0


async def runs(db: psycopg.AsyncConnection[Row], message_ids: list[str]) -> list[tuple[int, str]]:
    """The number and outcome of every attempt at these questions."""
    cursor = await db.execute(
        "select attempt, outcome from bridge.runs where question_id = any (%s::uuid[])", [message_ids]
    )
    return [(row["attempt"], row["outcome"]) for row in await cursor.fetchall()]


def requests_since(began: float, model: ModelServer) -> int:
    """How many requests the model has received since then."""
    return sum(exchange.started_at > began for exchange in model.requests)


# -- responses lost after the work was done


@pytest.mark.parametrize("times", [1, rest.TRIES + 1])
@pytest.mark.parametrize("name", ["bridge_claim", "bridge_beat", "bridge_finish"])
async def test_lost_response_costs_no_attempt(
    name: str,
    times: int,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    model: ModelServer,
    db: psycopg.AsyncConnection[Row],
) -> None:
    sessions = [await user.open_session(title="named") for _ in range(4)]
    async with working(proxied, sweep_seconds=SWEEP_SECONDS, lease_seconds=60, checkpoint_seconds=0.1) as running:
        began = time.monotonic()
        proxy.rest.lose[name] = times
        if name == "bridge_claim":  # what is dispatched needs none
            proxy.realtime.loses = lambda frame: frame["event"] == "broadcast" and frame["payload"]["event"] == "job"
        # two questions a session, each longer than the beats whose responses are lost
        asked = [await user.ask(session_id, "[[tokens=30 delay=0.05]]") for session_id in sessions * 2]
        replies = [await user.reply(message_id) for message_id in asked]  # before any lease expires
        assert proxy.lost[name] == times
        assert [(reply["status"], reply["attempt"], reply["content"]) for reply in replies] == [
            ("done", 1, FILLER[: 30 * 7])
        ] * len(asked)
        assert await runs(db, asked) == [(1, "done")] * len(asked)
        assert requests_since(began, model) == len(asked)  # none was answered twice
        await until(lambda: not running.jobs.count, 15)
        assert running.metrics.value("bridge_leases_lost_total") == 0
        assert outcomes(running) == {"done": len(asked)}


async def test_failed_checkpoint_is_sent_again(proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    async with working(proxied, sweep_seconds=30, checkpoint_seconds=0.1):
        proxy.rest.status, proxy.rest.only = 503, "bridge_beat"
        # the reply stalls after these tokens, so only the failed checkpoint can write them
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=20 first=0.01 stall=20 times=1]]")
        await until(lambda: proxy.calls["bridge_beat"] >= 2 * rest.TRIES, 20)
        await proxy.calm()
        row = await user.reply(message_id, lambda row: row["seq"] > 0)
        assert row["content"].strip() == FILLER[: 20 * 7].strip()
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


# -- REST is down


@pytest.mark.parametrize(
    ("faults", "refuses_new"),
    [
        pytest.param({"status": 500}, False, id="500"),
        pytest.param({"status": 502}, False, id="502"),
        pytest.param({"status": 503}, False, id="503"),
        pytest.param({"hangs": True}, False, id="hanging"),
        pytest.param({"resets": True}, False, id="resetting"),
        pytest.param({"resets": True}, True, id="refused"),
    ],
)
async def test_rest_outage_loses_no_reply(
    faults: dict[str, Any],
    refuses_new: bool,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: psycopg.AsyncConnection[Row],
    model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "CALL_SECONDS", 1.0)
    async with working(proxied, sweep_seconds=SWEEP_SECONDS) as running:
        began = time.monotonic()
        session_id = await user.open_session(title="named")
        streaming = await user.ask(session_id, "[[tokens=100 delay=0.01]]")
        await user.reply(streaming, lambda row: row["seq"] > 0)
        proxy.rest = Rest(**faults)
        if refuses_new:
            await proxy.refuse()
        # the first reply ends while the fault is on; the second question waits for it, the third is new
        asked = [streaming, await user.ask(session_id, "[[text=behind]]")]
        asked.append(await user.ask(await user.open_session(title="named"), "[[text=new]]"))
        before, at = proxy.calls.total(), time.monotonic()
        await asyncio.sleep(1.5)
        assert proxy.calls.total() - before <= (time.monotonic() - at) * 20  # it backs off
        await proxy.calm()
        replies = [await user.reply(message_id) for message_id in asked]  # before any lease expires
        assert [reply["content"] for reply in replies] == [FILLER, "behind", "new"]
        assert await runs(db, asked) == [(1, "done")] * 3
        assert requests_since(began, model) == 3  # the worker kept the finished reply until it could be written
        assert running.metrics.value("bridge_leases_lost_total") == 0


@pytest.mark.parametrize("refused", ["while draining", "before the drain"])
async def test_result_that_gateway_refuses_does_not_delay_drain(
    refused: str, proxied: dict[str, str], proxy: Proxy, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """The attempt fails at once: the drain does not wait for it, and no other worker calls the model again."""
    async with working(proxied, drain_seconds=60, lease_seconds=60) as running:
        proxy.rest.largest, proxy.rest.only = 2000, "bridge_finish"
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=400 delay=0.002]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        if refused == "before the drain":
            await user.reply(message_id)
        running.drain()
    row = await user.reply(message_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "unstorable")
    assert await runs(db, [message_id]) == [(1, "failed")]


async def test_job_claimed_during_drain_is_released(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CALL_SECONDS", 0.1)
    session_id = await user.open_session(title="named")
    async with working(environment, drain_seconds=0, lease_seconds=60) as running, db.transaction():
        await db.execute("lock table bridge.workers in access exclusive mode")
        await db.execute("update bridge.workers set hears_until = '-infinity'")  # nothing is dispatched
        cursor = await db.execute(
            "insert into public.messages (session_id, content) values (%s, '[[tokens=5000 delay=0.02]]')"
            " returning id::text", [session_id],
        )  # fmt: skip
        message_id = (await cursor.fetchall())[0]["id"]
        running.claims.wake("broadcast")
        await until(lambda: waits_for_a_lock(db), 10)
        running.drain()
        await asyncio.sleep(0.15)  # longer than a drain waits: 0.1 s for a claim, 0 s for a reply
    assert await runs(db, [message_id]) == [(1, "released")]
    async with working(environment):
        await user.reply(message_id, lambda row: row["attempt"] == 2 and row["seq"] > 0)  # before its lease expires
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


# -- Postgres is down


async def reply_despite_errors(user: Person, message_id: str, within: float) -> Row:
    """The reply once it has ended, for a user who ignores failed requests."""
    rows: list[Row] = []

    async def has_ended() -> bool:
        nonlocal rows
        with contextlib.suppress(APIError, httpx.HTTPError):
            rows = await user.rows("messages", reply_to=message_id)
        return bool(rows) and rows[0]["status"] in ENDED

    await until(has_ended, within, 0.1)
    return rows[0]


async def restart(stack: Stack) -> None:
    await stack.postgres.stop()
    await asyncio.sleep(1)
    await stack.postgres.start()


async def crash(stack: Stack) -> None:
    """Kill a server process: Postgres ends all connections, and recovers from its log."""
    async with database(stack.admin_url) as db:
        cursor = await db.execute("select pg_backend_pid() as pid, pg_postmaster_start_time() as started")
        (row,) = await cursor.fetchall()
        # the tests' Postgres commits without waiting for its log: what it acknowledged so far must survive the crash
        await db.execute("set synchronous_commit = on")
        await db.execute("select pg_logical_emit_message(true, 'faults', 'flushed')")
        os.kill(row["pid"], signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            await db.execute("select pg_sleep(10)")

    async def is_back() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            async with database(stack.admin_url):
                return True
        return False

    await until(is_back, 20, 0.1)


@pytest.mark.parametrize("how", [restart, crash])
async def test_postgres_outage_loses_no_reply(
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
        # before the lease of 30 s expires
        replies = [await reply_despite_errors(user, message_id, within=20) for message_id in (streaming, behind)]
        assert [reply["content"] for reply in replies] == [FILLER, "behind"]
        async with database(stack.admin_url) as db:
            assert await runs(db, [streaming, behind]) == [(1, "done")] * 2
        assert requests_since(began, model) == 2
        assert running.metrics.value("bridge_leases_lost_total") == 0
