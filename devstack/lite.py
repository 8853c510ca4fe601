"""REST and Auth: the Node process that runs `lite.mjs`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devstack import DevstackError
from devstack.node import node
from devstack.process import before_exec, end, last_lines, open_log

_SCRIPT = Path(__file__).with_name("lite.mjs")
_START_SECONDS = 60.0
_RELOAD_SECONDS = 30.0


class Lite:
    """A server that can be started and stopped again; its port (127.0.0.1) is another at each start.

    It ends when its stdin does, so it cannot outlive us. `fast_passwords` makes password hashes
    cheap, for tests that sign up many users.
    """

    def __init__(self, *, log: Path, fast_passwords: bool = False) -> None:
        self.port: int | None = None
        self._log = log
        self._fast_passwords = fast_passwords
        self._process: asyncio.subprocess.Process | None = None
        self._running = asyncio.Event()
        self._config: Mapping[str, str] = {}

    @property
    def pid(self) -> int | None:
        """Node's process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def load(self) -> None:
        """Start Node, which then loads its modules and waits for `start`. Saves the time, no more."""
        if self._process is not None:
            return
        if not (_SCRIPT.parents[1] / "node_modules" / "@supabase" / "lite").is_dir():
            raise DevstackError("the Node packages are not installed: run `make setup`")
        environment = {**os.environ, "NODE_ENV": "production"}
        if self._fast_passwords:
            environment["LITE_AUTH_BCRYPT_COST"] = "4"
        binary = await asyncio.to_thread(node)
        log = open_log(self._log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                binary,
                str(_SCRIPT),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=before_exec(signal.SIGKILL),
            )
            self._running.set()
        finally:
            os.close(log)

    async def start(self, config: Mapping[str, str] | None = None) -> None:
        """Start the server: `config` is what lite.mjs wants first; without one, the last one again.

        Returns when it listens and the tables of `auth` are there. Raises `DevstackError` if not.
        """
        self._config = config or self._config
        await self.load()
        told = await self._ask(json.dumps(dict(self._config)), _START_SECONDS)
        self.port = int(told["port"])

    async def reload(self) -> None:
        """Have the schema read again; returns when it is. Raises `DevstackError` if it cannot be."""
        await self._ask("reload", _RELOAD_SECONDS)

    async def stop(self) -> None:
        """Stop the server; a second call does nothing."""
        self.port = None
        if self._process is None:
            return
        process, self._process = self._process, None
        self._running.clear()
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(2.0):
                await process.wait()
        except TimeoutError:
            await end(process, (signal.SIGTERM, 2.0))

    async def ended(self) -> str:
        """Wait until the server ends without having been stopped; return why, in one line."""
        while True:
            await self._running.wait()
            process = self._process
            if process is not None:
                await process.wait()
                if self._process is process:  # else it was stopped on purpose, and perhaps another one runs
                    break
        return f"REST and Auth ended unexpectedly ({self._log}): {last_lines(self._log)}"

    async def _ask(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a line, return the answer. Raises `DevstackError` if there is none or it is an error."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise DevstackError("REST and Auth are not running")
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(line.encode() + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except (TimeoutError, ConnectionError):
            answer = b""
        told = json.loads(answer) if answer else {"error": last_lines(self._log) or "no answer"}
        if "error" in told:
            await self.stop()
            raise DevstackError(f"REST and Auth did not start ({self._log}): {told['error']}")
        assert isinstance(told, dict)
        return told
