"""Arguments of a BAML function: bound by name, checked against its types, and made safe for the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from baml_py import Audio, Image, Pdf, Video
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from bridge.baml.delimiters import defuse_all
from bridge.errors import BadRequest, SetupError
from bridge.model import CodeFile, Message, Session, Turn


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a BAML function, the validator of its type, and whether it must be given."""

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


def read_parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read the parameters of a method of the generated client.

    Raises SetupError if the bridge fills a parameter of that name, but its type does not match.
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
                f"The parameter `{name}` of the BAML function {function.__name__} has a type that the bridge cannot "
                f"fill: {_first_complaint(error)}.",
                "See baml_src/types.baml for the types of `messages` and `files`.",
            ) from error
        found.append(Parameter(name, adapter, parameter.default is inspect.Parameter.empty))
    return tuple(found)


def bind_arguments(parameters: tuple[Parameter, ...], turn: Turn) -> dict[str, Any]:
    """Return the arguments for a call, each with its parameter's type and without BAML's delimiters.

    `messages`, `message`, `files`, `session` and `user_id` come from the turn, all others from its `data`.
    Raises BadRequest if one is missing or has the wrong type.
    """
    bound = {}
    for parameter in parameters:
        name = parameter.name
        if source := _FROM_TURN.get(name):
            value = source(turn)
        elif name in turn.data:
            value = turn.data[name]
        elif parameter.required:
            raise BadRequest("bad_arguments", f"The argument `{name}` is missing. Add it to the message's `data`.")
        else:
            continue
        try:
            checked = parameter.adapter.validate_python(defuse_all(value))
        except ValidationError as error:
            raise BadRequest(
                "bad_arguments", f"The argument `{name}` is invalid: {_first_complaint(error)}."
            ) from None  # the cause would put the user's text into the log
        _refuse_media_url(name, checked)
        bound[name] = checked
    return bound


def _first_complaint(error: ValidationError | PydanticUserError) -> str:
    """Return the first complaint, without the value that caused it."""
    if isinstance(error, PydanticUserError):
        return error.message.partition("\n")[0]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    return f"at {where}, {complaint}" if where else complaint


def _refuse_media_url(name: str, value: Any) -> None:
    """Refuse media given by URL: BAML or the provider would fetch any address that a user chooses."""
    if isinstance(value, Image | Audio | Pdf | Video):
        if value.is_url():
            raise BadRequest(
                "bad_arguments",
                f"The argument `{name}` contains media by URL. Send the content as base64 instead.",
            )
    elif isinstance(value, Mapping):
        for item in value.values():
            _refuse_media_url(name, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_media_url(name, item)
    elif hasattr(type(value), "model_fields"):
        for field in type(value).model_fields:
            _refuse_media_url(name, getattr(value, field))
