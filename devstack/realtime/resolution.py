"""Finds the tables that match a binding, and validates its filters as the hosted database does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import psycopg
from psycopg import sql

from devstack.pool import Connection
from devstack.realtime.access import Credential
from devstack.realtime.binding import IS_VALUES, Binding, BindingRefused, Filter
from devstack.realtime.rows import condition, describe

MAX_IN_VALUES = 100


async def resolve(
    connection: Connection, publication: str, bindings: Sequence[tuple[int, Binding]], credential: Credential
) -> list[frozenset[int]]:
    """Return the OIDs of the published tables that match each binding. Raises BindingRefused for an invalid one."""
    cursor = await connection.execute(
        "select p.schemaname::text, p.tablename::text, c.oid::int8"
        " from pg_catalog.pg_publication_tables p"
        " join pg_catalog.pg_namespace n on n.nspname = p.schemaname"
        " join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = p.tablename"
        " where p.pubname = %s",
        (publication,),
    )
    published = cast("list[tuple[str, str, int]]", await cursor.fetchall())
    resolved: list[frozenset[int]] = []
    for _, binding in bindings:
        oids = [
            oid for schema, table, oid in published if binding.schema in ("*", schema) and binding.table in ("*", table)
        ]
        if not oids:
            raise BindingRefused(
                "Unable to subscribe to changes with given parameters. "
                f"Please check Realtime is enabled for the given connect parameters: [{binding}]"
            )
        try:
            await _check(connection, binding, oids, credential.role)
        except psycopg.OperationalError:
            raise
        except (psycopg.Error, _Invalid) as error:
            raise BindingRefused(
                "Unable to subscribe to changes with given parameters. An exception happened so please check "
                f"your connect parameters: [{binding}]. Exception: {_exception(error)}"
            ) from error
        resolved.append(frozenset(oids))
    return resolved


class _Invalid(Exception):
    """An error that the hosted database raises with `raise exception` when it validates a subscription."""


async def _check(connection: Connection, binding: Binding, oids: Sequence[int], role: str) -> None:
    """Raise psycopg.Error or _Invalid if the filters or selected columns do not fit one of the tables."""
    await connection.execute("select %s::regrole", (sql.Identifier(role).as_string(connection),))
    if not binding.filters and binding.columns is None:
        return
    for table in (await describe(connection, oids, [role])).values():
        readable = {column.name: column for column in table.columns if role in column.readers}
        for filter_ in binding.filters:
            if filter_.column not in readable:
                raise _Invalid(f"invalid column for filter {filter_.column}")
            await _check_filter(connection, filter_, readable[filter_.column].type_sql)
        for name in binding.columns or ():
            if name not in readable:
                raise _Invalid(f"invalid column for select {name}")


async def _check_filter(connection: Connection, filter_: Filter, type_sql: str) -> None:
    if filter_.operator == "is":
        if filter_.value not in IS_VALUES:
            raise _Invalid("invalid value for is filter: must be null, true, false, or unknown")
        if filter_.value != "null" and type_sql != "boolean":
            raise _Invalid(f"is {filter_.value} filter requires a boolean column, got {type_sql}")
        return
    test, values = condition(filter_, sql.SQL("null::{}").format(sql.SQL(type_sql)), type_sql)
    try:
        await connection.execute(sql.SQL("select {}").format(test), values)
        if filter_.operator in ("match", "imatch"):
            await connection.execute("select '' ~ %s::text", (filter_.value,))
    except psycopg.errors.UndefinedFunction as error:
        raise _Invalid(f"operator {filter_.operator} requires a text-compatible column type, got {type_sql}") from error
    except psycopg.errors.InvalidRegularExpression as error:
        raise _Invalid(
            f"invalid regular expression for {filter_.operator} filter: {error.diag.message_primary}"
        ) from error
    if filter_.operator == "in":
        counted = await connection.execute("select cardinality(%s::text[])", (filter_.value,))
        row = cast("tuple[Any, ...]", await counted.fetchone())
        if row[0] > MAX_IN_VALUES:
            raise _Invalid("too many values for `in` filter. Maximum 100")


_CONDITIONS = {
    "22P02": "invalid_text_representation",
    "42704": "undefined_object",
    "42883": "undefined_function",
    "22007": "invalid_datetime_format",
    "22008": "datetime_field_overflow",
    "22003": "numeric_value_out_of_range",
}


def _exception(error: psycopg.Error | _Invalid) -> str:
    if isinstance(error, _Invalid):
        return f"ERROR P0001 (raise_exception) {error}"
    state = error.sqlstate or "XX000"
    return f"ERROR {state} ({_CONDITIONS.get(state, 'error')}) {error.diag.message_primary}"
