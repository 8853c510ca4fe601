"""Handlers: Python code that answers instead of a BAML function.

    from bridge import FileWrite, Turn, handler

    @handler("Shout")
    async def shout(turn: Turn):
        yield turn.message.upper()                  # text, appended to the reply
        yield {"letters": len(turn.message)}        # the reply's data so far; the last one is kept
        yield FileWrite("shout.txt", turn.message)  # a file that the reply writes

What a handler does in steps (`turn.step` and the like, see `bridge.model.Turn`) is remembered, and not done again if
its worker vanishes. A handler may also yield a `Usage`, to report what it spent on models without `turn.call`. One that
yields nothing and runs no step for BRIDGE_IDLE_SECONDS counts as stalled. When the reply is cancelled, the handler is
cancelled where it waits: clean up in `finally`. A `TurnFailure` that it raises is shown to the user unchanged. A bug (a
value of a wrong type, a name that does not exist) fails at once, and the log names its line. Any other exception is
logged, and the message is retried.

What users see of it, and the arguments that it takes from a question's data, are told to the decorator:

    class Options(BaseModel):
        tone: Literal["plain", "formal"] = "plain"

    @handler("Shout", title="Shouting", description="Repeats it, louder.", suggestions=["Hello"], parameters=Options)
    async def shout(turn: Turn):
        options = Options.model_validate(turn.data)  # it fits: a question that does not has failed
"""

import asyncio
import functools
import inspect
import logging
import os
import re
import sysconfig
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, get_type_hints

from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from bridge.attachments import MOST_BYTES
from bridge.errors import (
    HandlerBroken,
    HandlerFailed,
    MaybeDone,
    NoAnswer,
    SetupError,
    StepFailure,
    StepUnresolved,
    TurnFailure,
    Unstorable,
)
from bridge.media_types import TYPES
from bridge.model import Attachment, Completion, Description, FileWrite, Partial, Turn, Usage
from bridge.parameters import check_data, describe_model
from bridge.sanitize import sanitize_line
from bridge.steps import TURNS, Steps

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Turn], AsyncIterator[Any]]
Function = TypeVar("Function", bound=Callable[[Turn], AsyncIterator[Any] | Awaitable[Any]])
Checked = TypeVar("Checked", FileWrite, Attachment, Usage)

CLOSE_SECONDS = 5.0  # how long a handler may take to clean up
NAME_BYTES = 255  # of an attachment
SIGN_SECONDS = 1.0  # how often a handler whose step runs shows a sign of life
# What a mistake in the code raises. Raised by a library, they may also come from what it was answered.
BUGS = (TypeError, NameError, AttributeError, ImportError, SyntaxError, NotImplementedError)
LONGEST_REASON = 300  # characters of an exception's message: some repeat the prompt and the answer
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,127}/[a-z0-9.+-]{1,127}")
_BRIDGE = os.path.dirname(__file__) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib", "stdlib", "platstdlib")})

_handlers: dict[str, Handler] = {}
_descriptions: dict[str, Description] = {}
_parameters: dict[str, type[BaseModel]] = {}


