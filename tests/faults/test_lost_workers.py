"""A worker is killed, or frozen and thawed: another one answers, and no user sees a mixture of both texts."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from yarl import URL

from devstack.model import ModelServer
from tests.faults.audit import Audit
from tests.faults.checker import late_writes
from tests.faults.tcp_proxy import TcpProxy
from tests.faults.view import View, ended, watching
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import WorkerProcess, worker_process

LEASE_SECONDS = 3
FILLER = "".join(f"word{n % 100:02d} " for n in range(120))
EAST, WEST = FILLER.replace("word", "east"), FILLER.replace("word", "west")


@asynccontextmanager
async def model_with_word(model: ModelServer, word: bytes) -> AsyncIterator[dict[str, str]]:
    """The LLM_ settings of a worker whose model answers with `word` in the place of "word"."""
    port = URL(model.url).port
    assert port is not None
    async with TcpProxy("127.0.0.1", port, swap=(b"word", word)) as proxy:
        yield {"LLM_BASE_URL": f"http://127.0.0.1:{proxy.port}/v1"}


def assert_never_mixed(view: View) -> None:
    """Each text that was shown is the beginning of one attempt's text, and attempts never decrease."""
    attempts = [attempt for attempt, _ in view.shown]
    assert attempts == sorted(attempts)
    for attempt, text in view.shown:
        full_text = EAST if attempt == 1 else WEST
        assert full_text.startswith(text), f"attempt {attempt} showed {text!r}"


@pytest.mark.quiet
async def test_killed_workers_question_is_answered_by_another(
    environment: dict[str, str], model: ModelServer, user: Person, tmp_path: Path, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id, message_id = await user.open_session(title="named"), str(uuid.uuid4())
    settings: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "sweep_seconds": 30}
    async with (
        model_with_word(model, b"east") as east,
        model_with_word(model, b"west") as west,
        worker_process(environment | east, tmp_path / "east.log", **settings) as first,
        watching(user, session_id, message_id) as view,
    ):
        # the model stalls in the first attempt, and answers in full in the second
        question = "[[tokens=120 delay=0.02 stall=60 times=1]]"
        row = {"id": message_id, "session_id": session_id, "content": question}
        await user.client.table("messages").insert(row).execute()
        await until(lambda: view.deltas > 3, 20)
        async with worker_process(environment | west, tmp_path / "west.log", **settings):
            assert (view.attempt, view.status) == (1, "running")
            began = time.monotonic()
            await first.kill()
            await user.reply(message_id, lambda row: row["attempt"] == 2)
            took = time.monotonic() - began
            reply = await user.reply(message_id)
            await ended(view)
    assert (reply["status"], reply["attempt"], reply["content"]) == ("done", 2, WEST)
    assert took < LEASE_SECONDS + 2
    assert view.text == WEST
    assert any(attempt == 1 for attempt, _ in view.shown)
    assert_never_mixed(view)
    runs = await (await db.execute("select attempt, outcome from bridge.runs order by attempt")).fetchall()
    assert runs == [{"attempt": 1, "outcome": "lost"}, {"attempt": 2, "outcome": "done"}]


@pytest.mark.parametrize(
    ("other_still_runs", "checkpoint_seconds"),
    [
        pytest.param(True, 0.2, id="while the other worker answers"),
        pytest.param(False, 0.2, id="after the other worker finished"),
        # its next beat is far away, so its first write is its finish
        pytest.param(True, 30, id="with its finish while the other worker answers"),
    ],
)
async def test_thawed_worker_changes_nothing(
    environment: dict[str, str],
    model: ModelServer,
    user: Person,
    tmp_path: Path,
    audit: Audit,
    other_still_runs: bool,
    checkpoint_seconds: float,
) -> None:
    session_id, message_id = await user.open_session(title="named"), str(uuid.uuid4())
    settings: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "sweep_seconds": 30}
    slower = {"checkpoint_seconds": checkpoint_seconds}
    async with (
        model_with_word(model, b"east") as east,
        model_with_word(model, b"west") as west,
        worker_process(environment | east, tmp_path / "east.log", **settings | slower) as first,
        watching(user, session_id, message_id) as view,
    ):
        question = "[[tokens=120 delay=0.015]]"
        row = {"id": message_id, "session_id": session_id, "content": question}
        await user.client.table("messages").insert(row).execute()
        await until(lambda: view.deltas > 2, 20)
        first.signal(signal.SIGSTOP)
        async with worker_process(environment | west, tmp_path / "west.log", ready=False, **settings):
            await user.reply(message_id, lambda row: row["attempt"] == 2 and row["seq"] > 0)
            if not other_still_runs:
                await user.reply(message_id)
            first.signal(signal.SIGCONT)
            await until(lambda: has_logged_lost_lease(first), 10)
            reply = await user.reply(message_id)
            await ended(view)
        # it goes on working, and answers the next question
        after = await user.ask(session_id, "[[text=awake]]")
        assert (await user.reply(after))["content"] == "awake"
        assert first.runs
    assert (reply["status"], reply["attempt"], reply["content"]) == ("done", 2, WEST)
    assert view.text == WEST
    assert_never_mixed(view)
    assert late_writes(await audit.writes()) == []


def has_logged_lost_lease(worker: WorkerProcess) -> bool:
    """Whether the worker logged a lost lease, after a beat or after its finish."""
    return any(line["text"] == "lease lost" or line.get("state") == "lost" for line in worker.lines())
