"""What a BAML function returns, as a JSON schema: for frontends, which show the fields in the order of their class."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

# Descriptions are part of the prompt, which users do not see; titles and defaults say nothing new.
_LEFT_OUT = ("title", "description", "default")
# The keywords under which the keys are names.
_NAMED = ("properties", "$defs")


def describe_result(hint: Any) -> Mapping[str, Any] | None:
    """Return the JSON schema of a type of the generated client; None if JSON schema cannot express it."""
    try:
        schema = TypeAdapter[Any](hint).json_schema(mode="serialization")
    except (PydanticInvalidForJsonSchema, PydanticUserError, RecursionError):
        return None
    described: Mapping[str, Any] = _without_prose(schema)
    return described


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
