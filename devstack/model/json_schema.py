"""Reads the JSON schemas of a request: `response_format`, and the parameters of `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .shapes import Array, Choice, Literal, Mapped, Named, Record, Scalar, Shape, Wanted

_SCALARS = {"string": "string", "integer": "int", "number": "float", "boolean": "bool", "null": "null"}
_LEVELS = 60
_ANY = Scalar("string")


def read_json_schema(schema: Any) -> Wanted:
    """Return what a JSON schema asks for. What it says beyond types, choices, sizes and bounds is left out."""
    definitions: dict[str, Shape] = {"#": _ANY}
    if not isinstance(schema, Mapping):
        return Wanted(_ANY)
    for place in ("$defs", "definitions"):
        inner = schema.get(place)
        for name, definition in inner.items() if isinstance(inner, Mapping) else ():
            definitions[f"#/{place}/{name}"] = _shape(definition, 0)
    definitions["#"] = _shape(schema, 0)
    return Wanted(definitions["#"], definitions)


def _shape(schema: Any, level: int) -> Shape:
    if not isinstance(schema, Mapping) or level > _LEVELS:
        return _ANY
    if isinstance(schema.get("$ref"), str):
        return Named(schema["$ref"])
    if "const" in schema:
        return Literal(schema["const"])
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return Choice([Literal(value) for value in schema["enum"]])
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return Choice([_shape(option, level + 1) for option in schema[word]])
    if isinstance(schema.get("allOf"), list) and schema["allOf"]:
        return _merged([_shape(part, level + 1) for part in schema["allOf"]])
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if isinstance(kind, list):
        return Choice([_shape({**schema, "type": one}, level + 1) for one in kind if isinstance(one, str)] or [_ANY])
    if kind == "object":
        return _object(schema, level)
    if kind == "array":
        return Array(
            _shape(schema.get("items"), level + 1), _count(schema, "minItems") or 0, _count(schema, "maxItems")
        )
    return _scalar(kind, schema)


def _object(schema: Mapping[str, Any], level: int) -> Shape:
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and properties:
        required = schema.get("required")
        fields = {str(name): _shape(inner, level + 1) for name, inner in properties.items()}
        return Record(fields, frozenset(fields).difference(required if isinstance(required, list) else ()))
    others = schema.get("additionalProperties")
    return Mapped(_ANY, _shape(others, level + 1)) if isinstance(others, Mapping) else Record({})


def _scalar(kind: Any, schema: Mapping[str, Any]) -> Scalar:
    name = _SCALARS.get(kind, "string") if isinstance(kind, str) else "string"
    if name == "string":
        hint = schema["format"].partition("-")[0] if isinstance(schema.get("format"), str) else ""
        return Scalar(name, _count(schema, "minLength"), _count(schema, "maxLength"), hint)
    least, most = _bound(schema, "minimum"), _bound(schema, "maximum")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    step = 1 if name == "int" else 0.5
    low = least if above is None else above + step
    high = most if below is None else below - step
    return Scalar(name, low, high)


def _merged(parts: list[Shape]) -> Shape:
    fields: dict[str, Shape] = {}
    for part in parts:
        if not isinstance(part, Record):
            return parts[0]
        fields |= part.fields
    return Record(fields)


def _count(schema: Mapping[str, Any], name: str) -> int | None:
    value = schema.get(name)
    return min(value, 1000) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _bound(schema: Mapping[str, Any], name: str) -> float | None:
    value = schema.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
