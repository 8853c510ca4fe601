"""Runs the checks in javascript.mjs with supabase-js; each line of its output becomes a subtest."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from devstack.node import node
from tests.conformance.conftest import PASSWORD, Supabase, User
from tests.support import ROOT

SCRIPT = Path(__file__).with_name("javascript.mjs")


async def test_supabase_js_passes_all_checks(
    supabase: Supabase, alice: User, bob: User, bucket: str, subtests: pytest.Subtests
) -> None:
    people = [json.dumps({"email": user.email, "password": PASSWORD}) for user in (alice, bob)]
    process = await asyncio.create_subprocess_exec(
        *(await asyncio.to_thread(node), str(SCRIPT), supabase.url, supabase.publishable_key),
        *(str(supabase.patience), bucket, *people),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30 * supabase.patience):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    results = [json.loads(line) for line in out.splitlines()]
    assert len(results) == 28, err.decode()
    for result in results:
        with subtests.test(result["name"]):
            assert result["error"] is None, result["error"]
