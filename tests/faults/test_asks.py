"""Faults while a reply waits: no worker holds it, and it goes on exactly once, with one answer.

That a waiting reply is cancelled, and that several answers are waited for, is in
tests/integration/bridge/test_steps.py.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from postgrest.exceptions import APIError

from devstack.stack import Stack
from tests.faults.proxy import Proxy
from tests.faults.stuck import stuck
from tests.faults.walking import (
    AGENTS,
    SHORT,
    Notes,
    answer,
    delete_session_of,
    is_waiting,
    job,
    outcomes,
    remembered,
    walk,
)
from tests.support.database import Row, database
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

STEP = "bridge_step"
RACERS = 8


async def test_waiting_reply_survives_its_worker(
    environment: dict[str, str], user: Person, notes: Notes, db: psycopg.AsyncConnection[Row], tmp_path: Path
) -> None:
    environment = notes.environment(environment)
    async with worker_process(environment, tmp_path / "one.log", **SHORT) as first:
        question = await walk(user, ["text", "1 "], ["step", "a"], ["ask", "send"], ["step", "b"])
        await user.reply(question, is_waiting)
        await first.kill()
    assert await answer(user, question, "send") == "taken"
    async with worker_process(environment, tmp_path / "two.log", **SHORT):
        reply = await user.reply(question)
    assert reply["content"] == "1 a! send:yes b! "
    assert notes.tried == ["a", "b"]
    # the answer may be dispatched to a worker that nobody knows to be dead: that attempt is lost, as always
    assert await outcomes(db, question) in (["waiting", "done"], ["waiting", "lost", "done"])


async def test_answer_is_found_by_the_sweep(proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    async with working(proxied, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["ask", "send"])
        await user.reply(question, is_waiting)
        proxy.realtime.deaf = True
        assert await answer(user, question, "send") == "taken"
        assert (await user.reply(question, within=10))["content"] == "send:yes "


async def test_watch_of_chaos_finds_what_is_stuck(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **AGENTS):
        waiting, lost = [await walk(user, ["ask", "send"]) for _ in range(2)]
        for question in (waiting, lost):
            await user.reply(question, is_waiting)
    assert await stuck(db) == set()
    await db.execute("update bridge.steps set is_done = true where question_id = %s", (waiting,))
    await db.execute("delete from bridge.jobs where question_id = %s", (lost,))
    assert {(found.message_id, found.detail) for found in await stuck(db)} == {
        (waiting, "waits for nothing"),
        (lost, "waiting without a job"),
    }


@pytest.mark.parametrize("policy", ["interrupt", "enqueue", "reject"])
async def test_new_message_while_a_reply_waits(policy: str, environment: dict[str, str], user: Person) -> None:
    async with working(environment, **AGENTS):
        session_id = await user.open_session("Walk", title="named", on_new_message=policy)
        question = await user.ask(session_id, json.dumps([["text", "1 "], ["ask", "send"]]))
        await user.reply(question, is_waiting)
        follow_up = json.dumps([["text", "2"]])
        if policy == "reject":
            with pytest.raises(APIError, match="still running"):
                await user.ask(session_id, follow_up)
        else:
            second = await user.ask(session_id, follow_up)
        if policy == "interrupt":
            assert (await user.reply(second))["content"] == "2"
            assert await answer(user, question, "send") == "cancelled"
        else:
            assert await answer(user, question, "send") == "taken"
        reply = await user.reply(question)
        if policy == "enqueue":
            assert (await user.reply(second))["content"] == "2"
    expected = ("cancelled", "1 ") if policy == "interrupt" else ("done", "1 send:yes ")
    assert (reply["status"], reply["content"]) == expected
    (asked,) = [part for part in reply["parts"] if part.get("toolCallId") == "send"]
    assert asked["state"] == ("output-error" if policy == "interrupt" else "output-available")


async def test_session_deleted_while_its_reply_waits(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["step", "a"], ["ask", "send"])
        await user.reply(question, is_waiting)
        await delete_session_of(user, question)
        with pytest.raises(APIError) as refused:
            await answer(user, question, "send")
        assert refused.value.code == "PT404"
        assert await remembered(db, question) == []
        assert await job(db, question) is None
        assert (await user.reply(await walk(user, ["step", "b"])))["content"] == "b! "


async def test_one_of_many_answers_is_taken(environment: dict[str, str], user: Person) -> None:
    async with working(environment, **AGENTS):
        for n in range(4):
            question = await walk(user, ["ask", "send"])
            await user.reply(question, is_waiting)
            given = [bool((k + n) % 2) for k in range(RACERS)]
            states = await asyncio.gather(*(answer(user, question, "send", approved=value) for value in given))
            reply = await user.reply(question)
            assert states.count("taken") == 1
            assert set(states) <= {"taken", "answered", "done"}
            assert reply["content"] == f"send:{'yes' if given[states.index('taken')] else 'no'} "


async def test_answer_at_the_deadline_is_taken_or_late(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """Each question is answered by several, around its deadline: none is both taken and not answered in time."""
    rng, seen = random.Random(20261201), Counter[str]()
    within = 1.0

    async def race() -> None:
        question = await walk(user, ["ask", "send", within])
        row = await user.reply(question, is_waiting)
        (due,) = await (
            await db.execute(
                "select extract(epoch from due_at - now())::float8 as seconds from bridge.steps where question_id = %s",
                (question,),
            )
        ).fetchall()

        async def racer() -> str:
            await asyncio.sleep(max(0, due["seconds"] + rng.uniform(-0.1, 0.1)))
            return await answer(user, question, "send")

        states = await asyncio.gather(racer(), racer(), racer())
        reply = await user.reply(question)
        assert row["attempt"] == 1
        assert states.count("taken") <= 1
        assert reply["content"] == ("send:yes " if "taken" in states else "send… ")
        seen["taken" if "taken" in states else "late"] += 1

    async with working(environment, sweep_seconds=1, **AGENTS):
        for _ in range(3):
            await asyncio.gather(*(race() for _ in range(8)))
    assert set(seen) == {"taken", "late"}


async def test_answer_that_is_taken_before_nobody_answered_is_written(
    proxied: dict[str, str], proxy: Proxy, user: Person, stack: Stack, notes: Notes
) -> None:
    """A call that began in time waits for a lock, while a worker already goes on without an answer."""
    async with database(stack.admin_url) as early, working(proxied, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["step", "a"], ["ask", "send", 1.0], ["step", "b"])
        await user.reply(question, is_waiting)
        async with early.transaction():
            claims = json.dumps({"sub": user.id, "role": "authenticated"})
            await early.execute("select now(), set_config('request.jwt.claims', %s, true)", (claims,))
            await early.execute("set local role authenticated")
            proxy.rest.only, proxy.rest.status = STEP, 503
            before = proxy.calls[STEP]
            await until(lambda: proxy.calls[STEP] > before, 15)  # the worker has found that nobody answered
            state = await (
                await early.execute("select public.answer_message(%s, 'send', '{\"approved\": true}')", (question,))
            ).fetchone()
        await proxy.calm()
        reply = await user.reply(question)
    assert state is not None
    assert (state["answer_message"], reply["content"]) in (
        ("taken", "a! send:yes b! "),
        ("late", "a! send… b! "),
    )
    assert notes.tried == ["a", "b"]


async def test_answer_while_a_worker_holds_the_reply(
    proxied: dict[str, str], proxy: Proxy, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    """The attempt that began when another question was due ends, and the next one has the answer.

    What the attempt writes meanwhile does not show the question as an open one again.
    """
    async with working(proxied, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["both", [["ask", "a", 0.5], ["ask", "b"]]])
        row = await user.reply(question, is_waiting)
        events = await user.listen(f"session:{row['session_id']}", "message")
        proxy.rest.only, proxy.rest.status = STEP, 503  # that nobody has answered a
        before = proxy.calls[STEP]
        await until(lambda: proxy.calls[STEP] > before, 15)
        assert await answer(user, question, "b") == "taken"
        held = await job(db, question)
        await proxy.calm()
        reply = await user.reply(question)
        await events.until(lambda ear: ear.of("message", reply_to=question, status="done"))
    shown = [part["state"] for row in events.of("message", reply_to=question) for part in row["parts"][1:2]]
    assert "approval-requested" not in shown[shown.index("approval-responded") :]
    assert held is not None
    assert held["worker"] is not None
    assert (reply["content"], reply["attempt"]) == ("[a… b:yes] ", 3)
    assert await outcomes(db, question) == ["waiting", "waiting", "done"]


async def test_worker_killed_between_deadline_and_its_write(
    environment: dict[str, str], proxied: dict[str, str], proxy: Proxy, user: Person, notes: Notes, tmp_path: Path
) -> None:
    async with worker_process(notes.environment(proxied), tmp_path / "one.log", **SHORT) as first:
        question = await walk(user, ["text", "1 "], ["ask", "send", 0.5], ["step", "b"])
        await user.reply(question, is_waiting)
        proxy.rest.only, proxy.rest.hangs = STEP, True
        before = proxy.calls[STEP]
        await until(lambda: proxy.calls[STEP] > before, 15)
        await first.kill()
        assert await answer(user, question, "send") == "late"
        async with worker_process(notes.environment(environment), tmp_path / "two.log", **SHORT):
            reply = await user.reply(question)
            assert await answer(user, question, "send") == "done"
    assert (reply["content"], reply["attempt"]) == ("1 send… b! ", 3)
    assert notes.tried == ["b"]
