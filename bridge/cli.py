"""The command `bridge`. Exit codes: 0 drained, 1 a fault, 2 a setting or a part is missing or wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence

from bridge import logs, settings
from bridge.errors import BridgeError, SettingsError, SetupError, StoreUnavailable
from bridge.functions import Functions
from bridge.health import Health
from bridge.settings import Settings
from bridge.store import Store
from bridge.worker import Worker

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves the process."""
    parser = argparse.ArgumentParser(
        prog="bridge",
        description="Answers messages of a Supabase project with BAML functions.",
        epilog="Settings come from the environment or a .env file; .env.example lists them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser(
        "run", help="run the worker until SIGTERM or Ctrl-C", description="Run the worker until SIGTERM or Ctrl-C."
    )
    status = commands.add_parser(
        "status", help="show queue, workers and the last hour", description="Show queue, workers and the last hour."
    )
    status.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(arguments)
    try:
        env = settings.environment()
        chosen = settings.load(env)
        code = asyncio.run(_run(chosen) if options.command == "run" else _status(chosen, options.json))
    except (SettingsError, SetupError) as error:
        print(f"bridge: {error}", file=sys.stderr)
        code = 2
    except BridgeError as error:
        print(f"bridge: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 1
    sys.exit(code)


async def _run(chosen: Settings) -> int:
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # unique for each boot
    logs.setup(chosen.log_format, chosen.log_level, name)
    functions = Functions.load(chosen.functions, handlers=chosen.handlers)
    store = await Store.open(chosen, name)
    worker = Worker(chosen, store, functions, name)
    health = Health(worker)
    running: asyncio.Task[None] | None = None

    def on_signal() -> None:
        if worker.is_draining and running is not None:
            log.warning("leaving now: jobs in hand go to another worker when their leases end")
            running.cancel()
        worker.drain()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await _checked(store, worker)
        if worker.is_draining:
            return 0
        await health.start()
        log.info("worker %s: functions %s, health on port %d", name, ", ".join(functions.names), health.port)
        running = asyncio.create_task(worker.run())
        try:
            await running
        except asyncio.CancelledError:
            return 1
        except BaseExceptionGroup as group:
            log.error("the worker's loop ended", exc_info=group)
            return 1
        log.info("drained")
        return 0
    finally:
        await health.stop()
        await functions.close()  # leaving with a call in flight would abort the interpreter (baml-py 0.226.3)
        await store.close()


async def _checked(store: Store, worker: Worker) -> None:
    """See the project before work begins; wait for one that does not answer yet."""
    pause = 0.5
    while not worker.is_draining:
        try:
            await store.check()
            return
        except StoreUnavailable as error:
            log.warning("the project does not answer yet: %s", error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10)


async def _status(chosen: Settings, as_json: bool) -> int:
    store = await Store.open(chosen, "status")
    try:
        status = await store.status()
    finally:
        await store.close()
    if as_json:
        print(json.dumps(status))
        return 0
    print(
        f"queued {status['queued']} (oldest {status['oldest_seconds']:.1f} s), running {status['running']}, "
        f"behind another {status['waiting']}, to be retried {status['retrying']}, "
        f"dead letters {status['dead_letters']}"
    )
    hour = status["last_hour"]
    print(
        f"last hour: {hour['done']} done, {hour['failed']} failed attempts, {hour['cancelled']} cancelled, "
        f"{hour['input_tokens']} tokens in, {hour['output_tokens']} out"
    )
    for worker in status["workers"]:
        print(f"worker {worker['name']}: {worker['running']} running, seen {worker['seen_at']}")
    if not status["workers"]:
        print("no worker is running")
    return 0


if __name__ == "__main__":
    main()
