"""`python -m devstack.model`: serve the demo model until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from .script import HELP
from .server import ModelServer


async def serve(port: int, first: float, delay: float) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code: 0, or 2 if the port cannot be used."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    try:
        async with ModelServer(port=port, first=first, delay=delay) as server:
            print(f"The demo model is ready at {server.url}", flush=True)
            await stop.wait()
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"Port {port} cannot be used ({reason}): choose another with --port.", file=sys.stderr)
        return 2
    return 0


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.model",
        description="Serve a demo model with an OpenAI-compatible API on 127.0.0.1.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=54330, help="0 picks a free port (default: %(default)s)")
    parser.add_argument(
        "--first", type=float, default=0.15, help="seconds before the first token (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=60.0, help="tokens per second, 0 for no limit (default: %(default)s)"
    )
    options = parser.parse_args()
    delay = 1 / options.rate if options.rate > 0 else 0.0
    return asyncio.run(serve(options.port, options.first, delay))


if __name__ == "__main__":
    sys.exit(main())
