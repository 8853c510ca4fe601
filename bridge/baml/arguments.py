"""Arguments of a BAML function: bound by name, checked against its types, and made safe for the prompt."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import ModuleType, NoneType
from typing import Any, ForwardRef, Literal, NamedTuple, get_args, get_origin, get_type_hints

from baml_py import Audio, Image, Pdf, Video
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from bridge.baml import media
from bridge.baml.delimiters import defuse_all
from bridge.errors import BadRequest, SetupError
from bridge.model import Attachment, CodeFile, Message, Opened, Session, Turn
from bridge.parameters import first_complaint

# The arguments that the turn fills. All others come from its `data`. `_fit` then fits the messages to their class.
_FROM_TURN: Mapping[str, Callable[[Turn], Any]] = {
    "messages": lambda turn: turn.messages,
    "message": lambda turn: turn.message,
    "files": lambda turn: [asdict(file) for file in turn.files],
    "session": lambda turn: asdict(turn.session),
    "user_id": lambda turn: turn.user_id,
}

_MESSAGES = (Message("user", "text"), Message("assistant", "text", {"key": "value"}), Message("assistant", "", [1]))
_SAMPLE = Turn("", "text", _MESSAGES, (CodeFile("path", "text"),), Session("id", "id", None, "", {}), "id")


class Parameter(NamedTuple):
    """One parameter of a BAML function: its type, the validator of it, and whether it must be given.

    `has_media`: a value of this type may hold media. Where none can, none is looked for: that took half of the time.
    """

    name: str
    hint: Any
    adapter: TypeAdapter[Any]
    required: bool
    has_media: bool

    @property
    def is_filled(self) -> bool:
        """Whether the turn fills it. Other parameters come from the question's `data`."""
        return self.name in _FROM_TURN or self.is_attached

    @property
    def is_attached(self) -> bool:
        """Whether the question's attachments fill it."""
        return media.is_filled(self.name, self.hint)

    @property
    def accepts(self) -> tuple[str, ...]:
        """The types of attachments that it reads."""
        return media.accepted(self.name, self.hint) if self.is_attached else ()

    def attach(self, opened: Sequence[Opened]) -> Any:
        """The value of these attachments. Raises ValidationError."""
        return self.adapter.validate_python(defuse_all(media.values(self.hint, opened)))

    def validate(self, value: Any) -> Any:
        """Defuse the value, and return it in the parameter's type. Raises ValidationError."""
        if self.name == "messages":
            value = _fit(value, _class_of_items(self.hint))
        return self.adapter.validate_python(defuse_all(value))


def read_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types that a generated method is annotated with.

    `typing` keeps one `List["types.Message"]` for all modules, and what it once meant. With `localns` given, it looks
    again: another generated client in this process may have a class of the same name.
    """
    types = getattr(sys.modules[function.__module__], "types", None)
    return get_type_hints(function, localns=_recursive_aliases(types) if types else {})


def read_parameters(function: Callable[..., Any], place: str = "") -> tuple[Parameter, ...]:
    """Read the parameters of a generated method; SetupError if the turn fills one whose type does not match.

    `place` is where the function is defined.
    """
    hints = read_hints(function)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("self", "baml_options"):
            continue
        try:
            hint = hints[name]
            # BAML 0.226.3 writes a default for an optional parameter only if no other one follows
            is_required = parameter.default is inspect.Parameter.empty and NoneType not in get_args(hint)
            found.append(Parameter(name, hint, TypeAdapter[Any](hint), is_required, _may_hold_media(hint)))
            if fill := _FROM_TURN.get(name):
                found[-1].validate(fill(_SAMPLE))
            elif found[-1].is_attached:
                found[-1].attach(media.SAMPLES)
        except (ValidationError, PydanticUserError) as error:
            raise SetupError(
                f"The parameter `{name}` of the BAML function {function.__name__}{place and f' ({place})'} has a type "
                f"that the bridge cannot fill: {first_complaint(error)}.",
                "See baml_src/types.baml for the types of `messages`, `files` and `attachments`.",
            ) from error
    return tuple(found)


def bind_arguments(parameters: tuple[Parameter, ...], turn: Turn, opened: Sequence[Opened] = ()) -> dict[str, Any]:
    """Return the arguments for a call, checked and without BAML's delimiters; BadRequest if one is missing or wrong.

    `opened` are the attachments.
    """
    bound = {}
    for parameter in parameters:
        name = parameter.name
        fill = _FROM_TURN.get(name)
        if parameter.is_attached:
            bound[name] = parameter.attach(opened)
        elif fill is not None or name in turn.data:
            try:
                bound[name] = parameter.validate(turn.data[name] if fill is None else fill(turn))
            except ValidationError as error:
                problem = f"The argument `{name}` is invalid: {first_complaint(error)}."
                # neither the cause nor the complaint, which may name the user's own keys, belongs into the log
                raise BadRequest("bad_arguments", problem, detail=f"the argument `{name}` is invalid") from None
            if parameter.has_media:
                _refuse_media_url(name, bound[name])
        elif parameter.required:
            raise BadRequest("bad_arguments", f"The argument `{name}` is missing. Add it to the message's `data`.")
    return bound


def read_types(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Read the parameters of a generated method that a handler calls with arguments of its own."""
    hints = read_hints(function)
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "baml_options")]
    return tuple(
        Parameter(name, hints[name], TypeAdapter[Any](hints[name]), False, _may_hold_media(hints[name]))
        for name in names
    )


