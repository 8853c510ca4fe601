"""A frontend in JavaScript with the official client and its own serializer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.tab import run_node
from tests.support.database import Row
from tests.support.presence import send_presence_state_first
from tests.support.workers import working

pytestmark = pytest.mark.usefixtures("sign_up")  # the script signs up by itself; this deletes its users
USER = Path(__file__).with_name("user.mjs")


async def run(environment: dict[str, str], function: str, text: str) -> Row:
    url, key = environment["SUPABASE_URL"], environment["SUPABASE_PUBLISHABLE_KEY"]
    code, output, errors = await run_node(USER, url, key, function, text, within=40)
    assert code == 0, errors
    return dict(json.loads(output))


@pytest.mark.parametrize("state_first", [False, True], ids=["reply first", "presence state first"])
async def test_deltas_add_up_to_the_row(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, state_first: bool
) -> None:
    if state_first:  # to the worker too
        send_presence_state_first(monkeypatch)
    async with working(environment):
        seen = await run(environment, "Chat", "[[tokens=60 delay=0.05]]")
    deltas = [item["payload"] for item in seen["events"] if item["event"] == "delta"]
    assert [delta["seq"] for delta in deltas] == list(range(1, len(deltas) + 1))
    assert len(deltas) > 3
    assert "".join(delta["text"] for delta in deltas) == seen["row"]["content"]
    assert seen["row"]["seq"] == len(deltas)
    states = [
        (item["payload"]["role"], item["payload"]["status"]) for item in seen["events"] if item["event"] == "message"
    ]
    assert states[0] == ("user", "running")  # dispatched by its insert
    assert ("assistant", "running") in states
    assert (seen["again"], seen["status"]) == ("23505", 409)


async def test_replies_write_code_files(environment: dict[str, str]) -> None:
    async with working(environment):
        reply = '{"reply": "Here.", "files": [{"path": "a.py", "content": "x = 1", "language": "python"}]}'
        seen = await run(environment, "Code", f"[[json={reply}]]")
    (file,) = seen["files"]
    assert (file["path"], file["content"], file["message_id"]) == ("a.py", "x = 1", seen["row"]["id"])
    assert [item["payload"]["path"] for item in seen["events"] if item["event"] == "file"] == ["a.py"]
