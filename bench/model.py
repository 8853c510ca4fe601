"""`python -m bench.model`: the demo model in a process of its own, which reports when it was asked what.

It prints a line of JSON with `ready`, `url` and `control`. `GET /exchange?text=…` on `control` waits until a request
whose last message contains the text has begun (with `ended=1`: has ended), and returns its times.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import islice
from typing import Any

from aiohttp import web

from bench.processes import serve
from bench.prose import words
from devstack.model import ModelServer, writing
from devstack.model.server import Exchange

WAIT_SECONDS = 60.0
RECENT = 300  # only the latest requests are searched: the search runs at every token


async def run(first: float, rate: float) -> None:
    """Serve until SIGTERM."""
    # the demo model's own filler repeats itself, and Postgres would compress it to next to nothing
    writing._filler = words
    async with ModelServer(first=first, delay=1 / rate if rate else 0.0, keep=20_000) as model:

        async def exchange(request: web.Request) -> web.Response:
            """Wait for the `count`th request about `text`; 504 if there is none."""
            text, count = request.query["text"], int(request.query.get("count", "1"))
            within = float(request.query.get("within", WAIT_SECONDS))

            def found() -> list[Exchange]:
                return [
                    one
                    for one in islice(reversed(model.requests), RECENT)
                    if text in one.prompt.last
                    and one.prompt.kind != "title"
                    and ("ended" not in request.query or one.ended_at is not None)
                ]

            try:
                await model.until(lambda _: len(found()) >= count, within=within)
            except TimeoutError:
                return web.json_response([], status=504)
            return web.json_response([_record(one) for one in found()])

        await serve("/exchange", exchange, url=model.url)


def _record(exchange: Exchange) -> dict[str, Any]:
    wall = time.time() - time.monotonic()
    return {
        "started_at": exchange.started_at,
        "started_wall": exchange.started_at + wall,
        "ended_at": exchange.ended_at,
        "outcome": exchange.outcome,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.model")
    parser.add_argument("--first", type=float, default=0.0, help="seconds before the first token")
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second; 0: without delay")
    options = parser.parse_args()
    asyncio.run(run(options.first, options.rate))
