"""Decodes pgoutput, the logical replication format of Postgres (protocol version 1). Pure, no I/O.

Layout: "Logical Replication Message Formats" in the Postgres 18 manual.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Action = Literal["INSERT", "UPDATE", "DELETE"]
POSTGRES_EPOCH = 946_684_800  # 2000-01-01T00:00:00Z in seconds of Unix time


class Unchanged(Enum):
    """A TOASTed value that an UPDATE did not change; Postgres does not send it."""

    TOAST = "unchanged"


Value = str | None | Unchanged
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a replicated table. `key` is true if it is part of the replica identity."""

    name: str
    type_oid: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A replicated table at the time of the change. `identity` is pg_class.relreplident."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A row change. `old` is the replica identity (other columns None), if Postgres sent it."""

    action: Action
    relation: Relation
    new: Row | None
    old: Row | None


@dataclass(frozen=True, slots=True)
class Begin:
    """The start of a committed transaction. `committed_at` is a Unix time in microseconds."""

    committed_at: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction. `end` is the WAL position after it."""

    end: int


class Decoder:
    """Decodes the messages of one replication stream. It keeps the table definitions that the stream announces."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}

    def decode(self, data: bytes) -> Begin | Commit | Change | None:
        """Decode a message. Returns None for messages that are not needed (types, origins, truncates)."""
        match data[0]:
            case 0x49:  # I: new tuple
                new, _ = _row(data, 6)
                return Change("INSERT", self._relation(data), new, None)
            case 0x55:  # U: optionally the old key (K) or old row (O), then the new tuple (N)
                old: Row | None = None
                at = 5
                if data[at] != 0x4E:
                    old, at = _row(data, at + 1)
                new, _ = _row(data, at + 1)
                return Change("UPDATE", self._relation(data), new, old)
            case 0x44:  # D: old key or old row
                old, _ = _row(data, 6)
                return Change("DELETE", self._relation(data), None, old)
            case 0x42:  # B
                (committed_at,) = struct.unpack_from(">q", data, 9)
                return Begin(committed_at + POSTGRES_EPOCH * 1_000_000)
            case 0x43:  # C
                (end,) = struct.unpack_from(">Q", data, 10)
                return Commit(end)
            case 0x52:  # R
                self._learn(data)
        return None

    def _relation(self, data: bytes) -> Relation:
        (oid,) = struct.unpack_from(">I", data, 1)
        return self._relations[oid]

    def _learn(self, data: bytes) -> None:
        (oid,) = struct.unpack_from(">I", data, 1)
        schema, at = _string(data, 5)
        table, at = _string(data, at)
        identity = chr(data[at])
        (count,) = struct.unpack_from(">H", data, at + 1)
        at += 3
        columns: list[Column] = []
        for _ in range(count):
            key = bool(data[at] & 1)
            name, at = _string(data, at + 1)
            (type_oid,) = struct.unpack_from(">I", data, at)
            columns.append(Column(name, type_oid, key))
            at += 8  # the type and its modifier
        # An empty schema means pg_catalog.
        self._relations[oid] = Relation(oid, schema or "pg_catalog", table, identity, tuple(columns))


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def _row(data: bytes, at: int) -> tuple[Row, int]:
    (count,) = struct.unpack_from(">H", data, at)
    at += 2
    values: list[Value] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t: text
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
            values.append(data[at : at + length].decode())
            at += length
        else:  # n: null, u: unchanged
            values.append(None if kind == 0x6E else Unchanged.TOAST)
    return tuple(values), at