def handler(
    name: str,
    *,
    title: str | None = None,
    description: str | None = None,
    suggestions: Sequence[str] = (),
    parameters: type[BaseModel] | None = None,
    reads_files: bool = False,
    accepts: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Register an async generator function, or a coroutine function, as the handler `name`.

    BRIDGE_FUNCTIONS must name it too. What a coroutine function returns counts as if it were yielded.

    Users see the `title`, the `description` (by default, the first line of the docstring) and the `suggestions`, which
    are questions to start with. `parameters` declares what a question's data may hold: one that does not fit fails with
    `bad_arguments`. With `reads_files`, the chat page makes a long paste a file. `accepts` are the media types of the
    attachments that the page lets users add.

    Raises SetupError if it is no async function of one parameter, if another handler has that name, if JSON schema
    cannot express the parameters, or if `accepts` are no media types.
    """
    if isinstance(suggestions, str):
        raise SetupError(f"The suggestions of the handler {name} are a text.", "Give a list of texts.")
    if isinstance(accepts, str) or not all(_MEDIA_TYPE.fullmatch(kind) for kind in accepts):
        raise SetupError(f"The handler {name} accepts {accepts!r}.", "Give a list of media types, such as image/png.")

    def register(function: Function) -> Function:
        where = f"{function.__module__}.{function.__qualname__} ({_place_of_code(function)})"
        generator = _as_generator(function)
        if generator is None:
            raise SetupError(f"The handler {where} is not an async function.", "Define it with `async def`.")
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            remedy = "Define it with one parameter: `async def name(turn: Turn)`."
            raise SetupError(f"The handler {where} cannot be called with a turn.", remedy) from None
        if name in _handlers and inspect.unwrap(_handlers[name]) is not inspect.unwrap(function):
            raise SetupError(f"Two handlers are named {name}; the second is {where}.", "Rename one of them.")
        try:
            schema = None if parameters is None else describe_model(parameters)
        except PydanticUserError as error:
            problem = f"The parameters of the handler {where} cannot be described ({error.message.splitlines()[0]})."
            raise SetupError(problem, "Use types that JSON schema can express.") from error
        says = description or (inspect.getdoc(function) or "").partition("\n")[0] or None
        _handlers[name] = generator
        _descriptions[name] = Description(
            *(name, title, says, schema, None, tuple(suggestions), reads_files), accepts=tuple(accepts)
        )
        if parameters is not None:
            _parameters[name] = parameters
        return function

    return register


def _as_generator(function: Callable[[Turn], Any]) -> Handler | None:
    """An async generator function, also of a coroutine function; None if it is neither."""
    if inspect.isasyncgenfunction(function):
        return function
    if not inspect.iscoroutinefunction(function):
        return None

    @functools.wraps(function)
    async def generator(turn: Turn) -> AsyncIterator[Any]:
        if (returned := await function(turn)) is not None:
            yield returned

    return generator


def registered() -> dict[str, Handler]:
    """Return the handlers registered so far, by name."""
    return dict(_handlers)


def description_of(name: str) -> Description:
    """What users see of a registered handler."""
    return _descriptions[name]


async def run_handler(
    function: Handler, turn: Turn, steps: Steps | None = None
) -> AsyncGenerator[Partial | Completion, None]:
    """Run a handler: give a partial whenever the reply grows or a step runs, and the completion last.

    Raises TurnFailure, and Waiting if the handler waits for somebody else. Without `steps`, nothing is remembered.
    """
    if parameters := _parameters.get(turn.function):
        check_data(parameters, turn.data)
    steps = steps or Steps.unremembered(turn)
    files: list[FileWrite] = []
    pieces = cast("AsyncGenerator[Any, None]", function(replace(turn, steps=steps)))  # `handler` registers nothing else
    # in a task of its own, as the reply also grows while the handler waits for a step
    task = asyncio.create_task(_drive(pieces, steps, files, turn), name=f"handler {turn.function}")
    steps.task = task
    task.add_done_callback(lambda _: steps.news.set())
    try:
        while True:
            async with aclosing(_take(steps, turn)) as news:
                async for partial in news:
                    yield partial
            if task.done():
                failure = task.result()
                if failure is None:
                    break
                if not steps.has_more:
                    failure.usage = steps.cost
                    raise failure
            elif steps.is_waiting and await _comes_to_rest(task, steps):
                steps.end()  # a call that failed is no longer heard
                async with aclosing(_take(steps, turn)) as news:
                    async for partial in news:
                        yield partial
                raise steps.waiting()
            else:
                has_begun = await _wait_for_news(steps)
                if not (steps.has_more or task.done()):
                    yield Partial("", has_begun=has_begun, usage=steps.cost, is_added=True)
        text, data = steps.end()
        async with aclosing(_take(steps, turn)) as news:
            async for partial in news:
                yield partial
    finally:
        await _close(task, pieces, steps, turn.function)
    yield Completion(text, data, tuple(files), steps.cost)


async def _take(steps: Steps, turn: Turn) -> AsyncGenerator[Partial, None]:
    """Give what is new of the reply. An attachment is stored before it is shown. Raises TurnFailure."""
    for partial in steps.take():
        attachment = partial.attachment
        if attachment is not None and attachment.data is not None and turn.objects is not None:
            storing = asyncio.create_task(turn.objects.store(attachment.path, attachment))
            try:
                while not (await asyncio.wait({storing}, timeout=SIGN_SECONDS))[0]:
                    yield Partial("", has_begun=False, usage=steps.cost, is_added=True)
                storing.result()
            finally:
                storing.cancel()
        yield replace(partial, usage=steps.cost, attachment=None)


async def _drive(
    pieces: AsyncGenerator[Any, None], steps: Steps, files: list[FileWrite], turn: Turn
) -> TurnFailure | None:
    """Run a handler to its end, and return how it failed. What it yields goes to `steps` and `files`."""
    function = turn.function
    try:
        async for piece in pieces:
            if steps.is_closed:  # it has caught its cancellation, and goes on
                break
            if isinstance(piece, str):
                steps.add(Partial(piece, is_added=True))
            elif isinstance(piece, FileWrite):
                files.append(_check_fields(piece, FileWrite))
                steps.news.set()
            elif isinstance(piece, Attachment):
                await steps.give(_check_attachment(_check_fields(piece, Attachment), turn))
            elif isinstance(piece, Usage):
                steps.report(_check_fields(piece, Usage))
            elif isinstance(piece, Mapping | BaseModel):
                steps.add(Partial("", _to_json(piece), is_added=True))
            else:
                allowed = "it may yield str, dict, a pydantic model, FileWrite, Attachment or Usage"
                raise _WrongPiece(f"{_article(type(piece).__name__)}; {allowed}")
    except TurnFailure as failure:
        if isinstance(failure, HandlerBroken | HandlerFailed | Unstorable):  # of a step
            failure.detail = f"{place_of(failure)[0]}: in the handler for {function}, {failure.detail}"
        return failure
    except (Exception, SystemExit) as error:  # a library may call sys.exit(); the worker goes on
        failed = _failure(error, function, _place_of_yield(pieces))
        failed.__cause__ = error
        return failed
    return None


async def _comes_to_rest(task: asyncio.Task[Any], steps: Steps) -> bool:
    """Whether nothing else begins beside what the handler waits for."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return steps.is_waiting and not task.done()


async def _wait_for_news(steps: Steps) -> bool:
    """Wait until the handler does something; False if it is a step that runs, from time to time."""
    try:
        async with asyncio.timeout(SIGN_SECONDS if steps.is_running else None):
            await steps.news.wait()
    except TimeoutError:
        return False
    steps.news.clear()
    return True


async def _close(
    task: asyncio.Task[TurnFailure | None], pieces: AsyncGenerator[Any, None], steps: Steps, function: str
) -> None:
    """End a handler, wherever it is. The reply has ended already, so no failure here changes it."""
    is_running = not task.done()
    steps.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            if is_running:
                task.cancel()
                await asyncio.wait({task})
            await steps.end_tasks()
            if is_running and not task.cancelled() and (failure := task.result()) is not None:
                raise failure.__cause__ or failure
            await pieces.aclose()
    except Exception as error:
        place, _ = place_of(error)
        log.error("the handler for %s failed while being closed: %s: %s", function, place, describe(error))


class _WrongPiece(Exception):
    """A handler has yielded something that is no part of a reply: what it was."""


_UNRESOLVED: Mapping[type[StepFailure], tuple[str, str]] = {
    StepFailure: ("tool_failed", "A tool that the answer needs has failed."),
    NoAnswer: ("no_answer", "There was no answer in time."),
    MaybeDone: ("maybe_done", "A step that must not run twice may have run. It was not repeated."),
}


def _failure(error: BaseException, function: str, at: str) -> TurnFailure:
    """The failure of an attempt whose handler raised `error`, or yielded at `at` what cannot be stored."""
    place, is_own = place_of(error)
    if isinstance(error, StepFailure):
        code, message = _UNRESOLVED.get(type(error), _UNRESOLVED[StepFailure])
        return StepUnresolved(code, message, detail=f"{place}: {describe(error)}, in the handler for {function}")
    is_bug, detail = is_own and isinstance(error, BUGS), f"{place}: {describe(error)}, in the handler for {function}"
    if isinstance(error, _WrongPiece):
        is_bug, detail = True, f"{at}: the handler for {function} yielded {error}"
    kind = HandlerBroken if is_bug else HandlerFailed
    return kind("internal", "Something went wrong while answering.", detail=detail)


def describe(error: BaseException) -> str:
    """Name an exception and its message, on one line. Those of BAML repeat the prompt: only their names are given."""
    if type(error).__module__.partition(".")[0] == "baml_py":
        return f"{type(error).__name__} (BAML's message is left out: it quotes the conversation)"
    return f"{type(error).__name__}: {_reason(error)}".rstrip(": ")


def _reason(error: BaseException) -> str:
    reason = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"


def place_of(error: BaseException) -> tuple[str, bool]:
    """Where an exception comes from, as `file:line`, and whether it was raised there, not in a library called there."""
    if isinstance(error, SyntaxError) and error.filename:
        return _place(error.filename, error.lineno or 1), True
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    if not own:
        return (_place(frames[-1].filename, frames[-1].lineno or 1) if frames else "unknown"), False
    return _place(own[-1].filename, own[-1].lineno or 1), own[-1] is frames[-1]


def _is_own(file: str) -> bool:
    """Whether a file is neither the bridge's, nor of the generated client, nor of an installed package or Python."""
    outside = file.startswith(("<", _BRIDGE, *_LIBRARIES)) or "baml_client" in Path(file).parts
    return not outside


def _place_of_code(function: Callable[..., Any]) -> str:
    code = inspect.unwrap(function).__code__
    return _place(code.co_filename, code.co_firstlineno)


def _place_of_yield(pieces: AsyncGenerator[Any, None]) -> str:
    """Where a generator is now: at the `yield` whose value was just read."""
    frame = getattr(pieces, "ag_frame", None)
    code = pieces.ag_code if inspect.isasyncgen(pieces) else None
    if frame is None or code is None:
        return "unknown"
    return _place(code.co_filename, frame.f_lineno)


def _place(file: str, line: int) -> str:
    """`file:line`, with the file as seen from the working directory if it is inside of it."""
    path = Path(file)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{line}"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in tuple('aeio') else 'a'} {noun}"


def _to_json(piece: Any) -> Any:
    try:
        return to_jsonable_python(piece)
    except (ValueError, RecursionError) as error:
        raise _WrongPiece(f"data that is not JSON: {_reason(error)}") from None


def _check_fields(piece: Checked, kind: type[Checked]) -> Checked:
    """Return the piece if its fields have their declared types. Otherwise it could not be stored."""
    for name, declared in get_type_hints(kind).items():
        value = getattr(piece, name)
        if not isinstance(value, declared):
            raise _WrongPiece(f"{_article(kind.__name__)} whose {name} is {_article(type(value).__name__)}")
    return piece


def _check_attachment(piece: Attachment, turn: Turn) -> Attachment:
    """Return the attachment if it can be stored, or was: by a user, in this session."""
    is_here = piece.data is not None or piece.path.startswith(f"{turn.session.id}/")
    if not is_here:
        raise _WrongPiece("an Attachment without data that is not of this session")
    if piece.type not in TYPES:
        raise _WrongPiece(f"an Attachment of the type {piece.type!r}; it may be one of {', '.join(TYPES)}")
    if piece.size > MOST_BYTES:
        raise _WrongPiece(f"an Attachment of {piece.size:,} bytes; it may have {MOST_BYTES:,}")
    if sanitize_line(piece.name, NAME_BYTES) != piece.name or {*piece.name} & {"/", "\\"}:
        raise _WrongPiece(
            f"an Attachment named {piece.name!r:.100}; a name is a line of up to {NAME_BYTES} bytes, no path"
        )
    return piece
