"""Evaluates batches of row changes in Postgres: renders values as JSON, applies filters with the column's own
operators, and checks row level security by primary key under the subscriber's role and claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import sql

from devstack.pool import Connection
from devstack.realtime.binding import OPERATORS, Filter
from devstack.realtime.pgoutput import Change, Relation, Row, Unchanged

FLOATS = {700, 701, 1700}  # float4, float8, numeric: JSON has no NaN and no infinity
NOT_NUMBERS = {"NaN", "Infinity", "-Infinity"}
BYTEA = 17


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column in the current catalog. `type_sql` is its type in SQL; `readers` are the roles that may select it."""

    name: str
    type_name: str
    type_sql: str
    primary: bool
    readers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table in the current catalog. `secured` is true if row level security is enabled."""

    oid: int
    name: sql.Composable
    secured: bool
    columns: tuple[TableColumn, ...]

    @property
    def key(self) -> tuple[TableColumn, ...]:
        """The columns of the primary key."""
        return tuple(column for column in self.columns if column.primary)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A change with its values as JSON text by column (None is null).

    `met` are the filters that the row meets, `present` the columns that the change contains.
    """

    change: Change
    record: Mapping[str, str | None]
    old: Mapping[str, str | None]
    met: frozenset[Filter]
    present: frozenset[str]

    def matches(self, filters: Iterable[Filter]) -> bool:
        """Return whether all filters are met, ignoring those on columns that the change does not contain."""
        filters = tuple(filters)
        applicable = [f for f in filters if f.column in self.present]
        return not filters or (bool(applicable) and all(f in self.met for f in applicable))


async def describe(connection: Connection, oids: Sequence[int], roles: Sequence[str]) -> dict[int, Table]:
    """Return the tables with these OIDs that still exist. `readers` of a column are limited to `roles`."""
    cursor = await connection.execute(
        """
        select c.oid::int8, n.nspname, c.relname, c.relrowsecurity, a.attname, t.typname,
            pg_catalog.format_type(a.atttypid, -1),
            exists (
                select from pg_catalog.pg_constraint k
                where k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey)
            ),
            array(
                select r.rolname::text from pg_catalog.pg_roles r
                where r.rolname = any (%s::name[])
                    and pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')
            )
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_catalog.pg_type t on t.oid = a.atttypid
        where c.oid = any (%s::oid[])
        order by c.oid, a.attnum
        """,
        (list(roles), list(oids)),
    )
    tables: dict[int, Table] = {}
    for oid, schema, name, secured, column, type_name, type_sql, primary, readers in cast(
        "list[tuple[Any, ...]]", await cursor.fetchall()
    ):
        entry = TableColumn(column, type_name, type_sql, primary, frozenset(readers))
        known = tables.get(oid)
        if known is None:
            tables[oid] = Table(oid, _name(schema, name), secured, (entry,))
        else:
            tables[oid] = Table(oid, known.name, secured, (*known.columns, entry))
    return tables


def condition(filter_: Filter, operand: sql.Composable, type_sql: str) -> tuple[sql.Composable, list[str]]:
    """Return an SQL expression that tests `operand` against the filter, and its parameters.

    Null meets only `is` and `isdistinct`.
    """
    type_ = _verbatim(type_sql)  # from format_type, which quotes where necessary
    values = [filter_.value]
    if filter_.operator == "is":
        # validated at subscription: one of four keywords
        test = sql.SQL("{} is {}").format(operand, _verbatim(filter_.value))
        values = []
    elif filter_.operator == "in":
        test = sql.SQL("{} = any (%s::{}[])").format(operand, type_)
    else:
        test = sql.SQL("{} {} %s::{}").format(operand, _verbatim(OPERATORS[filter_.operator]), type_)
    if filter_.negated:
        test = sql.SQL("not ({})").format(test)
    return sql.SQL("coalesce({}, false)").format(test), values


def _name(*parts: str) -> sql.Composable:
    """Return an identifier for a query with parameters, in which percent signs must be doubled."""
    return _verbatim(sql.Identifier(*parts).as_string().replace("%", "%%"))


def _verbatim(text: str) -> sql.SQL:
    return sql.SQL(text)


async def render(
    connection: Connection, table: Table, changes: Sequence[Change], filters: Sequence[Filter]
) -> list[Rendered]:
    """Render the changes of one table, with one query for each table definition among them.

    Raises psycopg.Error if the values no longer fit the table's types.
    """
    rendered: list[Rendered] = []
    start = 0
    for at in range(1, len(changes) + 1):
        if at == len(changes) or changes[at].relation is not changes[start].relation:
            part = changes[start:at]
            rendered += await _render(connection, table, part[0].relation, part, filters)
            start = at
    return rendered


