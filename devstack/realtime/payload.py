"""The payload of one change as subscribers get it. Pure, no I/O; shapes as recorded from Realtime v2.129.8."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from devstack.realtime.protocol import dump
from devstack.realtime.rows import Rendered, Table

MAX_RECORD_BYTES = 1024 * 1024
MAX_VALUE_BYTES = 64  # of a value that is still told when the record is too large


def payload(table: Table, one: Rendered, stamp: str, role: str, columns: Collection[str] | None) -> str:
    """Return the change as JSON text for a role and a selection of columns (None: all).

    A row over 1 MiB is reduced to its short values. `stamp` is the time of the commit.
    """
    shown = [
        column
        for column in table.columns
        if role in column.readers and (columns is None or column.primary or column.name in columns)
    ]
    allowed = {column.name for column in shown}
    action = one.change.action
    too_large = _size(one.record) + (_size(one.old) if one.change.old else 0) > MAX_RECORD_BYTES

    def record(values: Mapping[str, str | None], names: Collection[str]) -> str:
        kept = {
            name: value
            for name, value in values.items()
            if name in names and (not too_large or (value is not None and len(value.encode()) <= MAX_VALUE_BYTES))
        }
        return _object(kept)

    parts = {"table": dump(one.change.relation.table), "type": dump(action)}
    if action != "DELETE":
        parts["record"] = record(one.record, allowed)
    parts["columns"] = dump([{"name": column.name, "type": column.type_name} for column in shown])
    parts["errors"] = dump(["Error 413: Payload Too Large"] if too_large else None)
    parts["schema"] = dump(one.change.relation.schema)
    parts["commit_timestamp"] = dump(stamp)
    if action == "UPDATE":
        parts["old_record"] = record(one.old, allowed)
    elif action == "DELETE":
        # A deleted row cannot be checked any more: with row level security only its key is told.
        primary = {column.name for column in table.key}
        parts["old_record"] = record(one.old, allowed & primary if table.secured else allowed)
    return _join(parts)


def error_payload(one: Rendered, error: str) -> str:
    """Return what subscribers get in place of a change that cannot be shown to them."""
    parts = {
        "table": dump(one.change.relation.table),
        "type": dump(one.change.action),
        "record": "{}",
        "columns": "[]",
        "errors": dump([error]),
        "schema": dump(one.change.relation.schema),
        "commit_timestamp": "null",
    }
    if one.change.action == "UPDATE":
        parts["old_record"] = "{}"
    return _join(parts)


def _size(values: Mapping[str, str | None]) -> int:
    return sum(len(name) + len((value or "").encode()) + 64 for name, value in values.items())


def _object(values: Mapping[str, str | None]) -> str:
    # The order of jsonb: shorter names first.
    ordered = sorted(values, key=lambda name: (len(name.encode()), name.encode()))
    return _join({name: values[name] or "null" for name in ordered})


def _join(parts: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{dump(name)}:{value}" for name, value in parts.items()) + "}"
