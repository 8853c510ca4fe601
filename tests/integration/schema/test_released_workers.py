"""The schema answers workers that were released before it: a deploy upgrades the schema first, then the workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.integration.schema.released import ANSWERS, ARGUMENTS, EVENTS, differs
from tests.support.database import Row
from tests.support.users import Person

OLD = "worker-of-the-first-release"


class OldWorker:
    """Calls by HTTP, with what it sent then; every answer must be of the shape that it read then."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.called: set[str] = set()

    async def call(self, function: str, *values: Any) -> Any:
        answer = await self._http.post(f"/rpc/{function}", json=dict(zip(ARGUMENTS[function], values, strict=True)))
        assert answer.status_code == 200, answer.text
        self.called.add(function)
        said = answer.json()
        assert differs(said, ANSWERS[function], function) == []
        return said

    async def claim(self, *holding: str) -> list[dict[str, Any]]:
        return list((await self.call("bridge_claim", OLD, 5, holding, 30, 100))["jobs"])

    async def name(self, session_id: str, title: str) -> None:
        where = {"id": f"eq.{session_id}", "title": "is.null"}
        answer = await self._http.patch("/sessions", params=where, json={"title": title})
        assert answer.is_success, answer.text


@pytest.fixture
async def old(environment: dict[str, str]) -> AsyncIterator[OldWorker]:
    url, key = f"{environment['SUPABASE_URL']}/rest/v1", environment["SUPABASE_SECRET_KEY"]
    async with httpx.AsyncClient(base_url=url, headers={"apikey": key}, timeout=20) as http:
        yield OldWorker(http)


async def test_a_worker_of_the_first_release_does_its_work(
    old: OldWorker, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session()
    file = {"session_id": session_id, "path": "a.py", "content": "x"}
    await user.client.table("code_files").insert(file).execute()
    first, second = [await user.ask(session_id, text, data={"n": 1}) for text in ("first", "second")]
    run = {"function": "Chat", "model": "m", "input_tokens": 1, "output_tokens": 2, "queue_ms": 3, "duration_ms": 4}

    (job,) = await old.claim()
    assert (job["message_id"], job["attempt"], job["message"], job["data"]) == (first, 1, "first", {"n": 1})
    assert [item["path"] for item in job["files"]] == ["a.py"]
    assert await old.claim(first) == []
    checkpoint = {"message_id": first, "attempt": 1, "seq": 1, "content": "so", "data": {"x": 1}}
    assert (await old.call("bridge_beat", OLD, [checkpoint]))["results"] == {first: "ok"}
    assert (await old.call("bridge_beat", OLD, [{"message_id": first, "attempt": 1}]))["results"] == {first: "ok"}
    written = [{"path": "a.py", "content": "y", "language": "python", "revision": 1}]
    done = {"message_id": first, "attempt": 1, "outcome": "done", "user_id": user.id, "run": run, "content": "so it is"}
    done |= {"data": {"x": 2}, "seq": 2, "files": written}
    assert (await old.call("bridge_finish", OLD, [done]))["results"] == {first: "ok"}
    await old.name(session_id, "A title")
    reply = await user.reply(first)
    assert (reply["status"], reply["content"], reply["data"], reply["seq"]) == ("done", "so it is", {"x": 2}, 2)
    assert [row["content"] for row in await user.rows("code_files")] == ["y"]
    assert [row["title"] for row in await user.rows("sessions")] == ["A title"]

    (job,) = await old.claim()
    assert job["message_id"] == second
    assert [said["content"] for said in job["history"]] == ["first", "so it is"]
    failed = {"message_id": second, "attempt": 1, "outcome": "failed", "user_id": user.id, "run": run}
    failed |= {"error": {"code": "model_busy", "message": "Busy."}, "retry_in_ms": 0}
    assert (await old.call("bridge_finish", OLD, [failed]))["results"] == {second: "ok"}
    (job,) = await old.claim()
    assert (job["attempt"], job["failures"]) == (2, 1)
    del failed["retry_in_ms"]
    assert (await old.call("bridge_finish", OLD, [failed | {"attempt": 2}]))["results"] == {second: "ok"}

    status = await old.call("bridge_status")
    assert (status["dead_letters"], OLD in [worker["name"] for worker in status["workers"]]) == (1, True)
    await old.call("bridge_doctor")
    assert [letter["message_id"] for letter in await old.call("bridge_dead_letters", 100)] == [second]
    assert await old.call("bridge_dead_retry", [second]) == 1
    (job,) = await old.claim()
    await user.client.rpc("cancel_message", {"message_id": second}).execute()
    beat = {"message_id": second, "attempt": job["attempt"]}
    assert (await old.call("bridge_beat", OLD, [beat]))["results"] == {second: "cancel"}
    released = beat | {"outcome": "released", "user_id": user.id, "run": run}
    assert (await old.call("bridge_finish", OLD, [released]))["results"] == {second: "ok"}
    assert await old.call("bridge_dead_drop", [second]) == 0
    await old.call("bridge_claim", OLD, 0, [], 0, 0)  # it leaves
    assert old.called == set(ARGUMENTS)

    cursor = await db.execute(
        "select event, payload from realtime.messages where topic = 'bridge:inbox' and payload::text ~ %s",
        (f"{first}|{second}",),
    )
    told = await cursor.fetchall()
    assert {row["event"] for row in told} == set(EVENTS)
    assert [d for row in told for d in differs(row["payload"], EVENTS[row["event"]], row["event"])] == []


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
def test_what_is_not_of_a_shape_is_found(value: Any, found: list[str]) -> None:
    assert differs(value, {"a": int, "b": [{"c": str}]}) == found
