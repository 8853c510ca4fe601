"""`python -m bench.model`: the demo model in a process of its own, and what it was asked and when.

It greets with a line of JSON: `ready`, `url` and `control`, where `/exchange?text=…&outcome=…` waits until a request
whose last message holds the text has come that far, and tells its times as wall clock and as `time.monotonic()`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from itertools import islice
from typing import Any

from aiohttp import web

from bench.prose import words
from devstack.model import ModelServer, server
from devstack.model.server import Exchange

WAIT_SECONDS = 60.0
RECENT = 300  # requests among which one is looked for, at every token


def _tell(exchange: Exchange) -> dict[str, Any]:
    wall = time.time() - time.monotonic()
    return {
        "last": exchange.prompt.last,
        "kind": exchange.prompt.kind,
        "started_at": exchange.started_at,
        "started_wall": exchange.started_at + wall,
        "ended_at": exchange.ended_at,
        "outcome": exchange.outcome,
        "sent": exchange.sent,
    }


async def serve(first: float, rate: float) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # the demo model's own filler repeats itself, and Postgres would compress what it stores to next to nothing
    server._filler = words
    async with ModelServer(first=first, delay=1 / rate if rate else 0.0, keep=20_000) as model:

        async def exchange(request: web.Request) -> web.Response:
            """Wait for the `count`th exchange about `text` to begin (or, with `ended`, to end)."""
            text, count = request.query["text"], int(request.query.get("count", "1"))

            def found() -> list[Exchange]:
                return [
                    one
                    for one in islice(reversed(model.requests), RECENT)
                    if text in one.prompt.last
                    and one.prompt.kind != "title"
                    and ("ended" not in request.query or one.ended_at is not None)
                ]

            try:
                await model.until(
                    lambda _: len(found()) >= count, within=float(request.query.get("within", WAIT_SECONDS))
                )
            except TimeoutError:
                return web.json_response([], status=504)
            return web.json_response([_tell(one) for one in found()])

        app = web.Application()
        app.router.add_get("/exchange", exchange)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        greeting = {"ready": True, "url": model.url, "control": f"http://127.0.0.1:{runner.addresses[0][1]}"}
        print(json.dumps(greeting), flush=True)
        await stopped.wait()
        await runner.cleanup()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.model")
    parser.add_argument("--first", type=float, default=0.0, help="seconds before the first token")
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second; 0: as fast as it goes")
    options = parser.parse_args()
    asyncio.run(serve(options.first, options.rate))


if __name__ == "__main__":
    main()
