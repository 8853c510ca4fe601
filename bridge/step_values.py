"""What steps are given and give: as JSON, in the types of their functions, and as it is shown to the user."""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import to_jsonable_python

from bridge.errors import HandlerBroken, ToolFailed
from bridge.model import Message, Step
from bridge.sanitize import sanitize_json, truncate_utf8

SHOWN_BYTES = 16_384  # of a tool's input or output, as JSON

# What functions say they return: finding out takes as long as the rest of a remembered step.
_hints: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def broken(detail: str) -> HandlerBroken:
    """A handler uses a step in a way that cannot work."""
    return HandlerBroken("internal", "Something went wrong while answering.", detail=detail)


def check_call(name: str, function: object, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Find out whether a step could run its function at all. Raises HandlerBroken, as every attempt would meet this."""
    if not callable(function):
        raise broken(
            f"the step {name} got a value of the type {type(function).__name__} instead of a function: "
            "pass the function itself, and its arguments after it"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function written in C
        return
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        raise broken(f"the arguments of the step {name} do not fit its function: {error}") from None


def to_json(what: str, value: Any) -> Any:
    """A value as JSON has it. Raises HandlerBroken if it cannot be stored; `what` says what it is."""
    try:
        return sanitize_json(to_jsonable_python(value))
    except (ValueError, RecursionError) as error:
        remedy = "was `await` forgotten?" if inspect.isawaitable(value) else "use JSON, pydantic models or dataclasses"
        raise broken(f"{what} cannot be stored as JSON ({error}): {remedy}") from None


def json_size(value: Any) -> int:
    """How many bytes a value has as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def length_of(value: Any) -> int:
    """About how many characters a model reads of a value, or writes."""
    return len(json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)) if value else 0


def shown_of(value: Any) -> Any:
    """A value to show: all of it, or the beginning of its text, or of its JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) * 4 <= SHOWN_BYTES or len(text.encode()) <= SHOWN_BYTES:
        return value
    return truncate_utf8(text, SHOWN_BYTES) + "…"


def without_text(data: Any) -> Any:
    """The data of a structured reply beside its text and its files, as while it streams."""
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key not in ("reply", "files")} or None


def message_of(name: str, reply: Any) -> Message:
    """The reply of another function. Raises ToolFailed if it has none."""
    status, error = reply.get("status"), reply.get("error") or {}
    if status != "done":
        raise ToolFailed(
            f"{name} {'was cancelled' if status == 'cancelled' else 'failed'}: {error.get('message', '')}".rstrip(": ")
        )
    return Message("assistant", reply.get("content") or "", reply.get("data"))


def result_of(step: Step, hint: Any) -> Any:
    """What a step gave, in the type that its function is annotated with."""
    if step.kind == "failed":
        raise ToolFailed(step.value)
    try:
        return _adapter(hint).validate_python(step.value)
    except (ValidationError, PydanticUserError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.message.partition("\n")[0]
        raise broken(
            f"the result of the step {step.name} does not fit the return annotation of its function ({reason}): "
            "correct the annotation, or rename the step if its result has changed since it was remembered"
        ) from None


@lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return TypeAdapter(Any)


def result_hint(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns; Any if it does not say, or names what cannot be found."""
    target = inspect.unwrap(getattr(function, "func", function))
    target = getattr(target, "__func__", target)
    try:
        if target not in _hints:
            hint = get_type_hints(target).get("return", Any)
            hash(hint)
            _hints[target] = hint
        return _hints[target]
    except (NameError, TypeError, AttributeError):
        return Any
