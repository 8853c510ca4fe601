"""The same BAML calls with no Supabase at all: so many replies, so many at once.

`python -m bench.baselines.raw_baml --replies 256 --at-once 64 --message '[[tokens=100]]'` prints seconds, CPU and
event loop lag. `--driver bridge` takes the bridge's own driver in the place of BAML's documented `async for`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import threading
import time
from collections.abc import AsyncIterator

from bench.baselines.conversation import partials
from bench.lag_probe import Probe
from bridge.functions import Functions
from bridge.model import Session, Turn


async def official(message: str) -> AsyncIterator[None]:
    """BAML as documented."""
    async for _ in partials(message):
        yield


async def direct(functions: Functions, message: str) -> AsyncIterator[None]:
    """BAML as the bridge drives it."""
    session = Session("", "", None, "Chat", {})
    async for _ in functions.run(Turn("Chat", message, (), (), session, "")):
        yield


async def main(driver: str, replies: int, at_once: int, message: str) -> dict[str, float | list[float]]:
    """Run them and say what it took."""
    functions = Functions.load(["Chat"])
    gate = asyncio.Semaphore(at_once)
    first: list[float] = []
    threads = 0

    async def one(number: int) -> None:
        nonlocal threads
        async with gate:
            began = time.perf_counter()
            text = f"{message} {number}"
            said = official(text) if driver == "official" else direct(functions, text)
            seen = False
            async for _ in said:
                if not seen:
                    seen = True
                    first.append(time.perf_counter() - began)
            threads = max(threads, threading.active_count())

    await one(-1)  # connections and caches
    first.clear()
    probe = Probe()
    probing = asyncio.create_task(probe.run())
    cpu, wall = _cpu(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(replies)))
    seconds, used = time.perf_counter() - wall, _cpu() - cpu
    probing.cancel()
    await functions.close()
    return {"seconds": seconds, "cpu": used, "lags": probe.lags, "first": first, "threads": float(threads)}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.baselines.raw_baml")
    parser.add_argument("--driver", choices=("official", "bridge"), default="official")
    parser.add_argument("--replies", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--message", default="[[tokens=100]]")
    options = parser.parse_args()
    said = asyncio.run(main(options.driver, options.replies, options.at_once, options.message))
    print(json.dumps({"ready": True, **said}), flush=True)
