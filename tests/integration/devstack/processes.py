"""Inspecting processes that are not children of the tests (Linux)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphans")


def is_alive(pid: int) -> bool:
    """Return whether a process is running; zombies count as ended."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


async def wait_until_ended(*pids: int) -> None:
    async with asyncio.timeout(15):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110  not our children, so we have to poll
            await asyncio.sleep(0.02)


def descendants(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, OSError):
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found
