"""What each command does. `bridge.cli` reads the command line, and imports this module once it can be interrupted."""

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping

from bridge import ask, logs, reports, settings
from bridge.claims import PATIENCE_SWEEPS
from bridge.errors import StoreUnavailable
from bridge.functions import Functions
from bridge.health import Health
from bridge.printable import escape
from bridge.settings import Settings
from bridge.store import Store
from bridge.watchdog import Watchdog
from bridge.worker import Worker

log = logging.getLogger(__name__)

HOST_LENGTH = 100  # characters of a host's name in a worker's name


async def run_command(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the command that was chosen; returns the exit code. Raises BridgeError."""
    if options.command == "doctor":
        token = sys.stdin.readline().strip() if options.token == "-" else options.token
        return await reports.doctor(env, token, as_json=options.json)
    chosen = settings.load(env, beside_dev=options.command != "run")
    if options.command == "run":
        return await _run(chosen)
    if options.command == "ask":
        return await ask.ask(chosen, ask.Question.read(options))
    store = await Store.open(chosen, "operator")
    try:
        if options.command == "status":
            await reports.status(store, as_json=options.json)
        elif options.command == "steps":
            return await reports.steps(store, options.question, as_json=options.json)
        elif options.action == "list":
            await reports.dead_letters(store, options.most, as_json=options.json)
        else:
            action = reports.retry if options.action == "retry" else reports.drop
            await action(store, None if options.all else options.ids)
    finally:
        await store.close()
    return 0


async def _run(chosen: Settings) -> int:
    name = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"  # unique for each boot
    logs.setup(chosen.log_format, chosen.log_level, name)
    functions = Functions.load(chosen.functions, handlers=chosen.handlers, shows_reasoning=chosen.shows_reasoning)
    store = await Store.open(chosen, name)
    watchdog = Watchdog(PATIENCE_SWEEPS * chosen.sweep_seconds)
    worker = Worker(chosen, store, functions, name, watchdog)
    health = Health(worker, store, watchdog)
    checking = asyncio.create_task(_wait_for_project(store, worker, watchdog))
    running: asyncio.Task[None] | None = None

    def on_signal(*, patient: bool = False) -> None:
        if running is None:
            checking.cancel()
        elif worker.is_draining and not worker.is_patient:
            if patient:
                return
            log.warning("exiting now: other workers take over the running jobs when their leases end")
            running.cancel()
        worker.drain(patient=patient)

    _call_on_signals(on_signal, signal.SIGTERM, signal.SIGINT)
    if hasattr(signal, "SIGUSR1"):
        _call_on_signals(functools.partial(on_signal, patient=True), signal.SIGUSR1)
    try:
        await health.start()
        with contextlib.suppress(asyncio.CancelledError):
            await checking
        if worker.is_draining:
            return 0
        log.info("worker %s: functions %s, health on port %d", name, ", ".join(functions.names), health.port)
        gc.collect()
        gc.freeze()  # what is loaded stays: a full collection would walk over all of it, 60 ms each time
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


def _host() -> str:
    try:
        return escape(socket.gethostname())[:HOST_LENGTH]
    except OSError:
        return "worker"


def _call_on_signals(callback: Callable[[], None], *numbers: signal.Signals) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        try:
            loop.add_signal_handler(number, callback)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))


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
