"""Arguments of a BAML function: bound by name, checked against its types, defused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from baml_py import Audio, Image, Pdf, Video
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from bridge.delimiters import defuse_all
from bridge.errors import BadRequest, SetupError
from bridge.model import CodeFile, Message, Session, Turn


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a BAML function: how to check it, and whether it may be left out."""

    name: str
    adapter: TypeAdapter[Any]
    required: bool


_FROM_TURN: Mapping[str, Callable[[Turn], Any]] = {
    "messages": lambda turn: [{"role": m.role, "content": m.content} for m in turn.messages],
    "message": lambda turn: turn.message,
    "files": lambda turn: [
        {"path": f.path, "content": f.content, "language": f.language, "revision": f.revision} for f in turn.files
    ],
    "session": lambda turn: {
        "id": turn.session.id,
        "user_id": turn.session.user_id,
        "title": turn.session.title,
        "function": turn.session.function,
        "metadata": turn.session.metadata,
    },
    "user_id": lambda turn: turn.user_id,
}

_SAMPLE = Turn(
    function="",
    message="text",
    messages=(Message("user", "text"), Message("assistant", "text")),
    files=(CodeFile("path", "text"),),
    session=Session(id="id", user_id="id", title=None, function="", metadata={}),
    user_id="id",
)


def parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read the parameters of a generated client's method.

    Raises SetupError if one has a name that the bridge fills, and a type that it cannot fill.
    """
    hints = get_type_hints(function)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "baml_options"):
            continue
        try:
            adapter = TypeAdapter[Any](hints[name])
            if source := _FROM_TURN.get(name):
                adapter.validate_python(source(_SAMPLE))
        except (ValidationError, PydanticUserError) as error:
            raise SetupError(
                f"The parameter `{name}` of the BAML function {function.__name__} has a type that cannot be filled: "
                f"{_first(error)}. baml_src/types.baml shows the shapes of `messages` and `files`."
            ) from error
        found.append(Parameter(name, adapter, parameter.default is inspect.Parameter.empty))
    return tuple(found)


def bind(wanted: tuple[Parameter, ...], turn: Turn) -> dict[str, Any]:
    """Give the arguments for a call, each of its parameter's type and defused.

    `messages`, `message`, `files`, `session` and `user_id` come from the turn, any other from its `data`.
    Raises BadRequest if one is missing or of the wrong type.
    """
    bound = {}
    for parameter in wanted:
        name = parameter.name
        if source := _FROM_TURN.get(name):
            value = source(turn)
        elif name in turn.data:
            value = turn.data[name]
        elif parameter.required:
            raise BadRequest("bad_arguments", f"The argument `{name}` is missing: put it into the message's data.")
        else:
            continue
        try:
            checked = parameter.adapter.validate_python(defuse_all(value))
        except ValidationError as error:
            raise BadRequest(
                "bad_arguments", f"The argument `{name}` cannot be used: {_first(error)}."
            ) from None  # the cause would quote the user's text in a log
        _no_media_url(name, checked)
        bound[name] = checked
    return bound


def _first(error: ValidationError | PydanticUserError) -> str:
    """The first complaint, without the value it is about."""
    if isinstance(error, PydanticUserError):
        return error.message.partition("\n")[0]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"at {where}, {said}" if where else said


def _no_media_url(name: str, value: Any) -> None:
    """Refuse a medium given by URL: BAML or the provider would fetch whatever a user points it at."""
    if isinstance(value, Image | Audio | Pdf | Video):
        if value.is_url():
            raise BadRequest(
                "bad_arguments",
                f"The argument `{name}` holds a medium by URL: send its content as base64.",
            )
    elif isinstance(value, Mapping):
        for item in value.values():
            _no_media_url(name, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _no_media_url(name, item)
    elif hasattr(type(value), "model_fields"):
        for field in type(value).model_fields:
            _no_media_url(name, getattr(value, field))
