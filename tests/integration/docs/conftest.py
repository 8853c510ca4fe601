"""A project that contains the documentation's BAML and Python blocks, a worker that serves it, and Node."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from devstack.migrations import PROJECT
from devstack.model import ModelServer
from devstack.node import node
from devstack.stack import Stack
from tests.support import shipped
from tests.support.blocks import Block, code_of, in_page
from tests.support.database import Row
from tests.support.users import PASSWORD, Person
from tests.support.workers import WorkerProcess, worker_process

CLI = Path(sys.executable).with_name("baml-cli")
PRELUDE = Path(__file__).with_name("prelude.mjs").read_text()
SIGN_IN = in_page("docs/frontend.md", "js")[0]
FUNCTIONS = (
    "Chat",
    "Code",
    "Title",
    "Translate",
    "Read",
    "Outline",
    "Cook",
    "Count",
    "Investigate",
    "Echo",
    "Journey",
    "Letter",
)

Program = Callable[..., Awaitable[list[Row]]]


def write_project(folder: Path, baml: Sequence[Block]) -> None:
    """Copy the shipped functions to `folder` and add these blocks, each in a file named after its page and line."""
    shipped.copy_functions(folder)
    for text, block in {block.text: block for block in baml}.items():  # two pages may show the same block
        (folder / "baml_src" / f"{block.module}.baml").write_text(text)


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start a worker in, with the functions and handlers that the documentation shows."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder, code_of("baml"))
    subprocess.run([CLI, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    blocks = code_of("python")
    for block in blocks:
        (folder / f"{block.module}.py").write_text(block.text)
    (folder / "handlers.py").write_text("".join(f"import {block.module}\n" for block in blocks))
    return folder


@pytest.fixture(scope="package")
async def worker(stack: Stack, model: ModelServer, project: Path) -> AsyncIterator[WorkerProcess]:
    """A worker that serves the functions and handlers of the documentation."""
    names = {"BRIDGE_FUNCTIONS": ",".join(FUNCTIONS), "BRIDGE_HANDLERS": "handlers"}
    # the default interval: a delta that a client misses before its first checkpoint is never sent again
    log = project / "worker.log"
    async with worker_process(stack.environment | names, log, project, checkpoint_seconds=1) as running:
        yield running


@pytest.fixture
async def program(environment: dict[str, str], tmp_path: Path) -> Program:
    """Run blocks as one module in Node, signed in as a user. Returns the JSON lines that they print."""
    (tmp_path / "node_modules").symlink_to(PROJECT / "node_modules")

    async def run(person: Person, *parts: str, more: Sequence[str] = (), within: float = 60) -> list[Row]:
        module = tmp_path / "program.mjs"
        module.write_text("\n".join((PRELUDE, *parts)))
        process = await asyncio.create_subprocess_exec(
            *(await asyncio.to_thread(node), str(module)),
            *(environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"], person.email, PASSWORD, *more),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(within):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, err.decode()
        return [json.loads(line) for line in out.splitlines()]

    return run
