"""Programs beside the benchmark: started, greeted, watched and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from devstack.process import before_exec, end, last_lines

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0


class Failed(Exception):
    """The benchmark cannot go on; the message says why in one line."""


class Program:
    """One `python -m MODULE`. Standard output and error go to `log`; its first line of JSON is `hello`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path, begin: int) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.hello: dict[str, Any] = {}
        self._begin = begin

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """The lines of JSON that it wrote so far."""
        lines = []
        with self.log.open(errors="replace") as file:
            file.seek(self._begin)
            for line in file:
                with contextlib.suppress(ValueError):  # the last one may be half written
                    lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict)]

    async def until(self, field: str, within: float = START_SECONDS) -> dict[str, Any]:
        """Wait for a line of JSON that has `field`. Raises `Failed` if the program ends, or says nothing."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for line in self.lines():
                if field in line:
                    return line
            if self.process.returncode is not None:
                raise Failed(f"{self.name} ended ({self.process.returncode}): {last_lines(self.log)}")
            await asyncio.sleep(0.02)
        raise Failed(f"{self.name} did not say {field!r} within {within:g} s: {last_lines(self.log)}")

    def cpu(self) -> float:
        """Seconds of CPU that it used so far, without its children."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen."""
        await end(self.process, (signal.SIGTERM, 15.0))

    async def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def start(
    name: str, module: str, *arguments: object, env: Mapping[str, str], logs: Path, greets: bool = True
) -> Program:
    """Start a program; with `greets`, wait for its first line of JSON. Raises `Failed` if it does not come up."""
    log = _log(logs, name)
    own = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    with log.open("ab") as file:
        begin = file.tell()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *(str(argument) for argument in arguments)),
            cwd=ROOT,
            env={**own, "PYTHONUNBUFFERED": "1", "BAML_LOG": "off", **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=before_exec(signal.SIGTERM),
        )
    program = Program(name, process, log, begin)
    try:
        if greets:
            program.hello = await program.until("ready")
    except BaseException:
        await program.kill()
        raise
    return program


def _log(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


@asynccontextmanager
async def running(
    name: str, module: str, *arguments: object, env: Mapping[str, str], logs: Path
) -> AsyncIterator[Program]:
    """A program that greets, stopped at the end."""
    program = await start(name, module, *arguments, env=env, logs=logs)
    try:
        yield program
    finally:
        await program.stop()


async def start_worker(
    env: Mapping[str, str], logs: Path, name: str = "worker", profile: Path | None = None
) -> Program:
    """`bridge run` as a host runs it, ready; with `profile`, watched. Raises `Failed` if it does not get ready."""
    command: tuple[str, ...] = ("bridge.cli", "run")
    if profile is not None:
        command = ("bench.profiled", str(profile), *command)
    program = await start(
        name,
        *command,
        env={
            "BRIDGE_HEALTH_HOST": "127.0.0.1",
            "BRIDGE_HEALTH_PORT": "0",
            "BRIDGE_DRAIN_SECONDS": "1",
            **env,
        },
        logs=logs,
        greets=False,
    )
    try:
        await _ready(program)
    except BaseException:
        await program.kill()
        raise
    return program


async def _ready(program: Program) -> None:
    """Wait until /readyz says so; the port is in its log."""
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(timeout=2) as http:
        while time.monotonic() < deadline:
            if program.process.returncode is not None:
                break
            for line in program.lines():
                text = str(line.get("text", ""))
                if "health on port " in text:
                    program.hello["health"] = f"http://127.0.0.1:{text.rpartition(' ')[2]}"
            if address := program.hello.get("health"):
                with contextlib.suppress(httpx.HTTPError):
                    if (await http.get(f"{address}/readyz")).status_code == 200:
                        return
            await asyncio.sleep(0.05)
    raise Failed(f"{program.name} did not get ready: {last_lines(program.log)}")
