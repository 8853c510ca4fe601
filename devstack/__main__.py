"""`python -m devstack`: run an embedded Supabase on this machine until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path

from devstack import DevstackError, PortInUse, state
from devstack.realtime.limits import FREE, NO_LIMITS, Limits
from devstack.stack import Stack


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 stopped, 1 failed, 2 bad arguments or port in use."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack",
        description="Run an embedded Supabase (Postgres, REST, Auth, Realtime) on 127.0.0.1 with supabase/migrations "
        "applied. It prints `ready` and its URL once it accepts requests, and stops on Ctrl-C or SIGTERM.",
        epilog="DEVSTACK_POSTGRES sets the Postgres version: 18 (default) or 16. DEVSTACK_LIMITS sets the Realtime "
        "limits: free (default, those of the hosted Free plan) or none.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "env"),
        default="run",
        help="run (default), or env: print the variables of the running devstack as KEY=VALUE",
    )
    parser.add_argument(
        "--data", type=Path, default=Path(".devstack"), metavar="DIR", help="data folder (default: .devstack)"
    )
    parser.add_argument(
        "--port", type=port_number, default=54321, metavar="N", help="port (default: 54321; 0 picks a free one)"
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "env":
            for name, value in state.running(options.data.resolve()).items():
                print(f"{name}={value}")
            return 0
        return asyncio.run(_run(options.data, options.port))
    except PortInUse as error:
        print(f"devstack: {error}", file=sys.stderr)
        return 2
    except DevstackError as error:
        print(f"devstack: {error}", file=sys.stderr)
        return 1


def postgres_version() -> int:
    """Return the major version set by DEVSTACK_POSTGRES. Raises `DevstackError` if it is not a number."""
    wanted = os.environ.get("DEVSTACK_POSTGRES") or "18"
    if not wanted.isdigit():
        raise DevstackError(f"DEVSTACK_POSTGRES is {wanted!r}: set it to 18 or 16")
    return int(wanted)


def plan_limits() -> Limits:
    """Return the limits set by DEVSTACK_LIMITS. Raises `DevstackError` if the name is unknown."""
    wanted = os.environ.get("DEVSTACK_LIMITS") or "free"
    if wanted not in ("free", "none"):
        raise DevstackError(f"DEVSTACK_LIMITS is {wanted!r}: set it to free or none")
    return FREE if wanted == "free" else NO_LIMITS


async def _run(data: Path, port: int) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    stop = asyncio.create_task(stopped.wait())
    stack = Stack(
        data,
        port,
        postgres_version=postgres_version(),
        limits=plan_limits(),
        progress=lambda line: print(line, flush=True),
    )
    try:
        if not await _unless(stop, stack.__aenter__()):
            return 0
        try:
            print(f"ready {stack.gateway.url}", flush=True)
            fault = asyncio.create_task(stack.failed())
            try:
                if await _unless(stop, asyncio.shield(fault)):
                    raise DevstackError(fault.result())
            finally:
                fault.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await fault
            print("stopping …", flush=True)
            return 0
        finally:
            await stack.__aexit__(None, None, None)
    finally:
        stop.cancel()


async def _unless(stop: asyncio.Task[bool], work: Awaitable[object]) -> bool:
    """Await `work` and return True. If `stop` finishes first, cancel `work`, let it clean up and return False."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False


def port_number(text: str) -> int:
    """Parse a port from the command line."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port number (0 to 65535)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
