"""`make dev` asks the queue which functions are missing, and reads messages only if some are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from devstack import unanswered
from devstack.part import Console
from devstack.problems import Board
from devstack.reload import Version
from tests.support.waiting import until

STATUS = "POST /rest/v1/rpc/bridge_status"
MESSAGES = "GET /rest/v1/messages"


class Project:
    """A project that gives `answers` by turns, the last one for ever, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.asked[-1] == MESSAGES:
            return web.json_response([{"sessions": {"function": "chat"}}])
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer() if callable(answer) else web.json_response({"unknown_function": answer})

    @property
    def count(self) -> int:
        return self.asked.count(STATUS)


# a version of a worker that answers Chat
CURRENT = SimpleNamespace(
    functions=("Chat",), environment={"BRIDGE_FUNCTIONS": "*"}, source=SimpleNamespace(names=("Chat",))
)


@pytest.fixture
async def watching(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[Project, Callable[[], bool]], Awaitable[list[str]]]:
    async def run(project: Project, reached: Callable[[], bool]) -> list[str]:
        """What the terminal says until this is reached."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", project.answer)
        async with TestServer(app) as server:
            settings = {"SUPABASE_URL": str(server.make_url("")).rstrip("/"), "SUPABASE_SECRET_KEY": "key"}
            board = Board(Console(), tmp_path / "dev.json")
            watch = unanswered.watch(settings, 0.01, lambda: cast(Version, CURRENT), board)
            task = asyncio.create_task(watch)
            try:
                await until(lambda: reached() or task.done(), 20)
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.wait((task,))
        return capsys.readouterr().out.splitlines()

    return run


async def test_messages_are_not_read_while_every_function_is_known(watching: Any) -> None:
    project = Project(0)
    assert await watching(project, lambda: project.count > 5) == []
    assert MESSAGES not in project.asked


async def test_unknown_function_is_named_once(watching: Any) -> None:
    project = Project(0, 1)
    said = await watching(project, lambda: project.count > 5)
    assert len(said) == 1
    assert "a session asks for 'chat', and this worker has no such function (did you mean Chat?)" in said[0]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response({"message": "no such function"}, status=404),
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(text="{", content_type="application/json"),
        lambda: web.json_response([]),
        lambda: web.json_response({}),
        lambda: web.json_response(None),
    ],
    ids=["404", "html", "broken", "list", "empty", "null"],
)
async def test_refusal_is_said_once(watching: Any, answer: Any) -> None:
    project = Project(answer)
    said = await watching(project, lambda: project.count > 5)
    assert len(said) == 1
    assert "the project does not tell which functions sessions wait for" in said[0]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_answer_of_a_project_that_is_away_is_not_said(watching: Any, status: int) -> None:
    project = Project(lambda: web.Response(status=status), 0)
    assert await watching(project, lambda: project.count > 3) == []
