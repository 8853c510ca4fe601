"""The same BAML calls without Supabase: `--replies` of them, `--at-once` concurrently.

`python -m bench.baselines.raw_baml --replies 256 --at-once 64 --message '[[tokens=100]]'` prints seconds, CPU and
event loop lags. `--driver bridge` uses the bridge's driver in place of BAML's documented `async for`.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench.baselines.conversation import partials, partials_of_bridge
from bench.lag_probe import Probe
from bench.processes import greet
from bridge.functions import Functions


async def main(driver: str, replies: int, at_once: int, message: str) -> None:
    """Make the calls and print what they took."""
    functions = Functions.load(["Chat"])
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with gate:
            text = f"{message} {number}"
            async for _ in partials(text) if driver == "official" else partials_of_bridge(functions, text):
                pass

    await one(-1)  # opens connections and fills caches
    probe = Probe()
    probing = asyncio.create_task(probe.run())
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(replies)))
    seconds, used = time.perf_counter() - wall, time.process_time() - cpu
    probing.cancel()
    await functions.close()
    greet(seconds=seconds, cpu=used, lags=probe.lags)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.baselines.raw_baml")
    parser.add_argument("--driver", choices=("official", "bridge"), default="official")
    parser.add_argument("--replies", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--message", default="[[tokens=100]]")
    options = parser.parse_args()
    asyncio.run(main(options.driver, options.replies, options.at_once, options.message))
