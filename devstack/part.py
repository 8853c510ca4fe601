"""Runs several programs in one terminal: prefixes their output and reports when one exits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack import DevstackError
from devstack.migrations import PROJECT
from devstack.process import before_exec, end

_STOP_SECONDS = 4.0
_COLOURS = {"supabase": 32, "model": 35, "worker": 36, "web": 34, "dev": 33}


class Console:
    """The shared terminal: prefixes each line with the program's name, in colour on a terminal."""

    def __init__(self) -> None:
        self._held: list[tuple[str, str]] | None = None
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def line(self, name: str, text: str) -> None:
        """Print a line with a program's prefix."""
        if self._held is not None:
            self._held.append((name, text))
            return
        label = f"{name:<8} │"
        if self._colour:
            label = f"\x1b[{_COLOURS.get(name, 37)}m{label}\x1b[0m"
        print(f"{label} {text}", flush=True)

    def hold(self) -> None:
        """Keep lines back from now on, until `release`."""
        self._held = []

    def release(self, *, without: str | None = None) -> None:
        """Print what was kept back (except for lines that contain `without`), and whatever follows."""
        held, self._held = self._held or [], None
        for name, text in held:
            if without is None or without not in text:
                self.line(name, text)

    def say(self, text: str) -> None:
        """Print a line with the prefix `dev`."""
        self.line("dev", text)

    def block(self, *rows: tuple[str, str]) -> None:
        """Print rows of names and values between two rules."""
        rule = "─" * 72
        body = "\n".join(f"  {name:<10}{value}" for name, value in rows)
        text = f"\n{rule}\n{body}\n{rule}\n"
        print(f"\x1b[1m{text}\x1b[0m" if self._colour else text, flush=True)


class Part:
    """One child program. `stop` ends it; on Linux it also ends if this process is killed."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        console: Console,
        *,
        folder: Path = PROJECT,
        takes_orders: bool = False,
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._console = console
        self._folder = folder
        self._stdin = subprocess.PIPE if takes_orders else subprocess.DEVNULL
        self._lines: deque[str] = deque(maxlen=8)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_terminated = False

    async def start(self) -> None:
        """Start the program. Raises `DevstackError` if it cannot be started."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=dict(self._env),
                stdin=self._stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # only this process receives Ctrl-C
                preexec_fn=before_exec(signal.SIGKILL),
            )
        except OSError as error:
            raise DevstackError(f"{self.name} cannot be started: {error}") from error
        self._reader = asyncio.create_task(self._read(self._process))

    async def ended(self) -> str:
        """Wait until the program exits; return its name, exit code and last lines."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        await asyncio.wait((self._reader,), timeout=1.0)
        return f"{self.name} exited with code {code}: {self.last()}"

    def last(self) -> str:
        """Return its last lines, joined by " | "."""
        return " | ".join(self._lines) or "it printed nothing"

    @property
    def has_ended(self) -> bool:
        """Whether the program has exited, or was never started."""
        return self._process is None or self._process.returncode is not None

    def lines(self) -> tuple[str, ...]:
        """Return its last lines."""
        return tuple(self._lines)

    async def order(self, line: str) -> None:
        """Write a line to its stdin, which is then closed."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has exited, which others notice
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()
            self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, unless it has exited."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM, at most once: a second one tells a worker to drop its replies."""
        if not self._is_terminated:
            self._is_terminated = True
            self.signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Send SIGTERM (see `terminate`), then SIGKILL to whatever remains after a few seconds."""
        if self._process is not None:
            self.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()
            await end(self._process)
            self.kill()  # its own children
        if self._reader is not None:
            await asyncio.wait((self._reader,), timeout=1.0)
            self._reader.cancel()
            await asyncio.wait((self._reader,))

    def kill(self) -> None:
        """Kill the program and its children immediately."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # the line exceeded the reader's limit and was dropped
                continue
            if not raw:
                return
            text = raw.decode(errors="replace").rstrip()
            if text:
                self._lines.append(text)
                self._console.line(self.name, text)