def attachments_in(value: Any) -> tuple[Attachment, ...]:
    """The attachments in an argument that a handler gave: one, or a list of some."""
    items = value if isinstance(value, list | tuple) else (value,)
    return tuple(items) if all(isinstance(item, Attachment) for item in items) else ()


def bind_given(
    parameters: tuple[Parameter, ...], given: Mapping[str, Any], opened: Mapping[Attachment, Opened] | None = None
) -> dict[str, Any]:
    """Return the arguments that a handler gave, checked and without BAML's delimiters.

    `opened` has the attachments among them. Raises ValueError that names the argument, and BadRequest of media by URL,
    which may come from a user.
    """
    bound = {}
    for parameter in parameters:
        if parameter.name not in given:
            continue
        value = given[parameter.name]
        if attached := attachments_in(value):
            value = media.values(parameter.hint, [opened[attachment] for attachment in attached] if opened else [])
            value = value if isinstance(given[parameter.name], list | tuple) else value[0]
        elif _is_history(value):
            value = _fit(value, _class_of_items(parameter.hint))
        try:
            bound[parameter.name] = parameter.adapter.validate_python(defuse_all(_to_plain(value)))
        except ValidationError as error:
            raise ValueError(f"{parameter.name}: {error.errors()[0]['msg']}") from None
        if parameter.has_media and not attached:
            _refuse_media_url(parameter.name, bound[parameter.name])
    return bound


def _is_history(value: Any) -> bool:
    """Whether a value is some of `Turn.messages`."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Message) for item in value)


def _to_plain(value: Any) -> Any:
    """A value as JSON has it, but with media as they are."""
    match value:
        case Image() | Audio() | Pdf() | Video():
            return value
        case Mapping():
            return {key: _to_plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_to_plain(item) for item in value]
    return to_jsonable_python(value)


def _class_of_items(hint: Any) -> type[BaseModel] | None:
    """The class in a type such as `list[Message]`; None if there is none."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    return next((found for part in get_args(hint) if (found := _class_of_items(part))), None)


def _may_hold_media(hint: Any, within: frozenset[Any] = frozenset()) -> bool:
    """Whether a value of this type may be media or contain some; True of a type that is not understood."""
    if get_origin(hint) is Literal or hint in within:
        return False
    if parts := get_args(hint):
        return any(_may_hold_media(part, within) for part in parts)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        fields = [field.annotation for field in hint.model_fields.values()]
        return any(_may_hold_media(field, within | {hint}) for field in fields)
    return not (isinstance(hint, type) and issubclass(hint, str | int | float | NoneType))


def complete_types(types: ModuleType) -> None:
    """Complete the classes of a generated module `types` that has recursive type aliases."""
    if not (recursive := _recursive_aliases(types)):
        return
    names = vars(types)
    for found in names.values():
        is_own = isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == types.__name__
        if is_own and not found.__pydantic_complete__:
            found.model_rebuild(force=True, raise_errors=False, _types_namespace={**names, **recursive})


def _recursive_aliases(types: ModuleType) -> dict[str, Any]:
    """The type aliases that name themselves. Any value fits them.

    BAML 0.226.3 writes `Json = Union[str, List["Json"]]`, in which pydantic would go round for ever.
    """
    named = {name: _named_in(value) for name, value in vars(types).items() if get_args(value)}
    for _ in named:  # names of names, as far as there are any
        named = {name: found.union(*(named.get(one, ()) for one in found)) for name, found in named.items()}
    return {name: Any for name, found in named.items() if name in found}


def _named_in(hint: Any) -> frozenset[str]:
    """The names in a type that are yet to be resolved."""
    if isinstance(hint, ForwardRef):
        return frozenset({hint.__forward_arg__})
    return frozenset().union(*map(_named_in, get_args(hint)))


def _fit(messages: Iterable[Message], cls: type[BaseModel] | None) -> list[dict[str, Any]]:
    """Messages for a class of a BAML function, which decides how it sees their data.

    A field `data` of type `string?` gets JSON text. One of another type gets the value where it fits, otherwise null:
    an old reply may have come from another function. Without the field, a reply that is nothing but data is JSON text.
    """
    field = cls.model_fields.get("data") if cls is not None else None
    fitted: list[dict[str, Any]] = []
    for message in messages:
        item: dict[str, Any] = {"role": message.role, "content": message.content or names_of(message.attachments)}
        text = None if message.data is None else json.dumps(message.data, ensure_ascii=False, separators=(",", ":"))
        if cls is None or field is None:
            item["content"] = item["content"] or text or ""
        elif field.annotation in (str, str | None):
            item["data"] = text
        else:
            item["data"] = message.data
            try:
                _refuse_media_url("messages", cls.model_validate(defuse_all(item)))
            except (ValidationError, BadRequest):
                item["data"] = None
        fitted.append(item)
    return fitted


def names_of(attachments: Iterable[Attachment]) -> str:
    """What stands for a question that has no text."""
    return " ".join(f"[{attachment.name}]" for attachment in attachments)


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
