"""The types of a BAML function as JSON schemas, for frontends: a form for its arguments, the order of its result."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from bridge.baml.arguments import Parameter

# Descriptions are part of the prompt, which users do not see; titles and defaults say nothing new.
_LEFT_OUT = ("title", "description", "default")
# The keywords under which the keys are names.
_NAMED = ("properties", "$defs")
_INEXPRESSIBLE = (PydanticInvalidForJsonSchema, PydanticUserError, RecursionError)


def describe_result(hint: Any) -> Mapping[str, Any] | None:
    """Return the JSON schema of a type of the generated client; None if JSON schema cannot express it."""
    try:
        schema = TypeAdapter[Any](hint).json_schema(mode="serialization")
    except _INEXPRESSIBLE:
        return None
    described: Mapping[str, Any] = _without_prose(schema)
    return described


def describe_parameters(parameters: Iterable[Parameter]) -> Mapping[str, Any] | None:
    """Return the JSON schema of the arguments that come from a question's data; None if there are none.

    One that JSON schema cannot express may be anything.
    """
    given = [parameter for parameter in parameters if not parameter.is_filled]
    if not given:
        return None
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for parameter in given:
        try:
            schema = _without_prose(parameter.adapter.json_schema())
        except _INEXPRESSIBLE:
            schema = {}
        definitions |= schema.pop("$defs", {})
        properties[parameter.name] = schema
    required = [parameter.name for parameter in given if parameter.required]
    described = {"type": "object", "properties": properties, "required": required, "$defs": definitions}
    return {key: value for key, value in described.items() if value or key == "type"}


def _without_prose(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_prose(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        if key in _NAMED:
            kept[key] = {name: _without_prose(schema) for name, schema in item.items()}
        elif key not in _LEFT_OUT:
            kept[key] = _without_prose(item)
    return kept
