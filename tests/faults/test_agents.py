"""Faults while a step runs or is written: no finished step runs again, none is written late, no finished text goes.

That a worker is killed in a step is in tests/integration/bridge/test_steps.py. Faults while a reply waits are in
test_asks.py, those of other replies in test_children.py, and those of the handler's code in test_handler_code.py.
"""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge import rest
from tests.faults.audit import Audit
from tests.faults.checker import late_writes
from tests.faults.proxy import Proxy, Realtime, Rest
from tests.faults.test_lost_workers import has_logged_lost_lease
from tests.faults.view import ended, watching
from tests.faults.walking import (
    AGENTS,
    SHORT,
    Notes,
    cancel,
    delete_session_of,
    outcomes,
    remembered,
    walk,
    with_text,
)
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

STEP = "bridge_step"


@pytest.mark.parametrize(
    ("is_written", "tried"),
    [pytest.param(False, ["a", "held", "held"], id="before"), pytest.param(True, ["a", "held"], id="after")],
)
async def test_worker_killed_before_its_step_is_acknowledged(
    is_written: bool,
    tried: list[str],
    environment: dict[str, str],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: psycopg.AsyncConnection[Row],
    notes: Notes,
    tmp_path: Path,
) -> None:
    """Its write has arrived or not: both are right."""
    async with worker_process(notes.environment(proxied), tmp_path / "one.log", **SHORT) as first:
        question = await walk(user, ["text", "1 "], ["tool", "a"], ["tool", "held"], ["text", "2"])
        await notes.begun("held")
        if is_written:
            proxy.rest.lose[STEP] = 100
        else:
            proxy.rest.only, proxy.rest.hangs = STEP, True
        before = proxy.calls[STEP]
        notes.let_go("held")
        await until(lambda: proxy.lost[STEP] if is_written else proxy.calls[STEP] > before, 10)
        await first.kill()
        async with worker_process(notes.environment(environment), tmp_path / "two.log", **SHORT):
            reply = await user.reply(question)
    assert (reply["content"], reply["attempt"]) == ("1 a! held! 2", 2)
    assert notes.tried == tried
    assert len(notes.keys) == 2
    assert await outcomes(db, question) == ["lost", "done"]
    tools = [part for part in reply["parts"] if part["type"] == "dynamic-tool"]
    assert [(part["toolCallId"], part["output"]) for part in tools] == [("a", "a!"), ("held", "held!")]


@pytest.mark.parametrize(
    ("operation", "tried", "text"),
    [
        pytest.param(["step", "held"], ["a", "held", "held", "b"], "held! ", id="which may run twice"),
        pytest.param(["once", "held"], ["a", "held", "b"], "held? ", id="which may run once"),
    ],
)
async def test_thawed_worker_remembers_nothing(
    operation: list[str],
    tried: list[str],
    text: str,
    environment: dict[str, str],
    user: Person,
    notes: Notes,
    tmp_path: Path,
    audit: Audit,
) -> None:
    """It was frozen in a step. No step after that one begins, whose write would be late."""
    operations = [["text", "1 "], ["step", "a"], ["text", "2 "], operation, ["once", "b"]]
    session_id, question = await user.open_session("Walk", title="named"), str(uuid.uuid4())
    row = {"id": question, "session_id": session_id, "content": json.dumps(operations)}
    environment = notes.environment(environment)
    async with (
        worker_process(environment, tmp_path / "one.log", **SHORT) as first,
        watching(user, session_id, question) as view,
    ):
        await user.client.table("messages").insert(row).execute()
        await notes.begun("held")
        await until(lambda: view.text == "1 a! 2 ", 10)
        first.signal(signal.SIGSTOP)
        notes.let_go("held")
        async with worker_process(environment, tmp_path / "two.log", ready=False, **SHORT):
            reply = await user.reply(question)
            first.signal(signal.SIGCONT)
            await until(lambda: has_logged_lost_lease(first), 10)
            await ended(view)
            after = await walk(user, ["step", "c"])  # it goes on working
            assert (await user.reply(after))["content"] == "c! "
            assert first.runs
    assert (reply["content"], reply["attempt"]) == (f"1 a! 2 {text}b! ", 2)
    assert (notes.tried, len(notes.keys)) == ([*tried, "c"], 4)
    assert late_writes(await audit.writes()) == []
    assert view.text == reply["content"]
    assert [shown for attempt, shown in view.shown if attempt == 2 and not shown.startswith("1 ")] == []


@pytest.mark.parametrize("times", [1, rest.TRIES + 1])
async def test_lost_answer_to_a_step_costs_no_attempt(
    times: int,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    db: psycopg.AsyncConnection[Row],
    notes: Notes,
) -> None:
    async with working(proxied, lease_seconds=60, **AGENTS):
        proxy.rest.lose[STEP] = times
        question = await walk(user, ["step", "a"], ["once", "b"], ["tool", "c"], ["refuse", "d"], ["step", "a"])
        reply = await user.reply(question)
        assert proxy.lost[STEP] == times
    assert (reply["content"], reply["attempt"]) == ("a! b! c! no d a! ", 1)
    assert notes.tried == ["a", "b", "c", "d", "a"]
    assert await remembered(db, question) == ["a", "b", "c", "d", "a#2"]


