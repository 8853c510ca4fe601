"""Rolling restarts under load: every question is answered, and no attempt is wasted."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import psycopg

from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import WorkerProcess, worker_process

WORKERS = 3
SESSIONS = 15
DRAIN_SECONDS = 20
FILLER = "".join(f"word{n % 100:02d} " for n in range(60))


async def busy(worker: WorkerProcess) -> None:
    """Wait until the worker holds a job."""

    async def is_busy() -> bool:
        return (await worker.metrics())["bridge_running_jobs"] > 0

    await until(is_busy, 10)


async def test_rolling_restart_wastes_no_attempt(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sweep_seconds": 30, "drain_seconds": DRAIN_SECONDS, "concurrency": SESSIONS // WORKERS}
    sessions = [await user.open_session(title="named") for _ in range(SESSIONS)]
    asked: list[str] = []
    restarted = asyncio.Event()

    async def load() -> None:
        while not restarted.is_set():
            for session_id in sessions:
                asked.append(await user.ask(session_id, "[[tokens=60 delay=0.015]]"))  # 0.9 s each
            await asyncio.sleep(0.6)

    async with contextlib.AsyncExitStack() as opened:
        workers: list[WorkerProcess] = []
        for n in range(WORKERS):
            started = worker_process(environment, tmp_path / f"{n}.log", ready=False, **settings)
            workers.append(await opened.enter_async_context(started))
        for worker in workers:
            await worker.ready()
        loading = asyncio.create_task(load())
        try:
            for n, old in enumerate(workers):
                await busy(old)
                old.signal(signal.SIGTERM)
                new = await opened.enter_async_context(
                    worker_process(environment, tmp_path / f"new-{n}.log", **settings)
                )
                assert new.runs
                assert await old.ended(DRAIN_SECONDS) == 0
        finally:
            restarted.set()
            await loading
        replies = [await user.reply(message_id, within=30) for message_id in asked]
    assert len(asked) >= SESSIONS * WORKERS
    assert [(reply["status"], reply["content"]) for reply in replies] == [("done", FILLER)] * len(asked)
    cursor = await db.execute("select outcome, count(*) from bridge.runs group by outcome")
    assert {row["outcome"]: row["count"] for row in await cursor.fetchall()} == {"done": len(asked)}


async def test_deploy_with_a_new_function_fails_no_question(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    """Questions for it wait for the worker that knows it, while the old one answers the others."""
    settings: dict[str, Any] = {"sweep_seconds": 1, "drain_seconds": DRAIN_SECONDS, "concurrency": 4}
    chats = [await user.open_session("Chat", title="named") for _ in range(4)]
    comparisons = [await user.open_session("Compare", title="named") for _ in range(4)]
    reply = '[[json={"reply": "Both.", "options": []}]]'

    async def ask() -> list[str]:
        asked = [await user.ask(session, "[[text=fine]]") for session in chats]
        return asked + [await user.ask(session, reply) for session in comparisons]

    async with worker_process(environment, tmp_path / "old.log", functions="Chat", **settings) as old:
        asked = await ask()
        assert (await user.reply(asked[3]))["content"] == "fine"
        waiting = await (await db.execute("select worker, attempt from bridge.jobs order by id")).fetchall()
        assert [row for row in waiting if row["worker"] or row["attempt"]] == []
        assert len(waiting) == len(comparisons)
        async with worker_process(environment, tmp_path / "new.log", functions="Chat,Compare", **settings):
            asked += await ask()
            old.signal(signal.SIGTERM)
            assert await old.ended(DRAIN_SECONDS) == 0
            asked += await ask()
            replies = [await user.reply(message_id, within=30) for message_id in asked]
    assert [(reply["status"], reply["content"]) for reply in replies] == [
        *[("done", "fine")] * 4,
        *[("done", "Both.")] * 4,
    ] * 3
    runs = await (await db.execute("select outcome, count(*) from bridge.runs group by outcome")).fetchall()
    assert {row["outcome"]: row["count"] for row in runs} == {"done": len(asked)}


async def test_drain_hands_long_reply_to_another_worker(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sweep_seconds": 30, "drain_seconds": 1, "lease_seconds": 60}
    session_id = await user.open_session(title="named")
    async with worker_process(environment, tmp_path / "old.log", **settings) as old:
        message_id = await user.ask(session_id, "[[tokens=20 stall=20 delay=0.01 times=1]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        async with worker_process(environment, tmp_path / "new.log", **settings):
            old.signal(signal.SIGTERM)
            # long before the lease would expire
            reply = await user.reply(message_id, within=settings["lease_seconds"] / 2)
            assert await old.ended() == 0
    assert (reply["status"], reply["attempt"], reply["content"]) == ("done", 2, FILLER[: 20 * 7])
    cursor = await db.execute("select outcome from bridge.runs where question_id = %s order by attempt", [message_id])
    assert [row["outcome"] for row in await cursor.fetchall()] == ["released", "done"]


async def test_second_signal_ends_drain_at_once(environment: dict[str, str], user: Person, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sweep_seconds": 30, "drain_seconds": 60, "lease_seconds": 3}
    async with worker_process(environment, tmp_path / "old.log", **settings) as old:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=20 first=0.02 stall=20 times=1]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        old.signal(signal.SIGTERM)
        await until(lambda: any(line["text"] == "draining" for line in old.lines()), 20)
        old.signal(signal.SIGINT)
        assert await old.ended(within=30) == 1  # a drain would take 60 s
    async with worker_process(environment, tmp_path / "new.log", **settings):
        assert (await user.reply(message_id))["status"] == "done"
