"""Builds the payload of a row change. Pure, no I/O; the format is that of Realtime v2.129.8, as recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from devstack.realtime.protocol import dump
from devstack.realtime.rows import Rendered, Table

MAX_RECORD_BYTES = 1024 * 1024
MAX_VALUE_BYTES = 64  # longer values are omitted if the record is too large


def payload(table: Table, rendered: Rendered, stamp: str, role: str, columns: Collection[str] | None) -> str:
    """Return a change as JSON text, for a role and a selection of columns (None: all).

    Rows over 1 MiB include only their short values. `stamp` is the commit time.
    """
    readable = [
        column
        for column in table.columns
        if role in column.readers and (columns is None or column.primary or column.name in columns)
    ]
    allowed = {column.name for column in readable}
    change = rendered.change
    too_large = _size(rendered.record) + (_size(rendered.old) if change.old else 0) > MAX_RECORD_BYTES

    def record(values: Mapping[str, str | None], names: Collection[str]) -> str:
        kept = {
            name: value
            for name, value in values.items()
            if name in names and (not too_large or (value is not None and len(value.encode()) <= MAX_VALUE_BYTES))
        }
        return _object(kept)

    parts = {"table": dump(change.relation.table), "type": dump(change.action)}
    if change.action != "DELETE":
        parts["record"] = record(rendered.record, allowed)
    parts["columns"] = dump([{"name": column.name, "type": column.type_name} for column in readable])
    parts["errors"] = dump(["Error 413: Payload Too Large"] if too_large else None)
    parts["schema"] = dump(change.relation.schema)
    parts["commit_timestamp"] = dump(stamp)
    if change.action == "UPDATE":
        parts["old_record"] = record(rendered.old, allowed)
    elif change.action == "DELETE":
        # Policies cannot be checked for a deleted row, so with row level security only its key is sent.
        primary = {column.name for column in table.key}
        parts["old_record"] = record(rendered.old, allowed & primary if table.secured else allowed)
    return _join(parts)


def error_payload(rendered: Rendered, error: str) -> str:
    """Return the payload that replaces a change which the subscriber may not read."""
    change = rendered.change
    parts = {
        "table": dump(change.relation.table),
        "type": dump(change.action),
        "record": "{}",
        "columns": "[]",
        "errors": dump([error]),
        "schema": dump(change.relation.schema),
        "commit_timestamp": "null",
    }
    if change.action == "UPDATE":
        parts["old_record"] = "{}"
    return _join(parts)


def _size(values: Mapping[str, str | None]) -> int:
    return sum(len(name) + len((value or "").encode()) + 64 for name, value in values.items())


def _object(values: Mapping[str, str | None]) -> str:
    # jsonb order: shorter names first.
    ordered = sorted(values, key=lambda name: (len(name.encode()), name.encode()))
    return _join({name: values[name] or "null" for name in ordered})


def _join(parts: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{dump(name)}:{value}" for name, value in parts.items()) + "}"
