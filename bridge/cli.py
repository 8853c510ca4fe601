"""The command `bridge`. Exit codes: 0 drained, 1 a fault, 2 a setting or a part is missing or wrong."""

from __future__ import annotations

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

from bridge import logs, reports, settings
from bridge.claims import PATIENCE_SWEEPS
from bridge.errors import BridgeError, SettingsError, SetupError, StoreUnavailable
from bridge.functions import Functions
from bridge.health import Health
from bridge.settings import Settings
from bridge.store import Store
from bridge.watchdog import Watchdog
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
    doctor = commands.add_parser(
        "doctor",
        help="check every precondition",
        description="Check settings, functions, project, schema, publication, topics, Realtime and model.",
    )
    dead = commands.add_parser(
        "dead",
        help="list, retry or drop messages that were given up",
        description="List, retry or drop messages that were given up.",
    )
    actions = dead.add_subparsers(dest="action", required=True, metavar="action")
    listing = actions.add_parser("list", help="show them, newest first", description="Show them, newest first.")
    listing.add_argument("--most", type=int, default=100, metavar="N", help="show at most N (100)")
    for name, text in (("retry", "give another set of attempts"), ("drop", "forget; the messages stay failed")):
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("ids", nargs="*", metavar="MESSAGE_ID", help="the messages' ids, as `list` shows them")
        action.add_argument("--all", action="store_true", help="all of them")
        action.set_defaults(parser=action)
    for command in (status, doctor, listing):
        command.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(arguments)
    if getattr(options, "action", None) in ("retry", "drop") and bool(options.ids) == options.all:
        options.parser.error("give message ids, or --all")
    try:
        code = asyncio.run(_command(options))
        sys.stdout.flush()
    except (SettingsError, SetupError) as error:
        print(f"bridge: {error}", file=sys.stderr)
        code = 2
    except BridgeError as error:
        print(f"bridge: {error}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # whoever reads has enough, as in `bridge dead list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the exit
        code = 1
    except KeyboardInterrupt:
        code = 1
    sys.exit(code)


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
        elif options.action == "retry":
            # no more than there are now: one that fails again at once is for the operator to see
            most = (await store.status())["dead_letters"] if options.all else 0
            retried = last = await store.retry_dead(None if options.all else options.ids)
            while last and retried < most:
                retried += (last := await store.retry_dead(None))
            print(f"{retried} to be tried again")
        else:
            print(f"{await store.drop_dead(None if options.all else options.ids)} dropped")
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
    checking = asyncio.create_task(_checked(store, worker, watchdog))
    running: asyncio.Task[None] | None = None

    def on_signal() -> None:
        if running is None:
            checking.cancel()
        elif worker.is_draining:
            log.warning("leaving now: jobs in hand go to another worker when their leases end")
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
            log.error("the worker's loop ended", exc_info=group)
            return 1
        log.info("drained")
        return 0
    finally:
        checking.cancel()
        watchdog.stop()
        await health.stop()
        await functions.close()  # leaving with a call in flight would abort the interpreter (baml-py 0.226.3)
        await store.close()


async def _checked(store: Store, worker: Worker, watchdog: Watchdog) -> None:
    """See the project before work begins; wait for one that does not answer yet."""
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
