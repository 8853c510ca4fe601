"""A running `make dev` (`python -m devstack.dev`), its output, and a folder of functions for it to watch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from devstack import state
from devstack.process import before_exec
from tests.support import ROOT, shipped

_HIDDEN = ("LLM_", "SUPABASE_", "BRIDGE_")


class Terminal:
    """A running `make dev` and its output."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path) -> None:
        self.process, self.data = process, data
        self.text = ""
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its embedded Supabase."""
        return state.running(self.data)

    async def until(self, pattern: str, *, since: int = 0, within: float = 60) -> re.Match[str]:
        """Wait for a match in what was printed after the first `since` characters. Raises TimeoutError."""
        try:
            async with asyncio.timeout(within):
                while not (found := re.search(pattern, self.text[since:], re.MULTILINE)):
                    assert not self._reading.done(), self.text
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise TimeoutError(f"no {pattern!r} within {within:g} s in: {self.text[since:]}") from None
        return found

    async def end(self) -> int:
        """Wait for the exit; returns the exit code."""
        async with asyncio.timeout(20):
            await self._reading
            return await self.process.wait()

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.text += line.decode()
            self._more.set()
        self._more.set()


@contextlib.asynccontextmanager
async def terminal(
    data: Path, web_port: int = 25173, *, folder: Path | None = None, **variables: str
) -> AsyncIterator[Terminal]:
    """Run it with its data in `data`; without a `folder`, on the functions that the project ships."""
    folder = folder or copy_functions(Path(tempfile.mkdtemp(dir=data.parent)))
    own = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack.dev", "--data", str(data), "--port", "0", "--web-port", str(web_port)),
        *("--folder", str(folder)),
        cwd=ROOT,
        env=own | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before_exec(signal.SIGKILL),  # it must not outlive its test
    )
    running = Terminal(process, data)
    try:
        yield running
    finally:
        await running.close()


def copy_functions(folder: Path) -> Path:
    """Copy the shipped functions into a folder, to be edited; returns it."""
    shipped.copy_functions(folder)
    return folder


async def interrupt(running: Terminal) -> int:
    """Press Ctrl-C, and return the exit code."""
    running.process.send_signal(signal.SIGINT)
    return await running.end()
