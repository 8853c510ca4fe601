"""Handlers: what they may yield, how they fail, how they are closed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bridge import handlers
from bridge.errors import BadRequest, SetupError, TurnFailure, verdict
from bridge.handlers import handler, registered, run_handler
from bridge.model import Completion, FileWrite, Partial, Session, Turn, Usage

TURN = Turn("H", "hello", (), (), Session("s", "u", None, "H", {}), "u")


@pytest.fixture(autouse=True)
def no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_handlers", {})


class Step(BaseModel):
    n: int


async def collect(function: Any) -> list[Partial | Completion]:
    return [piece async for piece in run_handler(function, TURN)]


async def test_handler_may_yield_text_data_files_and_usage() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield turn.message
        yield {"n": 1}
        yield ", world"
        yield FileWrite("a", "b", "text")
        yield Step(n=2)
        yield Usage("m", 1, 2, 0)

    *partials, answer = await collect(h)
    assert partials == [
        Partial("hello"),
        Partial("hello", {"n": 1}),
        Partial("hello, world", {"n": 1}),
        Partial("hello, world", {"n": 1}),
        Partial("hello, world", {"n": 2}),
        Partial("hello, world", {"n": 2}, usage=Usage("m", 1, 2, 0)),
    ]
    assert answer == Completion("hello, world", {"n": 2}, (FileWrite("a", "b", "text"),), Usage("m", 1, 2, 0))


async def test_handler_that_yields_nothing_gives_an_empty_completion() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        return
        yield

    assert await collect(h) == [Completion("")]


async def test_turn_failure_reaches_the_user_unchanged() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield "so far"
        raise BadRequest("too_big", "That is too big.")

    with pytest.raises(BadRequest, match="too_big"):
        await collect(h)


@pytest.mark.parametrize(
    "wrong",
    [
        ValueError("secret detail"),
        SystemExit("secret detail"),
        5,
        {"a": object()},
        FileWrite(Path("a.py"), "x"),  # type: ignore[arg-type]  # the mistake that is tested
        FileWrite("a.py", b"x"),  # type: ignore[arg-type]  # the mistake that is tested
        Usage(model=Path("m")),  # type: ignore[arg-type]  # the mistake that is tested
    ],
)
async def test_any_other_failure_is_internal_and_retried(wrong: Any) -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        if isinstance(wrong, BaseException):
            raise wrong
        yield wrong

    with pytest.raises(TurnFailure) as caught:
        await collect(h)
    assert verdict(caught.value, 0, 5).retry
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.message
    assert caught.value.detail
    if isinstance(wrong, BaseException):
        assert "secret detail" in caught.value.detail


def test_failure_message_is_always_text() -> None:
    failure = TurnFailure("wrong", ValueError("that is wrong"))  # type: ignore[arg-type]  # the mistake that is tested
    assert verdict(failure, 0, 5).message == "that is wrong"


@pytest.mark.parametrize("cancel", [True, False])
async def test_leaving_closes_the_handler_at_its_current_await(cancel: bool) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def h(turn: Turn) -> AsyncIterator[Any]:
        try:
            yield "first"
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    pieces = run_handler(h, TURN)
    if cancel:

        async def read() -> None:
            async for _ in pieces:
                pass

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert await anext(pieces) == Partial("first")
        await pieces.aclose()
    assert cleaned.is_set()


async def test_handler_that_will_not_close_does_not_block_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "CLOSE_SECONDS", 0.05)

    async def h(turn: Turn) -> AsyncIterator[Any]:
        try:
            yield "first"
        finally:
            await asyncio.Event().wait()

    pieces = run_handler(h, TURN)
    await anext(pieces)
    with caplog.at_level(logging.ERROR):
        await asyncio.wait_for(pieces.aclose(), 2)
    assert "failed while being closed" in caplog.text


def test_second_handler_of_a_name_is_refused() -> None:
    @handler("H")
    async def h(turn: Turn) -> AsyncIterator[str]:
        yield ""

    assert registered() == {"H": h}
    handler("H")(h)  # the same one again, as after a reload
    with pytest.raises(SetupError, match="Two handlers are named H"):

        @handler("H")
        async def other(turn: Turn) -> AsyncIterator[str]:
            yield ""


def test_handler_must_be_an_async_generator() -> None:
    async def coroutine(turn: Turn) -> str:
        return ""

    with pytest.raises(SetupError, match="is not an async generator"):
        handler("H")(coroutine)  # type: ignore[type-var]  # the mistake that is tested
