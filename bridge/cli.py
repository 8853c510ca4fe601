"""The command `bridge`. Exit codes: 0 success, 1 failure, 2 a setting or another precondition is missing or wrong."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from bridge import logs, reports, settings
from bridge.claims import PATIENCE_SWEEPS
from bridge.errors import BridgeError, SetupError, StoreUnavailable
from bridge.functions import Functions
from bridge.health import Health
from bridge.settings import Settings
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, then exit the process."""
    parser = argparse.ArgumentParser(
        prog="bridge",
        description="Answers the messages of a Supabase project with BAML functions.",
        epilog="Settings are read from the environment and a .env file; .env.example lists them.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "run", "run the worker until SIGTERM or Ctrl-C")
    status = _add(commands, "status", "show the queue, the workers and the last hour")
    checks = "settings, functions, project, schema, publication, topics, Realtime and model"
    doctor = _add(commands, "doctor", f"check {checks}")
    dead = _add(commands, "dead", "list, retry or drop dead letters: questions that were given up")
    actions = dead.add_subparsers(dest="action", required=True, metavar="action")
    listing = _add(actions, "list", "list dead letters, newest first")
    listing.add_argument("--most", type=int, default=100, metavar="N", help="list at most N (default: 100)")
    for name, text in (("retry", "requeue dead letters"), ("drop", "delete dead letters; the questions stay failed")):
        action = _add(actions, name, text)
        action.add_argument("ids", nargs="*", metavar="QUESTION_ID", help="ids as shown by `list`")
        action.add_argument("--all", action="store_true", help="all dead letters")
        action.set_defaults(parser=action)
    for command in (status, doctor, listing):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if getattr(options, "action", None) in ("retry", "drop") and bool(options.ids) == options.all:
        options.parser.error("give question ids, or --all")
    try:
        code = asyncio.run(_command(options))
        sys.stdout.flush()
    except BridgeError as error:
        print(f"bridge: {error}", file=sys.stderr)
        code = 2 if isinstance(error, SetupError) else 1
    except BrokenPipeError:  # the reader has closed the pipe, as in `bridge dead list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest at exit
        code = 1
    except KeyboardInterrupt:
        code = 1
    sys.exit(code)


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser


async def _command(options: argparse.Namespace) -> int:
    env = settings.environment()
    if options.command == "doctor":
        return await reports.doctor(env, as_json=options.json)
    chosen = settings.load(env)
    if options.command == "run":
        return await _run(chosen)
    store = await Store.open(chosen, "operator")
    try:
        if options.command == "status":
            await reports.status(store, as_json=options.json)
        elif options.action == "list":
            await reports.dead_letters(store, options.most, as_json=options.json)
        else:
            action = reports.retry if options.action == "retry" else reports.drop
            await action(store, None if options.all else options.ids)
    finally:
        await store.close()
    return 0


async def _run(chosen: Settings) -> int:
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # unique for each boot
    logs.setup(chosen.log_format, chosen.log_level, name)
    functions = Functions.load(chosen.functions, handlers=chosen.handlers)
    store = await Store.open(chosen, name)
    watchdog = Watchdog(PATIENCE_SWEEPS * chosen.sweep_seconds)
    worker = Worker(chosen, store, functions, name, watchdog)
    health = Health(worker, store, watchdog)
    checking = asyncio.create_task(_wait_for_project(store, worker, watchdog))
    running: asyncio.Task[None] | None = None

    def on_signal() -> None:
        if running is None:
            checking.cancel()
        elif worker.is_draining:
            log.warning("exiting now: other workers take over the running jobs when their leases end")
            running.cancel()
        worker.drain()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await health.start()
        with contextlib.suppress(asyncio.CancelledError):
            await checking
        if worker.is_draining:
            return 0
        log.info("worker %s: functions %s, health on port %d", name, ", ".join(functions.names), health.port)
        watchdog.start()
        running = asyncio.create_task(worker.run())
        try:
            await running
        except asyncio.CancelledError:
            return 1
        except BaseExceptionGroup as group:
            log.error("the worker failed", exc_info=group)
            return 1
        log.info("drained")
        return 0
    finally:
        checking.cancel()
        watchdog.stop()
        await health.stop()
        await functions.close()  # exiting with a call in flight would abort the interpreter (baml-py 0.226.3)
        await store.close()


async def _wait_for_project(store: Store, worker: Worker, watchdog: Watchdog) -> None:
    """Check the project's schema and key, and wait while the project does not answer."""
    pause = 0.5
    while not worker.is_draining:
        try:
            await store.check()
            return
        except StoreUnavailable as error:
            log.warning("the project does not answer yet: %s", error)
            watchdog.feed()
        await asyncio.sleep(pause)
        pause = min(pause * 2, 10)


if __name__ == "__main__":
    main()
