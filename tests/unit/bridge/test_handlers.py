"""Handlers: what they may yield, how they fail, how they are closed."""

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from baml_py.errors import BamlValidationError
from pydantic import BaseModel, Field

from bridge import handlers
from bridge.errors import BadRequest, SetupError, TurnFailure, verdict
from bridge.handlers import description_of, handler, registered, run_handler
from bridge.model import Completion, Description, FileWrite, Partial, Session, Turn, Usage

SOURCE = Path(__file__).read_text()
CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE
TURN = Turn("H", "hello", (), (), Session("s", "u", None, "H", {}), "u")


@pytest.fixture(autouse=True)
def no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in ("_handlers", "_descriptions", "_parameters"):
        monkeypatch.setattr(handlers, registry, {})


class Step(BaseModel):
    n: int


async def collect(function: Any) -> list[Partial | Completion]:
    return [piece async for piece in run_handler(function, TURN)]


async def failure_of(function: Any) -> TurnFailure:
    with pytest.raises(TurnFailure) as caught:
        await collect(function)
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.message
    return caught.value


async def test_handler_may_yield_text_data_files_and_usage() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield turn.message
        yield {"n": 1}
        yield ", world"
        yield FileWrite("a", "b", "text")
        yield Step(n=2)
        yield Usage("m", 1, 2, 0)

    *partials, answer = await collect(h)
    assert [(partial.text, partial.data) for partial in partials] == [
        ("hello", None),
        ("", {"n": 1}),
        (", world", None),
        ("", {"n": 2}),
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


@pytest.mark.parametrize("wrong", [ValueError("secret detail"), SystemExit("secret detail"), OSError("secret detail")])
async def test_any_other_failure_is_internal_and_retried(wrong: BaseException) -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        raise wrong
        yield

    failure = await failure_of(h)
    assert verdict(failure, 0, 5).retry
    assert re.search(r"test_handlers\.py:\d+: \w+: secret detail, in the handler for H$", failure.detail)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (5, "an int"),
        (None, "a NoneType"),
        ([1], "a list"),
        (b"x", "a bytes"),
        ({"a": object()}, "data that is not JSON"),
        (CIRCLE, "data that is not JSON"),
        (FileWrite(Path("a.py"), "x"), "a FileWrite whose path is a PosixPath"),  # type: ignore[arg-type]  # tested
        (FileWrite("a.py", b"x"), "a FileWrite whose content is a bytes"),  # type: ignore[arg-type]  # tested
        (Usage(model=Path("m")), "a Usage whose model is a PosixPath"),  # type: ignore[arg-type]  # tested
    ],
)
async def test_wrong_piece_fails_at_once_and_names_its_line(wrong: Any, named: str) -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield "so far"
        yield wrong  # here

    failure = await failure_of(h)
    assert not verdict(failure, 0, 5).retry
    here = next(n for n, line in enumerate(SOURCE.splitlines(), 1) if line.endswith("# here"))
    assert f"test_handlers.py:{here}: the handler for H yielded {named}" in failure.detail


@pytest.mark.parametrize(
    "bug",
    [
        lambda: 1 + None,  # type: ignore[operator]  # the mistake that is tested
        lambda: no_such_name,  # type: ignore[name-defined]  # noqa: F821  # the mistake that is tested
        lambda: TURN.nothing,  # type: ignore[attr-defined]  # the mistake that is tested
        lambda: len(),  # type: ignore[call-arg]  # the mistake that is tested
    ],
)
async def test_bug_in_a_handler_is_not_retried(bug: Callable[[], Any]) -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield bug()

    failure = await failure_of(h)
    assert not verdict(failure, 0, 5).retry
    assert re.match(r"\S*test_handlers\.py:\d+: (Type|Name|Attribute)Error: ", failure.detail)


def gives_an_object() -> object:
    return object()


def gives_text() -> int:
    return "seven"  # type: ignore[return-value]  # the mistake that is tested


def greets(name: str) -> str:
    return name


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda turn: turn.step("a", lambda: turn.step("b", greets, "Ann")), "the step 'b' is inside another step"),
        (lambda turn: turn.step("", greets, "Ann"), "the name of a step must be"),
        (lambda turn: turn.step("a", gives_an_object), "use JSON, pydantic models or dataclasses"),
        (
            lambda turn: turn.step("a", gives_text),
            r"return annotation of its function \(Input should be a valid integer",
        ),
        (lambda turn: turn.step("a", "greets"), "a value of the type str instead of a function"),
        (lambda turn: turn.step("a", greets), "do not fit its function: missing a required argument: 'name'"),
        (lambda turn: turn.tool("a", greets, town="Rome"), "do not fit its function: missing a required argument"),
    ],
)
async def test_mistake_in_a_step_is_not_retried_and_names_the_remedy(mistake: Callable[[Turn], Any], says: str) -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield str(await mistake(turn))

    failure = await failure_of(h)
    assert not verdict(failure, 0, 5).retry
    assert re.match(rf"\S*test_handlers\.py:\d+: in the handler for H, .*{says}", failure.detail), failure.detail


