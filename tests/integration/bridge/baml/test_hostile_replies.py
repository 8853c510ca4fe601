"""Hostile replies, from the question's insert to the reply's row: the worker lives, and others are answered.

`HOSTILE` sets how many are tried: `HOSTILE=10000 pytest -s -n 0 …/test_hostile_replies.py`, on a machine that does
nothing else. With it, the event loop's lag is checked too. The figures are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from tests.integration.bridge.baml.calls import variables
from tests.support import hostile, wire
from tests.support.database import Row
from tests.support.raw_provider import Moved, RawProvider, Sent
from tests.support.users import ENDED, Person
from tests.support.workers import WorkerProcess, worker_process

HOSTILE = int(os.environ.get("HOSTILE", "120"))
AT_ONCE = 24  # of 32 slots: others need some too
FUNCTIONS = ("Chat", "Code", "Compare", "Chat", "Code")
CODES = {
    "model_output", "model_cut", "model_empty", "model_length", "model_filtered", "model_silent", "model_stalled",
    "model_slow", "model_unavailable", "model_refused", "model_context", "model_timeout", "model_busy", "unstorable",
}  # fmt: skip
MEMORY = 512 << 20
GOOD = Sent([wire.encode(event) for event in wire.answered("chat", ["Hel", "lo"]).events])


def memory_of(process: int) -> int:
    """What a process and its children hold, in bytes."""
    total, command = 0, _command(process)
    for each in (process, *_children(process)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if each == process or _command(each) != command:  # one that is about to start has its parent's memory
                total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def _command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def _children(process: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


@asynccontextmanager
async def measured(worker: WorkerProcess) -> AsyncIterator[list[int]]:
    """Measure the memory of a worker until the block ends."""
    sizes: list[int] = []

    async def measure() -> None:
        while worker.runs:
            sizes.append(memory_of(worker.process.pid))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(measure())
    try:
        yield sizes
    finally:
        task.cancel()


async def test_hostile_replies_end_with_a_code(
    environment: dict[str, str], provider: RawProvider, user: Person, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "functions": ",".join({*FUNCTIONS, "Lag"}), "handlers": "tests.support.handlers",
        "first_token_seconds": 20, "idle_seconds": 20, "total_seconds": 20, "max_failures": 1, "checkpoint_seconds": 1,
    }  # fmt: skip
    endings: Counter[str] = Counter()
    waits: list[float] = []

    async def ask(function: str, content: str) -> Row:
        question = await user.ask(await user.open_session(function, title="named"), content)
        query = user.client.table("messages").select("status,error").eq("reply_to", question)  # not its long text
        async with asyncio.timeout(120):
            while True:
                for row in cast(list[Row], (await query.execute()).data):
                    if row["status"] in ENDED:
                        return row | {"question": question}
                await asyncio.sleep(0.1)

    async def ask_hostile(numbers: list[int]) -> None:
        while numbers:
            number = numbers.pop()
            row = await ask(FUNCTIONS[number % len(FUNCTIONS)], f"hostile {number}.")
            assert row["status"] == "done" or row["error"]["code"] in CODES, (number, row["error"])
            endings[row["status"] if row["status"] == "done" else row["error"]["code"]] += 1

    async def ask_kindly() -> None:
        while True:
            begun = time.monotonic()
            row = await ask("Chat", "kind")
            assert row["status"] == "done", row["error"]
            waits.append(time.monotonic() - begun)
            await asyncio.sleep(0.5)

    async with (
        hostile.hostile_provider() as elsewhere,
        worker_process(environment | variables(provider.url), tmp_path / "worker.log", **settings) as worker,
    ):
        provider.choose = lambda body: Moved(elsewhere) if hostile.is_asked_for(body) else GOOD
        await ask("Lag", "begin")
        begun = time.monotonic()
        async with measured(worker) as sizes:
            kind = asyncio.create_task(ask_kindly())
            numbers = list(range(HOSTILE))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(ask_hostile(numbers))
            finally:
                kind.cancel()
        took = time.monotonic() - begun
        with contextlib.suppress(asyncio.CancelledError):
            await kind
        lag = (await user.reply((await ask("Lag", "end"))["question"]))["content"]
        assert worker.runs, worker.log.read_text()[-2000:]
    late, busy = (tuple(map(float, part.split())) for part in lag.split("; "))
    print(f"\n{HOSTILE} hostile replies in {took:.0f} s: {dict(endings)}")
    print(f"memory: at most {max(sizes) >> 20} MiB, at the end {sizes[-1] >> 20}")
    print(f"the event loop was late by {late} ms (median, 99 of 100, most), and busy for {busy} of them")
    print(f"{len(waits)} kind replies: median {sorted(waits)[len(waits) // 2]:.2f} s, longest {max(waits):.2f}")
    assert sum(endings.values()) == HOSTILE
    assert max(sizes) < MEMORY
    if "HOSTILE" in os.environ:
        assert late[1] < 200
