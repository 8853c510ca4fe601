"""The command `bridge`, run as a person or a host runs it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence

from tests.support import ROOT, shipped

LLM = {"LLM_BASE_URL": "http://127.0.0.1:9/v1", "LLM_API_KEY": "key", "LLM_MODEL": "model"}


async def run_bridge(*arguments: str, **env: str) -> Process:
    """Start `bridge` with its output captured."""
    return await start_bridge(arguments, env, subprocess.PIPE)


async def start_bridge(arguments: Sequence[str], env: Mapping[str, str], stdout: int) -> Process:
    """Start `bridge` with `env` as its whole environment, apart from a model and a health port."""
    health = {"BRIDGE_HEALTH_PORT": "0", "BRIDGE_HEALTH_HOST": "127.0.0.1"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bridge.cli",
        *arguments,
        cwd=shipped.project(),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **health, **LLM, **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


async def wait_for_exit(process: Process, within: float = 30) -> tuple[int, str, str]:
    """Wait for the exit; returns the exit code, stdout and stderr."""
    async with asyncio.timeout(within):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), err.decode()


async def read_until(process: Process, pattern: str) -> str:
    """Read stderr up to the first line that matches the pattern."""
    assert process.stderr is not None
    text = ""
    async with asyncio.timeout(30):
        while not re.search(pattern, text):
            line = await process.stderr.readline()
            assert line, text
            text += line.decode()
    return text
