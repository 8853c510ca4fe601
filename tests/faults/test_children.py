"""Replies that a handler asks for with `turn.run`: however one of them ends, the other learns of it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.faults.proxy import Proxy
from tests.faults.walking import (
    AGENTS,
    SHORT,
    Notes,
    cancel,
    delete_session_of,
    is_waiting,
    job,
    outcomes,
    remembered,
    walk,
)
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

HELD = ["run", "Walk", [["text", "inner "], ["step", "held"], ["once", "after"]]]


async def child_of(db: psycopg.AsyncConnection[Row], question: str) -> str:
    """The question that a handler asked."""
    cursor = await db.execute(
        "select m.id::text from public.sessions s join public.messages m on m.session_id = s.id and m.role = 'user'"
        " where s.parent = %s",
        (question,),
    )
    ((row),) = await cursor.fetchall()
    return str(row["id"])


@pytest.mark.parametrize("end", ["cancelled", "deleted"])
async def test_parent_that_ends_ends_its_child(
    end: str, environment: dict[str, str], user: Person, notes: Notes, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **AGENTS) as worker:
        question = await walk(user, ["text", "1 "], HELD)
        await notes.begun("held")
        await user.reply(question, is_waiting)
        child = await child_of(db, question)
        if end == "cancelled":
            assert await cancel(user, question) == "cancelled"
            assert (await user.reply(question))["content"] == "1 "
            assert (await user.reply(child))["status"] == "cancelled"
        else:
            await delete_session_of(user, question)
            assert await user.rows("messages", id=child) == []
        await until(lambda: not worker.jobs.count, 15)
        assert await job(db, child) is None
        assert (await user.reply(await walk(user, ["step", "a"])))["content"] == "a! "
        assert await (await db.execute("select from bridge.ended_children")).fetchall() == []
    assert notes.tried == ["held", "a"]


@pytest.mark.parametrize("end", ["cancelled", "deleted"])
async def test_child_that_is_ended_by_its_user_wakes_its_parent(
    end: str, environment: dict[str, str], user: Person, notes: Notes, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["text", "1 "], HELD, ["step", "b"])
        await notes.begun("held")
        await user.reply(question, is_waiting)
        child = await child_of(db, question)
        if end == "cancelled":
            await cancel(user, child)
        else:
            await delete_session_of(user, child)
        reply = await user.reply(question)
    assert (reply["status"], reply["content"]) == ("done", "1 (Walk was cancelled) b! ")
    assert notes.tried == ["held", "b"]


async def test_child_that_fails_tells_its_parent(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["text", "1 "], ["run", "Walk", [["step", "a"], ["odd", "b"]]], ["step", "c"])
        reply = await user.reply(question)
        child = await child_of(db, question)
        failed = await user.reply(child)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "internal")
    assert reply["content"] == "1 (Walk failed: Something went wrong while answering.) c! "


async def test_worker_killed_between_the_end_of_a_child_and_the_wake_of_its_parent(
    environment: dict[str, str],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    notes: Notes,
    db: psycopg.AsyncConnection[Row],
    tmp_path: Path,
) -> None:
    """A claim wakes the parent: this worker's claims do not arrive."""
    async with worker_process(notes.environment(proxied), tmp_path / "one.log", **SHORT) as first:
        question = await walk(user, ["text", "1 "], HELD, ["step", "b"])
        await notes.begun("held")
        await user.reply(question, is_waiting)
        child = await child_of(db, question)
        proxy.rest.only, proxy.rest.resets = "bridge_claim", True
        notes.let_go("held")
        assert (await user.reply(child))["content"] == "inner held! after! "
        assert (await user.rows("messages", reply_to=question))[0]["status"] == "waiting"
        await first.kill()
    async with worker_process(notes.environment(environment), tmp_path / "two.log", **SHORT):
        reply = await user.reply(question)
    assert reply["content"] == "1 (inner held! after! ) b! "
    assert notes.tried == ["held", "after", "b"]
    assert (await outcomes(db, question))[0] == "waiting"
    assert await remembered(db, question) == ["Walk", "b"]


async def test_child_that_ends_at_the_deadline_gives_one_value(
    proxied: dict[str, str], proxy: Proxy, user: Person, notes: Notes, db: psycopg.AsyncConnection[Row]
) -> None:
    """It ends while a worker that found nothing in time writes so."""
    async with working(proxied, sweep_seconds=1, **AGENTS):
        question = await walk(user, HELD, ["step", "b"])
        await notes.begun("held")
        await user.reply(question, is_waiting)
        proxy.rest.only, proxy.rest.status = "bridge_step", 503
        before = proxy.calls["bridge_step"]
        await db.execute("update bridge.steps set due_at = now() where question_id = %s", (question,))
        await db.execute("update bridge.jobs set run_at = now() where question_id = %s", (question,))
        await until(lambda: proxy.calls["bridge_step"] > before, 15)
        assert await cancel(user, await child_of(db, question)) == "cancelling"

        async def is_given() -> bool:
            cursor = await db.execute("select is_done from bridge.steps where question_id = %s", (question,))
            return bool((await cursor.fetchall())[0]["is_done"])

        await until(is_given, 15)
        await proxy.calm()
        reply = await user.reply(question)
    assert reply["content"] == "(Walk was cancelled) b! "
    assert await outcomes(db, question) == ["waiting", "released", "done"]
