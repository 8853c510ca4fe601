"""A worker that is killed, or frozen and woken: somebody else answers, and nobody ever sees both texts."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from yarl import URL

from devstack.model import ModelServer
from tests.faults.audit import Audit
from tests.faults.checker import late_writes
from tests.faults.processes import worker_process
from tests.faults.view import View, ended, watching
from tests.faults.wire import Wire
from tests.harness import Person, Row

LEASE_SECONDS = 3
FILLER = "".join(f"word{n % 100:02d} " for n in range(120))
EAST, WEST = FILLER.replace("word", "east"), FILLER.replace("word", "west")


@asynccontextmanager
async def told(model: ModelServer, word: bytes) -> AsyncIterator[dict[str, str]]:
    """The LLM_ settings of a worker whose model says `word` wherever the other one's says another."""
    port = URL(model.url).port
    assert port is not None
    async with Wire("127.0.0.1", port, swap=(b"word", word)) as wire:
        yield {"LLM_BASE_URL": f"http://127.0.0.1:{wire.port}/v1"}


def saw_one_text_at_a_time(view: View) -> None:
    """Each text that was shown is a part of what one attempt said, and attempts never go back."""
    attempts = [attempt for attempt, _ in view.shown]
    assert attempts == sorted(attempts)
    for attempt, text in view.shown:
        said = EAST if attempt == 1 else WEST
        assert said.startswith(text), f"attempt {attempt} showed {text!r}"


async def test_another_finishes_when_one_is_killed(
    environment: dict[str, str], model: ModelServer, user: Person, tmp_path: Path, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id, message_id = await user.open_session(title="named"), str(uuid.uuid4())
    settings = {"lease_seconds": LEASE_SECONDS, "sweep_seconds": 30}
    async with told(model, b"east") as east, told(model, b"west") as west:
        async with worker_process(environment | east, tmp_path / "east.log", **settings) as first:
            async with watching(user, session_id, message_id) as view:
                # the first model stops half-way; the second one is asked anew and goes on to the end
                question = "[[tokens=120 delay=0.005 stall=60 times=1]]"
                row = {"id": message_id, "session_id": session_id, "content": question}
                await user.client.table("messages").insert(row).execute()
                async with worker_process(environment | west, tmp_path / "west.log", **settings):
                    assert (view.attempt, view.status) == (1, "running")
                    assert view.deltas > 3
                    began = time.monotonic()
                    await first.kill()
                    reply = await user.reply(message_id)
                    took = time.monotonic() - began
                    await ended(view)
    assert (reply["status"], reply["attempt"], reply["content"]) == ("done", 2, WEST)
    assert took < LEASE_SECONDS + 2
    assert view.text == WEST
    assert any(attempt == 1 for attempt, _ in view.shown)
    saw_one_text_at_a_time(view)
    runs = await (await db.execute("select attempt, outcome from bridge.runs order by attempt")).fetchall()
    assert runs == [{"attempt": 1, "outcome": "lost"}, {"attempt": 2, "outcome": "done"}]


@pytest.mark.parametrize("other_still_runs", [True, False], ids=["the other still runs", "the other is done"])
async def test_a_frozen_one_changes_nothing_when_it_wakes(
    environment: dict[str, str],
    model: ModelServer,
    user: Person,
    tmp_path: Path,
    audit: Audit,
    other_still_runs: bool,
) -> None:
    session_id, message_id = await user.open_session(title="named"), str(uuid.uuid4())
    settings = {"lease_seconds": 2, "sweep_seconds": 30}
    async with told(model, b"east") as east, told(model, b"west") as west:
        async with worker_process(environment | east, tmp_path / "east.log", **settings) as first:
            async with watching(user, session_id, message_id) as view:
                question = "[[tokens=120 delay=0.03]]"
                row = {"id": message_id, "session_id": session_id, "content": question}
                await user.client.table("messages").insert(row).execute()
                await user.reply(message_id, lambda row: row["seq"] > 2)
                async with worker_process(environment | west, tmp_path / "west.log", ready=False, **settings):
                    first.signal(signal.SIGSTOP)
                    await user.reply(message_id, lambda row: row["attempt"] == 2 and row["seq"] > 0)
                    if not other_still_runs:
                        await user.reply(message_id)
                    first.signal(signal.SIGCONT)
                    await noticed(first.log)
                    reply = await user.reply(message_id)
                    await ended(view)
        # it is none the worse for it, and answers the next one
        async with worker_process(environment | west, tmp_path / "east.log", **settings):
            after = await user.ask(session_id, "[[text=awake]]")
            assert (await user.reply(after))["content"] == "awake"
    assert (reply["status"], reply["attempt"], reply["content"]) == ("done", 2, WEST)
    assert view.text == WEST
    saw_one_text_at_a_time(view)
    assert late_writes(await audit.writes()) == []


async def noticed(log: Path, within: float = 10) -> None:
    """Wait until the worker says that it lost its lease."""
    async with asyncio.timeout(within):
        while '"lost"' not in log.read_text() and "lease lost" not in log.read_text():
            await asyncio.sleep(0.05)
