"""Handlers: Python code that answers in the place of a BAML function.

    from bridge import FileWrite, Turn, handler

    @handler("Shout")
    async def shout(turn: Turn):
        yield turn.message.upper()                  # text, appended to the reply
        yield {"letters": len(turn.message)}        # the reply's data so far; the last one stays
        yield FileWrite("shout.txt", turn.message)  # a file that the reply writes

A handler may also yield a `Usage`, to have what it spent on models counted. Whatever it yields shows that it lives:
one that is silent for BRIDGE_IDLE_SECONDS counts as stalled, so long work yields `""` now and then. It is closed at the
`yield` or `await` where it stands when the reply is cancelled: `finally` is the place to clean up. A `TurnFailure` that
it raises reaches the user as it is; any other exception is logged, and the message is tried again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, TypeAlias, TypeVar, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from bridge.errors import HandlerFailed, SetupError, TurnFailure
from bridge.model import Completion, FileWrite, Partial, Turn, Usage

log = logging.getLogger(__name__)

Piece: TypeAlias = "str | FileWrite | Usage | Mapping[str, Any] | BaseModel"
Handler: TypeAlias = Callable[[Turn], AsyncIterator[Any]]
Function = TypeVar("Function", bound=Handler)
Checked = TypeVar("Checked", FileWrite, Usage)

CLOSE_SECONDS = 5.0  # how long a handler may take to clean up

_handlers: dict[str, Handler] = {}


def handler(name: str) -> Callable[[Function], Function]:
    """Register an async generator function to answer for `name`. It then needs to be in BRIDGE_FUNCTIONS.

    Raises SetupError if it is no async generator function, or if another has the name.
    """

    def register(function: Function) -> Function:
        where = f"{function.__module__}.{function.__qualname__}"
        generator: bool = inspect.isasyncgenfunction(function)
        if not generator:
            raise SetupError(f"The handler {where} must be an async generator: `async def` with `yield` in it.")
        if name in _handlers and _handlers[name] is not function:
            raise SetupError(f"There are two handlers named {name}; the second is {where}. Rename one.")
        _handlers[name] = function
        return function

    return register


def registered() -> dict[str, Handler]:
    """Give the handlers registered so far, by name."""
    return dict(_handlers)


async def run_handler(function: Handler, turn: Turn) -> AsyncGenerator[Partial | Completion, None]:
    """Run a handler to its end: partials as it yields, then the answer. Raises TurnFailure."""
    text: list[str] = []
    data: Any = None
    files: list[FileWrite] = []
    usage = Usage()
    pieces = function(turn)
    try:
        async for piece in pieces:
            if isinstance(piece, str):
                text.append(piece)
            elif isinstance(piece, FileWrite):
                files.append(_checked(piece, FileWrite, turn))
            elif isinstance(piece, Usage):
                usage = _checked(piece, Usage, turn)
            elif isinstance(piece, Mapping | BaseModel):
                data = to_jsonable_python(piece)
            else:
                raise HandlerFailed(
                    "internal",
                    "Something went wrong while answering.",
                    detail=f"the handler for {turn.function} yielded a {type(piece).__name__}; "
                    "it may yield str, dict, a pydantic model, FileWrite or Usage",
                )
            yield Partial("".join(text), data)
    except TurnFailure:
        raise
    except (Exception, SystemExit) as error:  # whatever it calls may call sys.exit(): the worker goes on
        detail = "".join(traceback.format_exception(error, limit=-5))
        if isinstance(error, PydanticSerializationError):
            detail = f"the handler for {turn.function} yielded data that is not JSON: {error}"
        raise HandlerFailed("internal", "Something went wrong while answering.", detail=detail) from error
    finally:
        await _close(pieces, turn.function)
    yield Completion("".join(text), data, tuple(files), usage)


def _checked(piece: Checked, kind: type[Checked], turn: Turn) -> Checked:
    """The piece, if its fields have the types they are declared with: nobody could write it down otherwise."""
    for name, wanted in get_type_hints(kind).items():
        value = getattr(piece, name)
        if not isinstance(value, wanted):
            raise HandlerFailed(
                "internal",
                "Something went wrong while answering.",
                detail=f"the handler for {turn.function} yielded a {kind.__name__} whose {name} is a "
                f"{type(value).__name__}",
            )
    return piece


async def _close(pieces: AsyncIterator[Any], name: str) -> None:
    if not isinstance(pieces, AsyncGenerator):
        return
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pieces.aclose()
    except Exception:
        # The reply is over, whatever its handler makes of that.
        log.exception("the handler for %s failed while it was closed", name)
