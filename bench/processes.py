"""Child processes of the benchmark: start one, read what it prints, measure its CPU, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from aiohttp import web

from devstack.process import before_exec, end, last_lines

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench" / "out"
START_SECONDS = 60.0


class Failed(Exception):
    """The benchmark cannot continue; the message gives the reason in one line."""


class Program:
    """A running `python -m MODULE`. `log` is the file of its output; `hello` is its first line of JSON.

    `hello` of a worker has the address of its health server, `health`.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, begin: int) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.hello: dict[str, Any] = {}
        self._begin = begin

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects printed so far, one per line."""
        lines = []
        with self.log.open(errors="replace") as file:
            file.seek(self._begin)
            for line in file:
                with contextlib.suppress(ValueError):  # the last line may be incomplete
                    lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict)]

    async def until(self, find: Callable[[dict[str, Any]], Any]) -> Any:
        """Wait for a line for which `find` returns something true. Raises `Failed` on exit or timeout."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if found := next(filter(None, map(find, self.lines())), None):
                return found
            if self.process.returncode is not None:
                raise Failed(f"{self.name} exited ({self.process.returncode}): {last_lines(self.log)}")
            await asyncio.sleep(0.02)
        raise Failed(f"{self.name} was not ready within {START_SECONDS:g} s: {last_lines(self.log)}")

    def cpu(self) -> float:
        """Seconds of CPU used so far, without child processes."""
        return cpu_seconds(psutil.Process(self.pid))

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process is still there after 15 s."""
        await end(self.process, (signal.SIGTERM, 15.0))

    async def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of CPU that a process has used, user and system. Raises psutil.NoSuchProcess."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # exact, where psutil counts ticks of 10 ms; see clock_getcpuclockid(3)
            return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


async def start(
    name: str,
    module: str,
    *arguments: object,
    env: Mapping[str, str],
    logs: Path,
    until: Callable[[Program], Awaitable[None]] | None = None,
) -> Program:
    """Start a program and wait for its greeting (or `until`). Raises `Failed` if it does not come."""
    log = _log(logs, name)
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    with log.open("ab") as file:
        begin = file.tell()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *(str(argument) for argument in arguments)),
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", "BAML_LOG": "off", **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=before_exec(signal.SIGTERM),
        )
    program = Program(name, process, log, begin)
    try:
        await (until or _greeted)(program)
    except BaseException:
        await program.kill()
        raise
    return program


def _log(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


async def start_worker(env: Mapping[str, str], logs: Path, name: str) -> Program:
    """Start `bridge run` as a host runs it, and wait for /readyz. Raises `Failed` if it does not become ready."""
    settings = {"BRIDGE_HEALTH_HOST": "127.0.0.1", "BRIDGE_HEALTH_PORT": "0", "BRIDGE_DRAIN_SECONDS": "1", **env}
    return await start(name, "bridge.cli", "run", env=settings, logs=logs, until=_ready)


@asynccontextmanager
async def stopping(program: Program) -> AsyncIterator[Program]:
    """Stop the program when the context ends."""
    try:
        yield program
    finally:
        await program.stop()


async def _greeted(program: Program) -> None:
    program.hello = await program.until(lambda line: line if "ready" in line else None)


async def _ready(program: Program) -> None:
    """The worker logs the port of its health server."""

    def port(line: dict[str, Any]) -> str | None:
        _, found, after = str(line.get("text", "")).partition("health on port ")
        return after if found else None

    program.hello["health"] = address = f"http://127.0.0.1:{await program.until(port)}"
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(timeout=2) as http:
        while program.process.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(f"{address}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    raise Failed(f"{program.name} did not become ready: {last_lines(program.log)}")


# What the child processes themselves use:


def greet(**fields: object) -> None:
    """Print the line of JSON that `start` waits for."""
    print(json.dumps({"ready": True, **fields}), flush=True)


async def until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()


async def serve(path: str, handler: Callable[[web.Request], Awaitable[web.Response]], **fields: object) -> None:
    """Answer GET requests for `path` until SIGTERM; the greeting has the server's address as `control`."""
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    greet(control=f"http://127.0.0.1:{runner.addresses[0][1]}", **fields)
    await until_stopped()
    await runner.cleanup()
