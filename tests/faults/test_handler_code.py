"""What handlers do wrong, and code that changes between two attempts: one clear failure, and no finished step is lost.

`Walk` does what its question says, so a test changes the question where a user would deploy other code.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.model import Settled, StepWrite
from bridge.store import Store
from tests.faults.walking import (
    AGENTS,
    SHORT,
    Notes,
    answer,
    is_waiting,
    job,
    outcomes,
    remembered,
    walk,
    with_text,
)
from tests.support import ROOT
from tests.support.commands import run_bridge, wait_for_exit
from tests.support.database import Row, set_limits
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, worker_settings, working

BEFORE_STEPS = "91e9fd0"
MAX_FAILURES = 2


async def dead_letters(db: psycopg.AsyncConnection[Row]) -> list[tuple[str, str]]:
    """The questions that were given up, and why."""
    cursor = await db.execute("select question_id::text as id, error ->> 'code' as code from bridge.dead_letters")
    return [(row["id"], row["code"]) for row in await cursor.fetchall()]


# -- what cannot be remembered


@pytest.mark.parametrize(
    ("limits", "operation", "code", "tried"),
    [
        pytest.param({"step_bytes": 30}, ["step", "x" * 40], "step_too_large", ["a", "x" * 40], id="too large"),
        pytest.param({"steps_bytes": 30}, ["step", "x" * 29], "step_too_large", ["a", "x" * 29], id="together"),
        pytest.param({}, ["odd", "x"], "internal", ["a", "x"], id="not JSON"),
        pytest.param({"steps_per_message": 1}, ["step", "x"], "too_many_steps", ["a", "x"], id="one too many"),
        pytest.param({}, ["both", [["ask", f"x{n}"] for n in range(17)]], "unstorable", ["a"], id="too many questions"),
        pytest.param({"steps_per_message": 2}, ["both", [["ask", "x"], ["ask", "y"]]], "unstorable", ["a"], id="waits"),
    ],
)
async def test_step_that_cannot_be_remembered_fails_once(
    limits: dict[str, int],
    operation: list[Any],
    code: str,
    tried: list[str],
    environment: dict[str, str],
    user: Person,
    db: psycopg.AsyncConnection[Row],
    notes: Notes,
) -> None:
    await set_limits(db, user.id, **limits)
    async with working(environment, **AGENTS):
        question = await walk(user, ["text", "1 "], ["step", "a"], operation)
        reply = await user.reply(question)
        assert (reply["status"], reply["error"]["code"]) == ("failed", code)
        assert reply["content"].startswith("1 ")
        assert await outcomes(db, question) == ["failed"]
        assert await dead_letters(db) == [(question, code)]
        assert await remembered(db, question) == ["a"]
        assert notes.tried == tried
        assert (await user.reply(await walk(user, ["text", "fine"])))["content"] == "fine"


async def test_refused_step_does_not_affect_others_of_the_call(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await set_limits(db, user.id, step_bytes=30)
    store = await Store.open(worker_settings(environment), "batch-test")
    try:
        asked = [await walk(user, ["text", "1"]) for _ in range(3)]
        jobs = {claimed.question_id: claimed for claimed in (await store.claim(9, [], ["Walk"])).jobs}
        values = ["fine", "x" * 40, "fine, too"]
        writes = [
            StepWrite(question, jobs[question].attempt, "a", 1, "done", value, 0, 0, Settled(0, 0))
            for question, value in zip(asked, values, strict=True)
        ]
        ack = await store.remember(writes)
        assert [ack.states[question, "a"] for question in asked] == ["ok", "step_too_large", "ok"]
        assert [await remembered(db, question) for question in asked] == [["a"], [], ["a"]]
    finally:
        await store.close()


async def test_step_that_kills_its_worker_is_given_up_and_resumed(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], notes: Notes, tmp_path: Path
) -> None:
    """Failures before the last finished step do not count; `bridge dead retry` goes on with the finished ones."""
    settings = {**SHORT, "max_failures": MAX_FAILURES}
    mine = notes.environment(environment)
    question = await walk(user, ["text", "1 "], ["die", "first"], ["once", "a"], ["text", "2 "], ["die", "second"])
    for n in range(1 + MAX_FAILURES):
        if n == 1:
            notes.let_go("first")
        async with worker_process(mine, tmp_path / f"{n}.log", ready=False, **settings) as worker:
            assert await worker.ended() == 7
    async with worker_process(mine, tmp_path / "last.log", **settings) as worker:
        reply = await user.reply(question)
        assert (reply["status"], reply["error"]["code"]) == ("failed", "gave_up")
        assert reply["content"].startswith("1 first! ")
        assert await remembered(db, question) == ["first", "a"]
        assert await dead_letters(db) == [(question, "gave_up")]
        notes.let_go("second")
        keys = {name: environment[name] for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY")}
        code, out, err = await wait_for_exit(await run_bridge("dead", "retry", question, **keys))
        assert (code, err) == (0, ""), out + err
        reply = await user.reply(question, lambda row: row["status"] == "done")
        assert worker.runs
    assert reply["content"] == "1 first! a! 2 second! "
    assert notes.tried == ["first", "first", "a", "second", "second", "second"]
    assert len(notes.keys) == 3
    ended = await outcomes(db, question)
    assert ended[: 2 + MAX_FAILURES] == ["lost"] * (1 + MAX_FAILURES) + ["failed"]
    assert ended[-1] == "done"


# -- code that changes


@pytest.mark.parametrize(
    ("operations", "text", "tried"),
    [
        pytest.param(
            [["text", "1 "], ["step", "a"], ["step", "b"], ["text", "End."]],
            "1 a! b! End.",
            ["a", "b"],
            id="the question to the user has gone",
        ),
        pytest.param(
            [["step", "new"], ["text", "1 "], ["step", "a"], ["ask", "send"]],
            "1 a! send:yes ",
            ["a", "new"],
            id="a new step in front",
        ),
        pytest.param(
            [["text", "1 "], ["step", "a:2"], ["ask", "send"], ["text", "End."]],
            "1 a! send:yes End.",
            ["a", "a:2"],
            id="a step was renamed",
        ),
        pytest.param([["text", "Bye."]], "1 a! ", ["a"], id="nothing is left of it"),
    ],
)
async def test_code_that_changes_keeps_what_was_shown(
    operations: list[Any],
    text: str,
    tried: list[str],
    environment: dict[str, str],
    user: Person,
    db: psycopg.AsyncConnection[Row],
    notes: Notes,
) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["text", "1 "], ["step", "a"], ["ask", "send"])
        await user.reply(question, is_waiting)
        await db.execute("update public.messages set content = %s where id = %s", (json.dumps(operations), question))
        assert await answer(user, question, "send") == "taken"
        reply = await user.reply(question)
    assert (reply["status"], reply["content"][: len(text)]) == ("done", text)
    assert notes.tried == tried
    (asked,) = [part for part in reply["parts"] if part.get("toolCallId") == "send"]
    assert asked["state"] in ("output-available", "output-error")  # it has ended, in either case


async def test_trigger_that_refuses_to_wait_fails_the_reply(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], notes: Notes
) -> None:
    """A project's own trigger, made before there was this status."""
    await db.execute(
        "create function public.only_known() returns trigger language plpgsql as $$ begin"
        " if new.status = 'waiting' then raise 'no such status: %', new.status; end if; return new; end $$;"
        " create trigger only_known before update on public.messages for each row execute function public.only_known()"
    )
    try:
        async with working(environment, **AGENTS):
            question = await walk(user, ["text", "1 "], ["step", "a"], ["ask", "send"])
            reply = await user.reply(question)
            assert (reply["status"], reply["error"]["code"]) == ("failed", "unstorable")
            assert reply["content"].startswith("1 ")
            assert await dead_letters(db) == [(question, "unstorable")]
            assert await answer(user, question, "send") == "failed"
            assert (await user.reply(await walk(user, ["step", "b"])))["content"] == "b! "
    finally:
        await db.execute("drop function public.only_known cascade")
    assert notes.tried == ["a", "b"]


