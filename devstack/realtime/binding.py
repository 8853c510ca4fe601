"""Parses bindings, the entries of `postgres_changes` in a join. Pure, no I/O.

Filter grammar: `column=operator.value`, several separated by commas. `not.` before the operator negates it, the value
may be quoted, and `in` takes a list in parentheses. Error texts are copied from recordings of Realtime v2.129.8.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devstack.realtime.protocol import dump

OPERATORS = {
    "eq": "=",
    "neq": "!=",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "in": "= any",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
    "is": "is",
    "isdistinct": "is distinct from",
}
IS_VALUES = ("null", "true", "false", "unknown")


class BindingRefused(Exception):
    """A binding that cannot be subscribed to; the text is sent to the client."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a column. `value` is a Postgres literal, an array literal for `in`."""

    column: str
    operator: str
    value: str
    negated: bool


@dataclass(frozen=True, slots=True)
class Binding:
    """A subscription to row changes. `event` is * or an action; `columns` None means all columns."""

    event: str
    schema: str
    table: str
    filters: tuple[Filter, ...]
    columns: tuple[str, ...] | None

    def __str__(self) -> str:
        """Format the binding as the hosted server does in error texts."""
        return (
            f"event: {self.event}, schema: {self.schema}, table: {self.table}, "
            f"filters: {inspect([(f.column, f.operator, f.value, f.negated) for f in self.filters])}, "
            f"select: {inspect(None if self.columns is None else list(self.columns))}"
        )


def binding_id(params: Any) -> int:
    """Return the id of a binding: equal parameters have equal ids."""
    return zlib.crc32(dump(params).encode()) & 0x07FFFFFF


def parse(params: Any) -> Binding:
    """Parse a binding. Raises BindingRefused."""
    if not isinstance(params, Mapping):
        raise BindingRefused(_nothing_to_subscribe(params))
    columns = _columns(params)
    schema, table, text = params.get("schema"), params.get("table"), params.get("filter")
    filters: tuple[Filter, ...] = ()
    if isinstance(schema, str) and isinstance(table, str) and isinstance(text, str):
        try:
            filters = tuple(_filters(text))
        except ValueError as error:
            raise BindingRefused(f"Error parsing `filter` params: {error}") from error
    elif "filter" in params:
        raise BindingRefused(_nothing_to_subscribe(params))
    elif isinstance(schema, str) and "table" not in params:
        table = "*"
    elif isinstance(table, str) and "schema" not in params:
        schema = "public"
    if not isinstance(schema, str) or not isinstance(table, str):
        raise BindingRefused(_nothing_to_subscribe(params))
    if columns is not None and "*" in (schema, table):
        raise BindingRefused(
            "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
        )
    event = params.get("event")
    action = event.upper() if isinstance(event, str) else "*"
    return Binding(action if action in ("INSERT", "UPDATE", "DELETE") else "*", schema, table, filters, columns)


def _columns(params: Mapping[str, Any]) -> tuple[str, ...] | None:
    select = params.get("select")
    if isinstance(select, str):
        raise BindingRefused(
            'Error parsing `select` params: expected a list of column name strings, e.g. select: ["col1", "col2"]'
        )
    names = [name for name in select if isinstance(name, str)] if isinstance(select, list) else []
    return tuple(sorted(names)) or None


def _nothing_to_subscribe(params: Any) -> str:
    secret = isinstance(params, Mapping) and ("user_token" in params or "auth_token" in params)
    return "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: " + (
        "<redacted>" if secret else inspect(params)
    )


def _filters(text: str) -> list[Filter]:
    if not text.strip():
        return []
    return [_filter(segment.strip()) for segment in _split(text.strip())]


def _filter(segment: str) -> Filter:
    if not segment:
        raise ValueError("filter must not contain empty segments (check for extra commas)")
    column, equals, rest = segment.partition("=")
    if not equals:
        raise ValueError(inspect([segment]))
    negated = rest.startswith("not.")
    operator, dot, value = rest.removeprefix("not.").partition(".")
    if not dot:
        raise ValueError(inspect([operator]))
    if operator not in OPERATORS:
        raise ValueError(inspect([operator, value]))
    if operator == "in":
        if not (len(value) >= 2 and value.startswith("(") and value.endswith(")")):
            raise ValueError("`in` filter value must be wrapped by parentheses")
        return Filter(column, operator, "{" + value[1:-1] + "}", negated)
    return Filter(column, operator, _unquote(value), negated)


def _split(text: str) -> list[str]:
    """Split at commas outside quotes and parentheses."""
    segments: list[str] = []
    start = depth = 0
    quoted = escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"' and at > 0 and text[at - 1] in ".(,":
            quoted = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth = max(0, depth - 1)
        elif char == "," and depth == 0:
            segments.append(text[start:at])
            start = at + 1
    return [*segments, text[start:]]


def _unquote(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    unquoted: list[str] = []
    escaped = False
    for char in value[1:-1]:
        if escaped or char not in '\\"':
            unquoted.append(char)
            escaped = False
        elif char == '"':
            return value  # the closing quote is not at the end
        else:
            escaped = True
    return value if escaped else "".join(unquoted)


def inspect(value: Any) -> str:
    """Format a JSON value (or a tuple) in Elixir notation, as the hosted server's error texts do."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, tuple):
        return "{" + ", ".join(map(inspect, value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inspect, value)) + "]"
    if isinstance(value, Mapping):
        return "%{" + ", ".join(f"{inspect(key)} => {inspect(value[key])}" for key in sorted(value)) + "}"
    return str(value)
