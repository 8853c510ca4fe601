"""Child processes that end with their parent, even if it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def before_exec(death_signal: signal.Signals, *, first: Callable[[], None] | None = None) -> Callable[[], None]:
    """Return a `preexec_fn` that ties a child's life to its parent's.

    On Linux the kernel sends the child `death_signal` when the parent ends, even by SIGKILL;
    other systems have no equivalent. `first` runs before that, for example to drop privileges:
    the kernel clears the death signal when the user id changes.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    parent = os.getpid()

    def run() -> None:
        if first is not None:
            first()
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:  # the parent ended before the call
                os._exit(1)

    return run


async def end(process: asyncio.subprocess.Process, *steps: tuple[signal.Signals, float]) -> None:
    """Send each signal and wait its seconds until the process has exited; the last step is SIGKILL."""
    for number, seconds in (*steps, (signal.SIGKILL, 10.0)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
                return


def running_pid(process: asyncio.subprocess.Process | None) -> int | None:
    """Return the process id, or None if there is no process or it has exited."""
    return process.pid if process is not None and process.returncode is None else None


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_lines(log: Path, count: int = 5) -> str:
    """Return the last lines of a log file, joined by " | "; an empty string if there are none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in text.splitlines()[-count:] if line.strip())


def open_log(log: Path, *, limit: int = 8 * 1024 * 1024) -> int:
    """Open a log file for appending and return its descriptor; rotate it first if it exceeds `limit` bytes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > limit:
        log.replace(log.with_suffix(".old.log"))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
