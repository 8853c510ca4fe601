"""The client's tests that need a Supabase, with supabase-js in between: those that use `client/test/devstack.ts`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest

from devstack.migrations import PROJECT
from devstack.node import node
from devstack.stack import Stack
from tests.support import database

FILES = ("test/supabase.test.ts", "test/transport.test.ts")
VITEST = PROJECT / "node_modules" / "vitest" / "vitest.mjs"


@pytest.fixture
async def alone(stack: Stack) -> AsyncIterator[dict[str, str]]:
    """What the tests find in their environment. They play the worker, and whoever signs up is gone afterwards."""
    yield stack.environment
    await database.delete_all_users(stack.admin_url)


async def test_the_client_with_supabase(alone: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(node),
        str(VITEST),
        "run",
        "--reporter=json",
        "--no-file-parallelism",  # a worker that a test plays takes any job
        *FILES,
        cwd=PROJECT / "client",
        env={**os.environ, **alone},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(180):
        out, err = await process.communicate()
    said = out.decode()
    assert said.startswith("{"), said + err.decode()
    report = json.loads(said)
    failures = [
        test["fullName"] + "\n" + "\n".join(test["failureMessages"])
        for file in report["testResults"]
        for test in file["assertionResults"]
        if test["status"] != "passed"
    ]
    assert process.returncode == 0, "\n\n".join([*failures, err.decode()])
    assert report["numPassedTests"] == report["numTotalTests"] > 15  # none was left out
