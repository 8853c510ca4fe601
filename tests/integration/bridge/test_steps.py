"""Handlers with steps on the real database: what they remember, show, ask and wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from devstack.model import ModelServer
from tests.support.commands import run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_process, working

AGENTS: Mapping[str, Any] = {"handlers": "tests.support.agents", "functions": "Walk,Chat"}


async def walk(user: Person, *operations: Any, **session: Any) -> str:
    """Ask for operations in a session of their own; returns the question's id."""
    session_id = await user.open_session("Walk", title="named", **session)
    return await user.ask(session_id, json.dumps(operations))


async def answer(user: Person, message_id: str, ask: str, value: Any = None) -> str:
    given = {"approved": True} if value is None else value
    return str(
        (
            await user.client.rpc("answer_message", {"message_id": message_id, "ask": ask, "answer": given}).execute()
        ).data
    )


def is_waiting(row: Row) -> bool:
    return bool(row["status"] == "waiting")


def texts(parts: list[Row]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tries of steps are noted."""
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("AGENT_LEDGER", str(path))
    return path


def tried(ledger: Path) -> list[str]:
    return [json.loads(line)[2] for line in ledger.read_text().splitlines()]


def keys(ledger: Path) -> set[str]:
    return {json.loads(line)[3] for line in ledger.read_text().splitlines()}


async def test_steps_run_once_and_show_themselves(environment: dict[str, str], user: Person, ledger: Path) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["text", "Hello. "], ["step", "a"], ["tool", "b"], ["tool", "b"], ["refuse", "c"])
        row = await user.reply(question)
        assert (row["status"], row["content"]) == ("done", "Hello. a! b! b! no c ")
        assert tried(ledger) == ["a", "b", "b", "c"]
        tools = [part for part in row["parts"] if part["type"] == "dynamic-tool"]
        assert [(tool["toolCallId"], tool["state"], tool["input"], tool["output"]) for tool in tools] == [
            ("b", "output-available", {"about": "b"}, "b!"),
            ("b#2", "output-available", {"about": "b"}, "b!"),
        ]
        assert texts(row["parts"]) == row["content"]
        assert [part["type"] for part in row["parts"]][:3] == ["text", "step-start", "text"]


async def test_attempt_that_failed_goes_on_with_its_steps(
    environment: dict[str, str], user: Person, ledger: Path
) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["text", "Hello. "], ["step", "a"], ["fail", "b", 1], ["text", "Bye."])
        row = await user.reply(question)
        assert (row["status"], row["content"]) == ("done", "Hello. a! b! Bye.")
        assert tried(ledger) == ["a", "b", "b"]
        assert len(keys(ledger)) == 2  # each try of a step has the same key


async def test_worker_that_is_killed_loses_no_step(
    environment: dict[str, str], user: Person, ledger: Path, tmp_path: Path
) -> None:
    environment = {**environment, "AGENT_LEDGER": str(ledger)}
    settings = {**AGENTS, "lease_seconds": 2, "concurrency": 1}
    async with worker_process(environment, tmp_path / "one.log", **settings) as first:
        session_id = await user.open_session("Walk", title="named")
        operations = [["text", "1 "], ["tool", "a"], ["text", "2 "], ["step", "b"], ["text", "3 "], ["tool", "slow"]]
        question = await user.ask(session_id, json.dumps([*operations, ["step", "d"]]))
        await until(lambda: tried(ledger)[-1:] == ["slow"], 20)
        kept = await user.reply(question, lambda row: "b!" in row["content"])
        first.process.kill()
        async with worker_process(environment, tmp_path / "two.log", **settings):
            row = await user.reply(question)
    assert kept["content"] in ("1 a! 2 b! ", "1 a! 2 b! 3 ")
    assert row["content"] == "1 a! 2 b! 3 slow! d! "
    assert row["attempt"] == 2
    assert tried(ledger) == ["a", "b", "slow", "slow", "d"]


async def test_question_to_the_user_holds_no_worker(environment: dict[str, str], user: Person, ledger: Path) -> None:
    async with working(environment, **AGENTS) as worker:
        question = await walk(user, ["text", "Hello. "], ["step", "a"], ["ask", "send"], ["step", "b"])
        waiting = await user.reply(question, is_waiting)
        assert waiting["content"] == "Hello. a! "
        ask = waiting["parts"][-1]
        assert (ask["toolCallId"], ask["state"], ask["input"]) == (
            "send",
            "approval-requested",
            {"title": "May I send?"},
        )
        await until(lambda: not worker.jobs.count, 5)

        with pytest.raises(APIError, match="has no question other"):
            await answer(user, question, "other")
        assert await answer(user, question, "send") == "taken"
        row = await user.reply(question)
        assert (row["status"], row["content"]) == ("done", "Hello. a! send:yes b! ")
        assert await answer(user, question, "send") == "done"
        assert tried(ledger) == ["a", "b"]
        (shown,) = [part for part in row["parts"] if part.get("toolCallId") == "send"]
        assert (shown["state"], shown["output"]) == ("output-available", {"approved": True})


async def test_bridge_steps_lists_what_a_handler_has_done(environment: dict[str, str], user: Person) -> None:
    async def steps(question: str, *options: str) -> tuple[int, str, str]:
        return await wait_for_exit(await run_bridge("steps", question, *options, **environment), 30)

    async with working(environment, **AGENTS):
        question = await walk(user, ["step", "a"], ["refuse", "b"], ["ask", "send"])
        await user.reply(question, is_waiting)
        code, out, _ = await steps(question)
        assert code == 0
        assert out.startswith(f"question {question}: waiting, attempt 1\n")
        a, b, send = out.splitlines()[1:]
        assert "  a  attempt 1, done, 4 bytes" in a
        assert "  b  attempt 1, failed, " in b
        assert "  send  attempt 1, waits for an answer until " in send
        code, out, _ = await steps(question, "--json")
        assert [step["name"] for step in json.loads(out)["steps"]] == ["a", "b", "send"]
        assert "value" not in json.loads(out)["steps"][0]
    assert await steps(user.id) == (1, "", "There is no such question.\n")


async def test_several_questions_wait_for_all_answers(environment: dict[str, str], user: Person) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["both", [["ask", "a"], ["ask", "b"], ["step", "c"]]])
        await user.reply(question, is_waiting)
        assert await answer(user, question, "b", {"approved": False}) == "taken"
        assert await answer(user, question, "b") == "answered"
        assert (await user.reply(question, is_waiting))["status"] == "waiting"
        assert await answer(user, question, "a") == "taken"
        row = await user.reply(question)
        assert row["content"] == "[a:yes b:no c!] "


async def test_nobody_answers_in_time(environment: dict[str, str], user: Person) -> None:
    async with working(environment, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["ask", "a", 0.5])
        row = await user.reply(question)
        assert row["content"] == "a… "
        assert row["parts"][0]["errorText"] == "No answer in time."


async def test_sleep_holds_no_worker(environment: dict[str, str], user: Person) -> None:
    async with working(environment, sweep_seconds=1, **AGENTS):
        question = await walk(user, ["text", "One. "], ["sleep", "nap", 1], ["text", "Two."])
        assert (await user.reply(question, is_waiting))["content"] == "One. "
        assert (await user.reply(question))["content"] == "One. nap. Two."


async def test_model_calls_are_steps_and_charged(
    environment: dict[str, str], user: Person, model: ModelServer, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **AGENTS):
        before = len(model.requests)
        question = await walk(user, ["call", "[[text=thought]]"], ["say", "[[text=Hello.]]"], ["step", "a"])
        row = await user.reply(question)
        assert row["content"] == "/thought/ Hello./6/ a! "
        assert len(model.requests) == before + 2
        tokens = await (
            await db.execute("select sum(tokens) as tokens from bridge.usage where user_id = %s", (user.id,))
        ).fetchone()
        run = await (
            await db.execute("select * from bridge.runs where question_id = %s and outcome = 'done'", (question,))
        ).fetchone()
        assert tokens is not None
        assert run is not None
        assert tokens["tokens"] == run["input_tokens"] + run["output_tokens"] > 0


async def test_reply_of_another_function(environment: dict[str, str], user: Person) -> None:
    async with working(environment, **AGENTS):
        question = await walk(
            user,
            ["text", "I ask. "],
            ["run", "Walk", [["text", "inner "], ["step", "x"]]],
            ["run", "Chat", "[[text=hi]]"],
        )
        row = await user.reply(question)
        assert row["content"] == "I ask. (inner x! ) (hi) "


async def test_cancel_while_waiting(environment: dict[str, str], user: Person) -> None:
    async with working(environment, **AGENTS):
        question = await walk(user, ["ask", "a"])
        await user.reply(question, is_waiting)
        assert (await user.client.rpc("cancel_message", {"message_id": question}).execute()).data == "cancelled"
        row = await user.reply(question)
        assert row["status"] == "cancelled"
        assert row["parts"][0]["state"] == "output-error"
        assert await answer(user, question, "a") == "cancelled"


async def test_question_is_not_answered_before_its_time(environment: dict[str, str], user: Person) -> None:
    async with working(environment, sweep_seconds=1, **AGENTS):
        session_id = await user.open_session("Walk", title="named")
        at = datetime.now(UTC) + timedelta(seconds=1.5)
        question = await user.ask(session_id, json.dumps([["text", "Now."]]), run_at=at.isoformat())
        (row,) = await user.rows("messages", id=question)
        assert row["status"] == "queued"
        reply = await user.reply(question)
        assert reply["content"] == "Now."
        assert datetime.fromisoformat(reply["created_at"]) >= at
        with pytest.raises(APIError, match="within 90 days"):
            await user.ask(session_id, "[]", run_at=(at + timedelta(days=91)).isoformat())
