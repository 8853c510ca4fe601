"""`python -m bench.crowd --workers 100`: many workers in one process, for what they cost a project while nobody asks.

Each has its own connections and makes its own calls. The process prints a line of JSON with `ready` when all of them
are ready, and drains them on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os

from bench.processes import greet, until_stopped
from bridge import settings
from bridge.claims import PATIENCE_SWEEPS
from bridge.functions import Functions
from bridge.settings import Settings
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker


async def run(count: int) -> None:
    """Run this many workers with the settings of the environment until SIGTERM."""
    chosen = settings.load(os.environ)
    functions = Functions.load(chosen.functions)
    async with asyncio.TaskGroup() as group:
        crowd = [await _start(group, chosen, functions, f"crowd-{number}") for number in range(count)]
        while not all(worker.listener.is_ready and worker.publisher.is_ready for worker in crowd):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        greet()
        await until_stopped()
        for worker in crowd:
            worker.drain()
    await functions.close()


async def _start(group: asyncio.TaskGroup, chosen: Settings, functions: Functions, name: str) -> Worker:
    store = await Store.open(chosen, name)
    # nothing is to be restarted here: it is never started
    worker = Worker(chosen, store, functions, name, Watchdog(PATIENCE_SWEEPS * chosen.sweep_seconds))

    async def work() -> None:
        try:
            await worker.run()
        finally:
            await store.close()

    group.create_task(work(), name=name)
    return worker


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.crowd")
    parser.add_argument("--workers", type=int, default=100)
    asyncio.run(run(parser.parse_args().workers))
