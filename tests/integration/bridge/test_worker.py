"""A worker from start to exit: handlers, drain, a second signal, the watchdog, health."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from bridge.realtime import publisher
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support.commands import read_until, run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

HANDLERS = "tests.support.handlers"


async def test_handler_answers_question(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    # all its text comes at once: its end waits for the channel's join, and no checkpoint comes first
    monkeypatch.setattr(publisher, "JOIN_PATIENCE_SECONDS", 20)
    changes: dict[str, Any] = {"checkpoint_seconds": 60, "lease_seconds": 600}
    async with working(environment, handlers=HANDLERS, functions="Loud", **changes):
        session_id = await user.open_session("Loud", title="named")
        events = await user.listen(f"session:{session_id}")
        row = await user.reply(await user.ask(session_id, "hello out there"))
        assert (row["status"], row["content"], row["data"]) == ("done", "HELLO OUT THERE ", {"words": 3})
        (file,) = await user.rows("code_files", session_id=session_id)
        assert file["content"] == "HELLO OUT THERE"
        await events.until(lambda events: events.of("message", role="assistant", status="done"))
        assert "".join(delta.get("text", "") for delta in events.of("delta")) == row["content"]


async def test_faulty_handler_does_not_end_the_worker(environment: dict[str, str], user: Person) -> None:
    async with working(environment, handlers=HANDLERS, functions="Faulty,Loud", max_failures=1):
        faulty = await user.open_session("Faulty", title="named")
        row = await user.reply(await user.ask(faulty, "raise"))
        assert (row["status"], row["error"]["code"]) == ("failed", "internal")
        assert (await user.reply(await user.ask(faulty, "an impossible cost")))["status"] == "done"
        loud = await user.open_session("Loud", title="named")
        assert (await user.reply(await user.ask(loud, "hello")))["content"] == "HELLO "


@pytest.mark.parametrize(("function", "stopped_in"), [("Freeze", "freeze"), ("Hold", "hold_the_gil")])
async def test_blocked_event_loop_ends_process(
    environment: dict[str, str], user: Person, function: str, stopped_in: str
) -> None:
    process = await run_bridge(
        "run", **environment, BRIDGE_HANDLERS=HANDLERS, BRIDGE_FUNCTIONS=function, BRIDGE_SWEEP_SECONDS="1"
    )
    await user.ask(await user.open_session(function, title="named"), "hello")
    code, _, err = await wait_for_exit(process, within=30)
    assert code == 1
    assert err.splitlines().count("no progress for 3 s: exiting") == 1
    assert f"in {stopped_in}" in err  # the stack trace


async def test_drain_releases_reply_that_cannot_end_in_time(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Another worker answers it at once, and it does not count as a failure."""
    session_id = await user.open_session(title="named")
    changes: dict[str, Any] = {"drain_seconds": 0.5, "lease_seconds": 60}
    async with working(environment, **changes) as first, working(environment, **changes) as second:
        message_id = await user.ask(session_id, "[[tokens=60 delay=0.01 stall=30 times=1]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        holder = next(worker for worker in (first, second) if message_id in worker.jobs.question_ids)
        holder.drain()
        await user.reply(message_id, lambda row: row["attempt"] == 2)  # long before its lease would expire
        await user.reply(message_id)
    row = await user.reply(message_id)
    assert (row["status"], row["attempt"]) == ("done", 2)
    runs = await db.execute("select attempt, outcome from bridge.runs order by attempt")
    assert await runs.fetchall() == [{"attempt": 1, "outcome": "released"}, {"attempt": 2, "outcome": "done"}]


async def test_second_signal_exits_at_once(environment: dict[str, str], model: ModelServer, user: Person) -> None:
    process = await run_bridge("run", **environment, LLM_BASE_URL=model.url)
    message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
    await user.reply(message_id, lambda row: row["seq"] > 0)
    exchange = model.requests[-1]
    process.send_signal(signal.SIGINT)
    await read_until(process, "draining")  # two signals at once would count as one
    process.send_signal(signal.SIGINT)
    code, _, err = await wait_for_exit(process, within=30)  # the reply takes 100 s, and a drain 90 s
    assert code == 1, err
    async with asyncio.timeout(5):
        await exchange.ended.wait()
    assert exchange.outcome == "dropped"


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_patient_drain_ends_with_its_replies_or_by_a_later_signal(
    environment: dict[str, str], model: ModelServer, user: Person, is_hurried: bool
) -> None:
    variables = {**environment, "LLM_BASE_URL": model.url, "BRIDGE_DRAIN_SECONDS": "0", "BRIDGE_LEASE_SECONDS": "60"}
    process = await run_bridge("run", **variables)
    message_id = await user.ask(await user.open_session(title="named"), "[[tokens=60 hold=20]]")
    await user.reply(message_id, lambda row: row["seq"] > 0)
    process.send_signal(signal.SIGUSR1)
    await read_until(process, "draining")
    if is_hurried:
        process.send_signal(signal.SIGTERM)
        code, _, err = await wait_for_exit(process, within=20)
        assert (code, "drained" in err) == (0, True), err
        await user.reply(message_id, lambda row: row["status"] == "queued")
        model.let_go(times=9)
        return
    model.let_go(times=9)
    row = await user.reply(message_id)
    assert (row["status"], row["attempt"]) == ("done", 1)
    code, _, err = await wait_for_exit(process, within=20)
    assert (code, "drained" in err) == (0, True), err


async def test_health_endpoints_report_worker_state(
    stack: Stack, environment: dict[str, str], user: Person, tmp_path: Path
) -> None:
    async with worker_process(environment, tmp_path / "log") as worker, aiohttp.ClientSession() as http:

        async def get(path: str) -> tuple[int, str]:
            async with http.get(f"{worker.health_url}{path}") as answer:
                return answer.status, await answer.text()

        async def wait_for(path: str, status: int) -> str:
            text = ""

            async def has_status() -> bool:
                nonlocal text
                found, text = await get(path)
                return found == status

            await until(has_status, within=20)
            return text

        session_id = await user.open_session(title="named")
        await user.reply(await user.ask(session_id, "[[tokens=60 delay=0.05]]"))

        async def is_counted() -> bool:
            return 'bridge_attempts_total{outcome="done"}' in await worker.metrics()

        await until(is_counted, within=20)
        metrics = await worker.metrics()
        for sample, value in (
            ("bridge_ready", 1),
            ("bridge_queue_depth", 0),
            ("bridge_dead_letters", 0),
            ('bridge_attempts_total{outcome="done"}', 1),
            ("bridge_first_delta_seconds_count", 1),
            ("bridge_claimed_total", 1),
            ('bridge_tokens_total{kind="output"}', 60),
        ):
            assert metrics[sample] == value, sample
        await stack.realtime.stop()
        try:
            assert "not subscribed to bridge:inbox" in await wait_for("/readyz", 503)
            assert (await get("/healthz"))[0] == 200
        finally:
            await stack.realtime.start()
        await wait_for("/readyz", 200)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
