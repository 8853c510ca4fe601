"""Runs the client's tests that need a Supabase: those that use `client/test/devstack.ts`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.e2e.tab import run_node
from tests.support import database

FILES = ("test/supabase.test.ts", "test/storage.test.ts", "test/transport.test.ts")
VITEST = PROJECT / "node_modules" / "vitest" / "vitest.mjs"


@pytest.fixture
async def without_worker(stack: Stack) -> AsyncIterator[dict[str, str]]:
    """The environment of the tests, which act as the worker. Their users are deleted afterwards."""
    yield stack.environment
    await database.delete_all_users(stack.admin_url)


async def test_the_client_works_with_supabase(without_worker: dict[str, str]) -> None:
    code, output, errors = await run_node(
        *(VITEST, "run", "--reporter=json"),
        *("--no-file-parallelism", *FILES),  # each fake worker claims any job
        cwd=PROJECT / "client",
        within=180,
        **without_worker,
    )
    assert output.startswith("{"), output + errors
    report = json.loads(output)
    failures = [
        test["fullName"] + "\n" + "\n".join(test["failureMessages"])
        for file in report["testResults"]
        for test in file["assertionResults"]
        if test["status"] != "passed"
    ]
    assert code == 0, "\n\n".join([*failures, errors])
    assert report["numPassedTests"] == report["numTotalTests"] > 15  # none was skipped