async def _render(
    connection: Connection,
    table: Table,
    relation: Relation,
    changes: Sequence[Change],
    filters: Sequence[Filter],
) -> list[Rendered]:
    known = {column.name: column for column in table.columns}
    width = len(relation.columns)
    olds = [_identity(change) for change in changes]
    news: list[Row] = [change.new or old for change, old in zip(changes, olds, strict=True)]
    with_old = any(change.action == "UPDATE" for change in changes)

    arrays: list[list[str | None]] = []
    selected: list[sql.Composable] = []
    names: list[sql.Composable] = []
    operands: dict[str, tuple[sql.Composable, str]] = {}
    for prefix, rows in (("n", news), ("o", olds)):
        if prefix == "o" and not with_old:
            break
        for index, column in enumerate(relation.columns):
            name = sql.Identifier(f"{prefix}{index}")
            names.append(name)
            arrays.append([_text(row[index], column.type_oid) for row in rows])
            current = known.get(column.name)
            type_sql = current.type_sql if current else "text"
            typed = sql.SQL("{}::{}").format(name, _verbatim(type_sql))
            value = name if column.type_oid == BYTEA else typed
            selected.append(sql.SQL("to_jsonb({})::text").format(value))
            if prefix == "n" and current:
                operands[column.name] = (typed, type_sql)
    usable = [f for f in filters if f.column in operands]
    parameters: list[Any] = []
    for filter_ in usable:
        test, values = condition(filter_, *operands[filter_.column])
        selected.append(test)
        parameters += values
    query = sql.SQL("select {} from rows from ({}) with ordinality as r({}, i) order by i").format(
        sql.SQL(", ").join(selected),
        sql.SQL(", ").join([sql.SQL("unnest(%s::text[])")] * len(arrays)),
        sql.SQL(", ").join(names),
    )
    cursor = await connection.execute(query, [*parameters, *arrays], prepare=False)
    results = cast("list[tuple[Any, ...]]", await cursor.fetchall())
    rendered = []
    for change, new, old, result in zip(changes, news, olds, results, strict=True):
        old_values = result[width : 2 * width] if with_old else result[:width]
        old_record = _record(relation, old, old_values) if change.action != "INSERT" else {}
        new_record = _record(relation, new, result[:width]) if change.action != "DELETE" else {}
        if change.action == "UPDATE":
            for index, column in enumerate(relation.columns):
                if new[index] is Unchanged.TOAST and change.old is not None and relation.identity == "f":
                    new_record[column.name] = old_record.get(column.name)
        verdicts = result[len(arrays) :]
        rendered.append(
            Rendered(
                change,
                new_record,
                old_record,
                frozenset(f for f, met in zip(usable, verdicts, strict=True) if met),
                frozenset(new_record if change.action != "DELETE" else old_record),
            )
        )
    return rendered


def _identity(change: Change) -> Row:
    """Return the old row: the one that Postgres sent, otherwise the new row's key, which did not change."""
    columns = change.relation.columns
    if change.old is not None:
        if change.relation.identity == "f":
            return change.old
        return tuple(
            value if column.key else Unchanged.TOAST for column, value in zip(columns, change.old, strict=True)
        )
    if change.new is None or change.action != "UPDATE":
        return tuple(Unchanged.TOAST for _ in columns)
    return tuple(value if column.key else Unchanged.TOAST for column, value in zip(columns, change.new, strict=True))


def _text(value: str | Unchanged | None, type_oid: int) -> str | None:
    if value is None or isinstance(value, Unchanged):
        return None
    if type_oid in FLOATS and value in NOT_NUMBERS:
        return None
    return value[2:] if type_oid == BYTEA else value


def _record(relation: Relation, row: Row, values: Sequence[str | None]) -> dict[str, str | None]:
    return {
        column.name: value
        for column, value, raw in zip(relation.columns, values, row, strict=True)
        if raw is not Unchanged.TOAST
    }


async def visible(
    connection: Connection,
    table: Table,
    changes: Sequence[Change],
    role: str,
    claims: Sequence[str],
) -> list[set[int]]:
    """Return, for each of the claims (JSON text), the indices of the changes whose rows the role may see.

    Rows are looked up by primary key in their current state, in one transaction that is rolled back.
    """
    if not claims or role == "none":
        return [set() for _ in claims]
    at = {column.name: index for index, column in enumerate(changes[0].relation.columns)}
    keys = [column for column in table.key if column.name in at]
    arrays: list[list[str | None]] = [[] for _ in keys]
    for change in changes:
        for array, key in zip(arrays, keys, strict=True):
            value = (change.new or ())[at[key.name]]
            array.append(value if isinstance(value, str) else None)
    names = [sql.Identifier(f"k{index}") for index in range(len(keys))]
    query = sql.SQL(
        "select r.i::int4 from rows from ({}) with ordinality as r({}, i) where exists (select from {} t where {})"
    ).format(
        sql.SQL(", ").join(sql.SQL("unnest(%s::{}[])").format(_verbatim(key.type_sql)) for key in keys),
        sql.SQL(", ").join(names),
        table.name,
        sql.SQL(" and ").join(
            sql.SQL("t.{} = r.{}").format(_name(key.name), name) for key, name in zip(keys, names, strict=True)
        ),
    )
    try:
        return await _query_all(connection, query, arrays, role, claims)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        # A policy fails for one of the claims, which must not affect the others.
        return [await _query_one(connection, query, arrays, role, text) for text in claims]
    finally:
        await connection.rollback()


async def _query_all(
    connection: Connection, query: sql.Composed, arrays: Sequence[Any], role: str, claims: Sequence[str]
) -> list[set[int]]:
    cursors = []
    async with connection.pipeline():
        await connection.execute("begin")
        await connection.execute("select set_config('role', %s, true)", (role,))
        for text in claims:
            await connection.execute("select set_config('request.jwt.claims', %s, true)", (text,))
            cursors.append(await connection.execute(query, arrays))
    return [{cast(int, row[0]) - 1 for row in await cursor.fetchall()} for cursor in cursors]


async def _query_one(
    connection: Connection, query: sql.Composed, arrays: Sequence[Any], role: str, text: str
) -> set[int]:
    try:
        await connection.rollback()
        return (await _query_all(connection, query, arrays, role, [text]))[0]
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return set()
