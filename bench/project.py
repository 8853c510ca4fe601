"""`python -m bench.project`: the embedded Supabase in a process of its own, with the baselines' tables.

It greets with a line of JSON: `ready`, its `environment`, `admin_url` and `control`, where `/events` tells how many
events Realtime has counted, sampled every 0.1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from collections import deque
from pathlib import Path

import psycopg
from aiohttp import web

from devstack.stack import Stack

SCHEMA = Path(__file__).parent / "baselines" / "schema.sql"
SAMPLE_SECONDS = 0.1


async def serve(data: Path, polling: tuple[float, float], realtime: bool) -> None:
    """Run it until SIGTERM. Without `realtime` nothing follows the log: for tables filled by the million."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Stack(data, 0, polling_delay=polling) as stack:
        async with await psycopg.AsyncConnection.connect(stack.admin_url, autocommit=True) as connection:
            # a benchmark asks more in a second than a person in an hour
            await connection.execute("update bridge.limits set value = null where name not like '%bytes'")
        async with await psycopg.AsyncConnection.connect(
            stack.environment["SUPABASE_DB_URL"], autocommit=True
        ) as connection:
            await connection.execute(SCHEMA.read_bytes())
        await stack.lite.reload()
        if not realtime:
            await stack.realtime.stop()
        samples: deque[tuple[float, int]] = deque(maxlen=100_000)
        sampler = asyncio.create_task(_sample(stack, samples))
        app = web.Application()

        async def events(request: web.Request) -> web.Response:
            since = float(request.query.get("since", "0"))
            return web.json_response([sample for sample in samples if sample[0] >= since])

        app.router.add_get("/events", events)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(
            json.dumps(
                {
                    "ready": True,
                    "environment": stack.environment,
                    "admin_url": stack.admin_url,
                    "control": f"http://127.0.0.1:{runner.addresses[0][1]}",
                }
            ),
            flush=True,
        )
        await stopped.wait()
        sampler.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampler
        await runner.cleanup()


async def _sample(stack: Stack, samples: deque[tuple[float, int]]) -> None:
    while True:
        samples.append((time.monotonic(), stack.realtime.events))
        await asyncio.sleep(SAMPLE_SECONDS)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.project")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--polling", type=float, nargs=2, default=(0.1, 0.5), metavar=("BUSY", "IDLE"))
    parser.add_argument("--no-realtime", action="store_true")
    options = parser.parse_args()
    busy, idle = options.polling
    asyncio.run(serve(options.data, (busy, idle), not options.no_realtime))


if __name__ == "__main__":
    main()