@pytest.mark.parametrize(
    "faults", [{"status": 503}, {"hangs": True}, {"resets": True}], ids=["503", "hanging", "resetting"]
)
async def test_step_waits_until_rest_is_back(
    faults: dict[str, Any],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.store.CALL_SECONDS", 1.0)
    monkeypatch.setattr("bridge.rest.CALL_SECONDS", 1.0)
    async with working(proxied, lease_seconds=60, **AGENTS):
        question = await walk(user, ["step", "a"], ["step", "held"], ["step", "b"])
        await notes.begun("held")
        proxy.rest = Rest(**faults)
        before = proxy.calls[STEP]
        notes.let_go("held")
        await until(lambda: proxy.calls[STEP] > before, 10)
        await proxy.calm()
        reply = await user.reply(question)
    assert (reply["content"], reply["attempt"]) == ("a! held! b! ", 1)
    assert notes.tried == ["a", "held", "b"]


async def test_step_of_a_worker_without_rest_is_lost_with_its_lease(
    environment: dict[str, str],
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    notes: Notes,
    db: psycopg.AsyncConnection[Row],
    audit: Audit,
    tmp_path: Path,
) -> None:
    async with worker_process(notes.environment(proxied), tmp_path / "one.log", **SHORT) as first:
        question = await walk(user, ["step", "a"], ["step", "held"], ["once", "b"])
        await notes.begun("held")
        proxy.rest.resets = True
        notes.let_go("held")
        async with worker_process(notes.environment(environment), tmp_path / "two.log", **SHORT):
            reply = await user.reply(question)
            await proxy.calm()
            await until(lambda: has_logged_lost_lease(first), 20)
    assert (reply["content"], reply["attempt"]) == ("a! held! b! ", 2)
    assert notes.tried == ["a", "held", "held", "b"]
    assert await outcomes(db, question) == ["lost", "done"]
    assert late_writes(await audit.writes()) == []


async def test_finished_steps_are_shown_without_realtime(
    proxied: dict[str, str], proxy: Proxy, user: Person, notes: Notes
) -> None:
    """A step's write carries the text and the parts: no checkpoint has to come."""
    async with working(proxied, checkpoint_seconds=60, sweep_seconds=1, lease_seconds=600, **AGENTS):
        proxy.realtime = Realtime(resets=True)
        await proxy.reset_sockets()
        question = await walk(user, ["text", "1 "], ["tool", "a"], ["step", "b"], ["step", "held"])
        shown = await user.reply(question, with_text("1 a! "))
        notes.let_go("held")
        reply = await user.reply(question)
    assert shown["status"] == "running"
    assert [part.get("output") for part in shown["parts"] if part["type"] == "dynamic-tool"] == ["a!"]
    assert reply["content"] == "1 a! b! held! "


@pytest.mark.parametrize("when", ["while it runs", "before it is written"])
@pytest.mark.parametrize("by", ["cancel_message", "interrupt"])
async def test_cancelled_step_is_not_remembered(
    when: str,
    by: str,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    notes: Notes,
    db: psycopg.AsyncConnection[Row],
) -> None:
    async with working(proxied, **AGENTS) as worker:
        session_id = await user.open_session("Walk", title="named", on_new_message="interrupt")
        question = await user.ask(
            session_id, json.dumps([["text", "1 "], ["tool", "a"], ["tool", "held"], ["once", "b"]])
        )
        await notes.begun("held")
        await user.reply(question, with_text("1 a! "))
        if when == "before it is written":
            proxy.rest.only, proxy.rest.status = STEP, 503
            before = proxy.calls[STEP]
            notes.let_go("held")
            await until(lambda: proxy.calls[STEP] > before, 10)
        if by == "interrupt":
            follow_up = await user.ask(session_id, json.dumps([["step", "c"]]))
        else:
            assert await cancel(user, question) == "cancelling"
            follow_up = await walk(user, ["step", "c"])
        reply = await user.reply(question)
        await proxy.calm()
        assert (await user.reply(follow_up))["content"] == "c! "
        await until(lambda: not worker.jobs.count, 10)
    assert (reply["status"], reply["content"]) == ("cancelled", "1 a! ")
    tools = {part["toolCallId"]: part for part in reply["parts"] if part["type"] == "dynamic-tool"}
    assert tools["a"]["state"] == "output-available"
    # what it gave was shown, or it was stopped
    assert tools["held"]["state"] == "output-error" if when == "while it runs" else tools["held"]["output"] == "held!"
    assert await remembered(db, question) == ["a"]
    assert notes.tried == ["a", "held", "c"]


@pytest.mark.parametrize("when", ["while it runs", "before it is written"])
async def test_session_deleted_in_a_step_takes_its_steps_along(
    when: str,
    proxied: dict[str, str],
    proxy: Proxy,
    user: Person,
    notes: Notes,
    db: psycopg.AsyncConnection[Row],
) -> None:
    async with working(proxied, **AGENTS) as worker:
        question = await walk(user, ["step", "a"], ["step", "held"], ["once", "b"])
        await notes.begun("held")
        if when == "before it is written":
            proxy.rest.only, proxy.rest.status = STEP, 503
            before = proxy.calls[STEP]
            notes.let_go("held")
            await until(lambda: proxy.calls[STEP] > before, 10)
        await delete_session_of(user, question)
        await proxy.calm()
        await until(lambda: not worker.jobs.count, 10)
        after = await walk(user, ["step", "c"])
        assert (await user.reply(after))["content"] == "c! "
        assert worker.jobs.count <= 1
    assert await remembered(db, question) == []
    assert notes.tried == ["a", "held", "c"]
