"""The schema keeps its contract with workers: a deploy upgrades the schema first, so older workers meet a newer one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.integration.schema.worker_contract import ANSWERS, ARGUMENTS, EVENTS, differs
from tests.support.database import Row
from tests.support.users import Person

NAME = "worker-of-version-1"


class Worker:
    """Calls by HTTP, as the contract has it; every answer must match its shape."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.called: set[str] = set()

    async def call(self, function: str, *values: Any) -> Any:
        answer = await self._http.post(f"/rpc/{function}", json=dict(zip(ARGUMENTS[function], values, strict=True)))
        assert answer.is_success, answer.text
        self.called.add(function)
        value = answer.json() if answer.content else None
        assert differs(value, ANSWERS[function], function) == []
        return value

    async def claim(self, *holding: str) -> list[dict[str, Any]]:
        return list((await self.call("bridge_claim", NAME, 5, holding, 30, 100))["jobs"])

    async def name(self, session_id: str, title: str) -> None:
        where = {"id": f"eq.{session_id}", "title": "is.null"}
        answer = await self._http.patch("/sessions", params=where, json={"title": title})
        assert answer.is_success, answer.text


@pytest.fixture
async def worker(environment: dict[str, str]) -> AsyncIterator[Worker]:
    url, key = f"{environment['SUPABASE_URL']}/rest/v1", environment["SUPABASE_SECRET_KEY"]
    async with httpx.AsyncClient(base_url=url, headers={"apikey": key}, timeout=20) as http:
        yield Worker(http)


async def test_worker_of_version_1_does_its_work(
    worker: Worker, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session()
    file = {"session_id": session_id, "path": "a.py", "content": "x"}
    await user.client.table("code_files").insert(file).execute()
    first, second = [await user.ask(session_id, text, data={"n": 1}) for text in ("first", "second")]
    run = {"function": "Chat", "model": "m", "input_tokens": 1, "output_tokens": 2, "queue_ms": 3, "duration_ms": 4}

    (job,) = await worker.claim()
    assert (job["question_id"], job["attempt"], job["message"], job["data"]) == (first, 1, "first", {"n": 1})
    assert [item["path"] for item in job["files"]] == ["a.py"]
    assert await worker.claim(first) == []
    checkpoint = {"question_id": first, "attempt": 1, "seq": 1, "content": "so", "data": {"x": 1}}
    assert (await worker.call("bridge_beat", NAME, [checkpoint]))["results"] == {first: "ok"}
    assert (await worker.call("bridge_beat", NAME, [{"question_id": first, "attempt": 1}]))["results"] == {first: "ok"}
    written = [{"path": "a.py", "content": "y", "language": "python", "revision": 1}]
    done = {"question_id": first, "attempt": 1, "outcome": "done", "user_id": user.id, "run": run}
    done |= {"content": "so it is", "data": {"x": 2}, "seq": 2, "files": written}
    assert (await worker.call("bridge_finish", NAME, [done]))["results"] == {first: "ok"}
    await worker.name(session_id, "A title")
    reply = await user.reply(first)
    assert (reply["status"], reply["content"], reply["data"], reply["seq"]) == ("done", "so it is", {"x": 2}, 2)
    assert [row["content"] for row in await user.rows("code_files")] == ["y"]
    assert [row["title"] for row in await user.rows("sessions")] == ["A title"]

    (job,) = await worker.claim()
    assert job["question_id"] == second
    assert [item["content"] for item in job["history"]] == ["first", "so it is"]
    failed = {"question_id": second, "attempt": 1, "outcome": "failed", "user_id": user.id, "run": run}
    failed |= {"error": {"code": "model_busy", "message": "Busy."}, "retry_in_ms": 0}
    assert (await worker.call("bridge_finish", NAME, [failed]))["results"] == {second: "ok"}
    (job,) = await worker.claim()
    assert (job["attempt"], job["failures"]) == (2, 1)
    del failed["retry_in_ms"]
    assert (await worker.call("bridge_finish", NAME, [failed | {"attempt": 2}]))["results"] == {second: "ok"}

    status = await worker.call("bridge_status")
    assert (status["dead_letters"], NAME in [live["name"] for live in status["workers"]]) == (1, True)
    await worker.call("bridge_doctor")
    assert [letter["question_id"] for letter in await worker.call("bridge_dead_letters", 100)] == [second]
    assert await worker.call("bridge_dead_retry", [second]) == 1
    (job,) = await worker.claim()
    await user.client.rpc("cancel_message", {"message_id": second}).execute()
    beat = {"question_id": second, "attempt": job["attempt"]}
    assert (await worker.call("bridge_beat", NAME, [beat]))["results"] == {second: "cancel"}
    released = beat | {"outcome": "released", "user_id": user.id, "run": run}
    assert (await worker.call("bridge_finish", NAME, [released]))["results"] == {second: "ok"}
    assert await worker.call("bridge_dead_drop", [second]) == 0
    await worker.call("bridge_probe", "a nonce")
    await worker.call("bridge_leave", NAME)
    assert NAME not in [live["name"] for live in (await worker.call("bridge_status"))["workers"]]
    assert worker.called == set(ARGUMENTS)

    cursor = await db.execute(
        "select event, payload from realtime.messages where topic = 'bridge:inbox' and payload::text ~ %s",
        (f"{first}|{second}",),
    )
    events = await cursor.fetchall()
    assert {row["event"] for row in events} == set(EVENTS)
    assert [d for row in events for d in differs(row["payload"], EVENTS[row["event"]], row["event"])] == []


async def test_malformed_part_of_a_call_costs_nothing_else(worker: Worker, user: Person) -> None:
    """A worker may send a value of another type: a run, a file's revision or a checkpoint's seq."""
    questions = [await user.ask(await user.open_session(title="named"), text) for text in ("first", "second")]
    assert len(await worker.claim()) == 2
    first, second = questions
    good = {"question_id": first, "attempt": 1, "seq": 1, "content": "so far", "data": {"x": 1}}
    bad = {"question_id": second, "attempt": 1, "seq": "many", "content": "so far"}
    beat = await worker.call("bridge_beat", NAME, [good, bad])
    assert beat["results"] == {first: "ok", second: "ok"}
    assert (await user.reply(first, lambda row: row["seq"] == 1))["data"] == {"x": 1}
    await worker.call("bridge_beat", NAME, [good | {"seq": 2, "data": None}])
    assert (await user.reply(first, lambda row: row["seq"] == 2))["data"] is None

    files = [{"path": "bad.py", "content": "x", "revision": "1.5"}, {"path": "good.py", "content": "x"}]
    done = {"question_id": first, "attempt": 1, "outcome": "done", "user_id": user.id, "content": "fine"}
    results = [done | {"files": files, "run": None}, done | {"question_id": second, "run": {"created_at": "x"}}]
    assert (await worker.call("bridge_finish", NAME, results))["results"] == {first: "ok", second: "ok"}
    assert [file["path"] for file in await user.rows("code_files")] == ["good.py"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": 1, "b": [{"c": "x"}], "more": 1}, []),
        ({"a": True, "b": [{"c": "x"}]}, ["answer.a is True"]),
        ({"a": 1, "b": {}}, ["answer.b is {}"]),
        ({"a": 1, "b": [{"c": "x"}, {}]}, ["answer.b[1].c is missing"]),
        ({"b": [{"c": None}]}, ["answer.a is missing", "answer.b[0].c is None"]),
        ([], ["answer is []"]),
    ],
)
def test_difference_from_a_shape_is_found(value: Any, found: list[str]) -> None:
    assert differs(value, {"a": int, "b": [{"c": str}]}) == found
