"""A question that kills every worker that claims it becomes a dead letter; other questions are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_process

MAX_FAILURES = 2


async def test_question_that_kills_workers_becomes_dead_letter(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "lease_seconds": 2,
        "sweep_seconds": 1,
        "max_failures": MAX_FAILURES,
        "functions": "Chat,Die",
        "handlers": "tests.support.handlers",
    }
    poison = await user.ask(await user.open_session("Die", title="named"), "hello")
    for n in range(MAX_FAILURES):
        async with worker_process(environment, tmp_path / f"{n}.log", ready=False, **settings) as worker:
            assert await worker.ended() == 7
    async with worker_process(environment, tmp_path / "last.log", **settings) as worker:
        after = await user.ask(await user.open_session(title="named"), "[[text=alive]]")
        assert (await user.reply(after))["content"] == "alive"
        reply = await user.reply(poison)
        assert worker.runs
    assert (reply["status"], reply["error"]["code"]) == ("failed", "gave_up")
    runs = await (
        await db.execute("select outcome from bridge.runs where question_id = %s order by attempt", (poison,))
    ).fetchall()
    assert [run["outcome"] for run in runs] == ["lost"] * MAX_FAILURES + ["failed"]
    letters = await (await db.execute("select question_id::text as id from bridge.dead_letters")).fetchall()
    assert [letter["id"] for letter in letters] == [poison]
