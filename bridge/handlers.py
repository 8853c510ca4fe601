"""Handlers: Python code that answers instead of a BAML function.

    from bridge import FileWrite, Turn, handler

    @handler("Shout")
    async def shout(turn: Turn):
        yield turn.message.upper()                  # text, appended to the reply
        yield {"letters": len(turn.message)}        # the reply's data so far; the last one is kept
        yield FileWrite("shout.txt", turn.message)  # a file that the reply writes

A handler may also yield a `Usage`, to report what it spent on models. A handler that yields nothing for
BRIDGE_IDLE_SECONDS counts as stalled, so yield `""` now and then during long work. When the reply is cancelled, the
handler is closed at its current `yield` or `await`: clean up in `finally`. A `TurnFailure` that it raises is shown to
the user unchanged. Any other exception is logged, and the message is retried.
"""

import asyncio
import inspect
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from bridge.errors import HandlerFailed, SetupError, TurnFailure
from bridge.model import Completion, FileWrite, Partial, Turn, Usage

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Turn], AsyncIterator[Any]]
Function = TypeVar("Function", bound=Handler)
Checked = TypeVar("Checked", FileWrite, Usage)

CLOSE_SECONDS = 5.0  # how long a handler may take to clean up

_handlers: dict[str, Handler] = {}


def handler(name: str) -> Callable[[Function], Function]:
    """Register an async generator function as the handler `name`. BRIDGE_FUNCTIONS must name it too.

    Raises SetupError if it is not an async generator function, or if another handler has that name.
    """

    def register(function: Function) -> Function:
        where = f"{function.__module__}.{function.__qualname__}"
        generator: bool = inspect.isasyncgenfunction(function)
        if not generator:
            remedy = "Define it with `async def` and `yield`."
            raise SetupError(f"The handler {where} is not an async generator function.", remedy)
        if name in _handlers and _handlers[name] is not function:
            raise SetupError(f"Two handlers are named {name}; the second is {where}.", "Rename one of them.")
        _handlers[name] = function
        return function

    return register


def registered() -> dict[str, Handler]:
    """Return the handlers registered so far, by name."""
    return dict(_handlers)


async def run_handler(function: Handler, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
    """Run a handler: give a partial each time it yields, and the completion last. Raises TurnFailure."""
    text, data, usage = "", None, Usage()
    files: list[FileWrite] = []
    pieces = cast("AsyncGenerator[Any, None]", function(turn))  # `handler` registers nothing else
    try:
        async for piece in pieces:
            if isinstance(piece, str):
                text += piece
            elif isinstance(piece, FileWrite):
                files.append(_check_fields(piece, FileWrite, turn))
            elif isinstance(piece, Usage):
                usage = _check_fields(piece, Usage, turn)
            elif isinstance(piece, Mapping | BaseModel):
                data = to_jsonable_python(piece)
            else:
                allowed = "it may yield str, dict, a pydantic model, FileWrite or Usage"
                raise _failure(f"the handler for {turn.function} yielded a {type(piece).__name__}; {allowed}")
            yield Partial(text, data, usage=usage)
    except TurnFailure as failure:
        failure.usage = usage
        raise
    except (Exception, SystemExit) as error:  # a library may call sys.exit(); the worker goes on
        detail = "".join(traceback.format_exception(error, limit=-5))
        if isinstance(error, PydanticSerializationError):
            detail = f"the handler for {turn.function} yielded data that is not JSON: {error}"
        failed = _failure(detail)
        failed.usage = usage
        raise failed from error
    finally:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pieces.aclose()
        except Exception:
            # The reply has ended already, so this failure does not change it.
            log.exception("the handler for %s failed while being closed", turn.function)
    yield Completion(text, data, tuple(files), usage)


def _failure(detail: str) -> HandlerFailed:
    return HandlerFailed("internal", "Something went wrong while answering.", detail=detail)


def _check_fields(piece: Checked, kind: type[Checked], turn: Turn) -> Checked:
    """Return the piece if its fields have their declared types. Otherwise it could not be stored."""
    for name, declared in get_type_hints(kind).items():
        value = getattr(piece, name)
        if not isinstance(value, declared):
            wrong = f"a {kind.__name__} whose {name} is a {type(value).__name__}"
            raise _failure(f"the handler for {turn.function} yielded {wrong}")
    return piece