async def test_step_that_gives_an_awaitable_asks_for_await() -> None:
    async def forgets() -> object:
        return asyncio.get_running_loop().create_future()

    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield await turn.step("a", forgets)

    assert "was `await` forgotten?" in (await failure_of(h)).detail


async def test_mistake_inside_a_library_is_retried() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield json.dumps(object())  # raised by a library: it may come from what a service answered

    assert verdict(await failure_of(h), 0, 5).retry


async def test_validation_error_of_baml_is_named_without_the_conversation() -> None:
    async def h(turn: Turn) -> AsyncIterator[Any]:
        raise BamlValidationError("the secret prompt", "the secret answer", "the secret message", "the secret detail")
        yield

    failure = await failure_of(h)
    assert "BamlValidationError" in failure.detail
    assert "secret" not in failure.detail + failure.message + failure.said
    assert verdict(failure, 0, 5).retry


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
        assert await anext(pieces) == Partial("first", is_added=True)
        await pieces.aclose()
    assert cleaned.is_set()


async def test_handler_that_will_not_close_does_not_block_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handlers, "CLOSE_SECONDS", 0.05)

    async def h(turn: Turn) -> AsyncIterator[Any]:
        yield "first"
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
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


def test_handler_must_be_async() -> None:
    def function(turn: Turn) -> str:
        return ""

    with pytest.raises(SetupError, match="is not an async function"):
        handler("H")(function)  # type: ignore[type-var]  # the mistake that is tested


async def test_coroutine_function_returns_its_reply() -> None:
    async def h(turn: Turn) -> str:
        return turn.message

    handler("H")(h)
    assert (await collect(registered()["H"]))[-1] == Completion("hello")


def test_handler_without_a_parameter_is_refused() -> None:
    async def h() -> AsyncIterator[Any]:
        yield ""

    with pytest.raises(SetupError, match=r"\(\S*test_handlers\.py:\d+\) cannot be called with a turn"):
        handler("H")(h)  # type: ignore[type-var]  # the mistake that is tested


class Options(BaseModel):
    """A note of the developer."""

    max_price: float = Field(1.5, ge=0, description="In euros")
    tone: Literal["plain", "formal"]


def test_handler_is_described_by_its_decorator_and_docstring() -> None:
    @handler("Bare")
    async def bare(turn: Turn) -> AsyncIterator[str]:
        yield ""

    @handler("Documented")
    async def documented(turn: Turn) -> AsyncIterator[str]:
        """Say it.

        A note.
        """
        yield ""

    register = handler(
        "Whole", title="T", description="D", suggestions=["a", "b"], parameters=Options, reads_files=True
    )
    register(documented)
    assert description_of("Bare") == Description("Bare")
    assert description_of("Documented") == Description("Documented", description="Say it.")
    schema = {
        "type": "object",
        "properties": {
            "max_price": {"type": "number", "minimum": 0, "default": 1.5, "description": "In euros"},
            "tone": {"type": "string", "enum": ["plain", "formal"]},
        },
        "required": ["tone"],
    }
    assert description_of("Whole") == Description("Whole", "T", "D", schema, None, ("a", "b"), reads_files=True)


async def test_data_that_does_not_fit_the_parameters_is_refused_before_the_handler_begins() -> None:
    begun = []

    @handler("H", parameters=Options)
    async def h(turn: Turn) -> AsyncIterator[str]:
        begun.append(turn)
        yield Options.model_validate(turn.data).tone

    for data in ({}, {"tone": "secret"}, {"tone": "plain", "max_price": -1}):
        with pytest.raises(BadRequest) as caught:
            await anext(run_handler(h, replace(TURN, data=data)))
        assert caught.value.code == "bad_arguments"
        assert "secret" not in f"{caught.value.message}{caught.value.detail}"
    assert "at max_price, input should be greater than or equal to 0" in caught.value.message
    assert begun == []
    piece = await anext(run_handler(h, replace(TURN, data={"tone": "plain", "other": 1})))
    assert piece == Partial("plain", is_added=True)


def test_parameters_and_suggestions_that_cannot_be_described_are_refused() -> None:
    class Odd(BaseModel):
        f: Callable[[], None]

    async def h(turn: Turn) -> AsyncIterator[str]:
        yield ""

    with pytest.raises(SetupError, match=r"test_handlers\.py:\d+\) cannot be described"):
        handler("H", parameters=Odd)(h)
    with pytest.raises(SetupError, match="suggestions of the handler H are a text"):
        handler("H", suggestions="Why?")(h)
    assert registered() == {}


async def test_function_that_blocks_has_a_thread_of_the_steps() -> None:
    async def h(turn: Turn) -> str:
        return str(await turn.step("name", lambda: threading.current_thread().name))

    handler("H")(h)
    completion = (await collect(registered()["H"]))[-1]
    assert completion.text.startswith("step")  # asyncio's few threads look up the worker's own hosts


async def test_choices_are_texts_and_not_one_text() -> None:
    async def h(turn: Turn) -> None:
        await turn.ask("when", "When?", choices="now")

    handler("H")(h)
    failure = await failure_of(registered()["H"])
    assert (failure.code, failure.retryable) == ("internal", False)
    assert "pass a list of texts" in failure.detail
