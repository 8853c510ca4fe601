"""REST and Auth: the Node process that runs `lite.mjs`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devstack import DevstackError
from devstack.node import node
from devstack.process import before_exec, end, last_lines, open_log, running_pid

_SCRIPT = Path(__file__).with_name("lite.mjs")
_START_SECONDS = 60.0
_RELOAD_SECONDS = 30.0


class Lite:
    """The REST and Auth server. It can be stopped and restarted; each start picks a new port on 127.0.0.1.

    It exits when its stdin closes, so it cannot outlive this process. `fast_passwords` makes
    password hashing cheap, for tests that sign up many users. `on_mail` is called with a line for
    each email that Auth would send.
    """

    def __init__(
        self, *, log: Path, fast_passwords: bool = False, on_mail: Callable[[str], None] = lambda _: None
    ) -> None:
        self.port: int | None = None
        self._log = log
        self._fast_passwords = fast_passwords
        self._on_mail = on_mail
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._responses: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._running = asyncio.Event()
        self._config: Mapping[str, str] = {}

    @property
    def pid(self) -> int | None:
        """The process id of Node while it runs."""
        return running_pid(self._process)

    async def load(self) -> None:
        """Start Node and let it load its modules ahead of `start`, to save time. Optional."""
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
            self._responses = asyncio.Queue()
            self._reader = asyncio.create_task(self._read(self._process, self._responses), name="read REST and Auth")
            self._running.set()
        finally:
            os.close(log)

    async def start(self, config: Mapping[str, str] | None = None) -> None:
        """Start the server; return once it listens and the tables of `auth` exist.

        `config` is the first line for lite.mjs; without it, the last one is used again.
        Raises `DevstackError` if the server does not start.
        """
        self._config = config or self._config
        await self.load()
        started = await self._request(json.dumps(dict(self._config)), _START_SECONDS)
        self.port = int(started["port"])

    async def reload(self) -> None:
        """Reload the database schema. Raises `DevstackError` on failure."""
        await self._request("reload", _RELOAD_SECONDS)

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
        reader, self._reader = self._reader, None
        if reader is not None:
            await asyncio.wait((reader,), timeout=1.0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def ended(self) -> str:
        """Wait until the server exits without `stop`; return the reason, in one line."""
        while True:
            await self._running.wait()
            process = self._process
            if process is not None:
                await process.wait()
                if self._process is process:  # otherwise it was stopped, and may have been restarted
                    break
        return f"REST and Auth exited unexpectedly ({self._log}): {last_lines(self._log)}"

    async def _request(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a line and return the response. Raises `DevstackError` on an error or a timeout."""
        process = self._process
        if process is None or process.stdin is None:
            raise DevstackError("REST and Auth are not running")
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(line.encode() + b"\n")
                await process.stdin.drain()
                response = await self._responses.get()
        except (TimeoutError, ConnectionError):
            response = {"error": last_lines(self._log) or "no response"}
        if "error" in response:
            await self.stop()
            raise DevstackError(f"REST and Auth did not start ({self._log}): {response['error']}")
        return response

    async def _read(self, process: asyncio.subprocess.Process, responses: asyncio.Queue[dict[str, Any]]) -> None:
        """Pass on what the process writes, until it ends."""
        assert process.stdout is not None
        async for raw in process.stdout:
            line = json.loads(raw)
            if mail := line.get("mail"):
                self._on_mail(f"email to {mail['to']}, {mail['subject']}: {mail['link']}")
            else:
                responses.put_nowait(line)
        responses.put_nowait({"error": last_lines(self._log) or "no response"})
