"""`python -m bench.project`: the embedded Supabase in a process of its own, with the tables of the baselines.

It prints a line of JSON with `ready`, `environment`, `admin_url` and `control`. `GET /events` on `control` returns
samples of Realtime's event counter, one every 0.1 s, and the events so far by topic.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections import deque
from pathlib import Path

import psycopg
from aiohttp import web

from bench.processes import serve
from devstack.stack import Stack

BASELINES = Path(__file__).parent / "baselines"
SCHEMAS = ("schema.sql", "steps.sql")
SAMPLE_SECONDS = 0.1


async def run(data: Path, polling: tuple[float, float], realtime: bool) -> None:
    """Run it until SIGTERM. Without `realtime` nothing decodes the log: for tables with a million rows."""
    async with Stack(data, 0, polling_delay=polling) as stack:
        async with await psycopg.AsyncConnection.connect(stack.admin_url, autocommit=True) as connection:
            # a benchmark sends more questions in a second than a user may in an hour
            await connection.execute("update bridge.limits set value = null where name not like '%bytes'")
        async with await psycopg.AsyncConnection.connect(
            stack.environment["SUPABASE_DB_URL"], autocommit=True
        ) as connection:
            for schema in SCHEMAS:
                await connection.execute((BASELINES / schema).read_bytes())
        await stack.lite.reload()
        if not realtime:
            await stack.realtime.stop()
        samples: deque[tuple[float, int]] = deque(maxlen=100_000)
        sampler = asyncio.create_task(_sample(stack, samples))

        async def events(request: web.Request) -> web.Response:
            since = float(request.query.get("since", "0"))
            recent = [sample for sample in samples if sample[0] >= since]
            return web.json_response({"samples": recent, "by_topic": dict(stack.realtime.events_by_topic)})

        await serve("/events", events, environment=stack.environment, admin_url=stack.admin_url)
        sampler.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampler


async def _sample(stack: Stack, samples: deque[tuple[float, int]]) -> None:
    while True:
        samples.append((time.monotonic(), stack.realtime.events))
        await asyncio.sleep(SAMPLE_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.project")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--polling", type=float, nargs=2, default=(0.1, 0.5), metavar=("BUSY", "IDLE"))
    parser.add_argument("--no-realtime", action="store_true")
    options = parser.parse_args()
    busy, idle = options.polling
    asyncio.run(run(options.data, (busy, idle), not options.no_realtime))