# -- a worker that knows nothing of steps


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's code before it had steps, with a handler for it."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(
        ["git", "archive", BEFORE_STEPS, "bridge", "devstack", "pyproject.toml"], cwd=ROOT, capture_output=True
    )
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {BEFORE_STEPS}: {archive.stderr.decode()}")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    (folder / "old_handlers.py").write_text(
        "from bridge import handler\n\n\n@handler('Walk')\nasync def walk(turn):\n    yield 'old'\n"
    )
    return folder


async def test_worker_of_the_previous_version_gets_no_reply_with_steps(
    environment: dict[str, str],
    user: Person,
    db: psycopg.AsyncConnection[Row],
    notes: Notes,
    tmp_path: Path,
    previous: Path,
) -> None:
    """Neither one whose user has answered nor one whose worker has vanished: both wait for a newer worker."""
    mine = notes.environment(environment)
    async with worker_process(mine, tmp_path / "one.log", **SHORT) as first:
        asking = await walk(user, ["text", "1 "], ["step", "a"], ["ask", "send"], ["step", "b"])
        held = await walk(user, ["text", "1 "], ["step", "c"], ["step", "held"])
        await user.reply(asking, is_waiting)
        await user.reply(held, with_text("1 c! "))
        await notes.begun("held")
        await first.kill()
    settings = {**SHORT, "handlers": "old_handlers"}
    old_environment = environment | {"PYTHONPATH": str(previous)}
    async with worker_process(old_environment, tmp_path / "old.log", **settings) as old:
        assert await answer(user, asking, "send") == "taken"

        async def is_over() -> bool:
            row = await job(db, held)
            cursor = await db.execute("select now() > %s as is_over", (row and row["lease_until"],))
            return bool((await cursor.fetchall())[0]["is_over"])

        await until(is_over, 20)
        for _ in range(3):  # it works, and looks for more
            assert (await user.reply(await walk(user, ["step", "d"])))["content"] == "old"
        (its,) = await (await db.execute("select name from bridge.workers where not knows_steps")).fetchall()
        for question in (asking, held):
            left = await job(db, question)
            assert left is not None
            assert left["worker"] != its["name"]
        notes.let_go("held")
        async with worker_process(mine, tmp_path / "two.log", **SHORT):
            assert (await user.reply(asking, within=30))["content"] == "1 a! send:yes b! "
            assert (await user.reply(held, within=30))["content"] == "1 c! held! "
        runs = await (
            await db.execute("select question_id::text as id from bridge.runs where worker = %s", (its["name"],))
        ).fetchall()
        assert not {asking, held} & {run["id"] for run in runs}
        assert len(runs) == 3
        assert [line for line in old.lines() if line["level"] in ("error", "critical")] == []
    assert sorted(notes.tried) == ["a", "b", "c", "held", "held"]
