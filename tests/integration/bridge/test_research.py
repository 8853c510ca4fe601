"""The shipped agent `Research`, played by the demo model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.users import Person
from tests.support.workers import working


@pytest.fixture
def _handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "handlers.py", tmp_path / "shipped_handlers.py")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("_handlers")
async def test_research_shows_its_tools_and_asks_before_it_saves(environment: dict[str, str], user: Person) -> None:
    async with working(environment, handlers="shipped_handlers", functions="Research"):
        session_id = await user.open_session("Research", title="named")
        rows = [
            {"session_id": session_id, "path": "app.py", "content": "from auth import sign_in\n"},
            {"session_id": session_id, "path": "auth.py", "content": "def sign_in(user):\n    pass\n"},
        ]
        await user.client.table("code_files").insert(rows).execute()
        question = await user.ask(session_id, "Where is sign_in used?")
        waiting = await user.reply(question, lambda row: bool(row["status"] == "waiting"))
        tools = {part["toolName"]: part for part in waiting["parts"] if part["type"] == "dynamic-tool"}
        assert list(tools) == ["search_files", "read_file", "ask"]
        assert tools["search_files"]["output"] == "app.py:1: from auth import sign_in\nauth.py:1: def sign_in(user):"
        assert tools["read_file"]["output"] == "from auth import sign_in\n"
        assert await user.rows("code_files", session_id=session_id, path="report.md") == []

        answer = {"message_id": question, "ask": "save", "answer": {"approved": True}}
        assert (await user.client.rpc("answer_message", answer).execute()).data == "taken"
        row = await user.reply(question)
        assert row["content"] == waiting["content"] + "\n\nSaved as `report.md`."
        (report,) = await user.rows("code_files", session_id=session_id, path="report.md")
        assert waiting["content"].endswith(report["content"])
