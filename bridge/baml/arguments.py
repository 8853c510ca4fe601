"""Arguments of a BAML function: bound by name, checked against its types, and made safe for the prompt."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, get_type_hints

from baml_py import Audio, Image, Pdf, Video
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from bridge.baml.delimiters import defuse_all
from bridge.errors import BadRequest, SetupError
from bridge.model import CodeFile, Message, Session, Turn

# The arguments that the turn fills. All others come from its `data`.
_FROM_TURN: Mapping[str, Callable[[Turn], Any]] = {
    "messages": lambda turn: [asdict(message) for message in turn.messages],
    "message": lambda turn: turn.message,
    "files": lambda turn: [asdict(file) for file in turn.files],
    "session": lambda turn: asdict(turn.session),
    "user_id": lambda turn: turn.user_id,
}

_MESSAGES = (Message("user", "text"), Message("assistant", "text"))
_SAMPLE = Turn("", "text", _MESSAGES, (CodeFile("path", "text"),), Session("id", "id", None, "", {}), "id")


class Parameter(NamedTuple):
    """One parameter of a BAML function, the validator of its type, and whether it must be given."""

    name: str
    adapter: TypeAdapter[Any]
    required: bool


def read_parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read the parameters of a generated method; SetupError if the turn fills one whose type does not match."""
    hints = get_type_hints(function)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "baml_options"):
            continue
        try:
            adapter = TypeAdapter[Any](hints[name])
            if fill := _FROM_TURN.get(name):
                adapter.validate_python(fill(_SAMPLE))
        except (ValidationError, PydanticUserError) as error:
            raise SetupError(
                f"The parameter `{name}` of the BAML function {function.__name__} has a type that the bridge cannot "
                f"fill: {_first_complaint(error)}.",
                "See baml_src/types.baml for the types of `messages` and `files`.",
            ) from error
        found.append(Parameter(name, adapter, parameter.default is inspect.Parameter.empty))
    return tuple(found)


def bind_arguments(parameters: tuple[Parameter, ...], turn: Turn) -> dict[str, Any]:
    """Return the arguments for a call, checked and without BAML's delimiters; BadRequest if one is missing or wrong."""
    given = {**turn.data, **{name: fill(turn) for name, fill in _FROM_TURN.items()}}
    bound = {}
    for name, adapter, required in parameters:
        if name in given:
            try:
                bound[name] = adapter.validate_python(defuse_all(given[name]))
            except ValidationError as error:
                problem = f"The argument `{name}` is invalid: {_first_complaint(error)}."
                raise BadRequest("bad_arguments", problem) from None  # the cause would put the user's text into the log
            _refuse_media_url(name, bound[name])
        elif required:
            raise BadRequest("bad_arguments", f"The argument `{name}` is missing. Add it to the message's `data`.")
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
    items: Iterable[Any] = ()
    match value:
        case Image() | Audio() | Pdf() | Video() if value.is_url():
            problem = f"The argument `{name}` contains media by URL. Send the content as base64 instead."
            raise BadRequest("bad_arguments", problem)
        case BaseModel():
            items = dict(value).values()
        case Mapping():
            items = value.values()
        case list() | tuple():
            items = value
    for item in items:
        _refuse_media_url(name, item)
