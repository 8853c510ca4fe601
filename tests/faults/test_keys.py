"""Rotating the secret key is a rolling restart: both keys are valid for a while, and users notice nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import jwt
import psycopg

from tests.faults.test_deploy import busy
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_process


async def test_workers_with_different_keys_take_over_from_each_other(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    # the devstack has one secret key; the legacy service role's JWT is the other valid key
    claims = {"role": "service_role", "iss": "supabase", "exp": int(time.time()) + 600}
    other = {"SUPABASE_SECRET_KEY": jwt.encode(claims, environment["SUPABASE_JWT_SECRET"], "HS256")}
    settings: dict[str, Any] = {"sweep_seconds": 30, "drain_seconds": 20, "concurrency": 4}
    sessions = [await user.open_session(title="named") for _ in range(8)]
    question = "[[tokens=150 delay=0.02]]"
    async with (
        worker_process(environment | other, tmp_path / "old.log", **settings) as old,
        worker_process(environment, tmp_path / "new.log", **settings) as new,
    ):
        # more than one worker has slots for
        asked = await asyncio.gather(*(user.ask(session_id, question) for session_id in sessions))
        await busy(old)
        await busy(new)
        old.signal(signal.SIGTERM)
        assert await old.ended(25) == 0
        asked += [await user.ask(session_id, question) for session_id in sessions]
        replies = [await user.reply(message_id, within=60) for message_id in asked]
    assert {(reply["status"], reply["attempt"]) for reply in replies} == {("done", 1)}
    cursor = await db.execute("select count(distinct worker) as workers from bridge.runs")
    assert await cursor.fetchall() == [{"workers": 2}]
