"""Listings of a bucket: the objects and folders below a prefix. Work for `Database.run`."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from devstack.pool import Connection
from devstack.storage import errors
from devstack.storage.objects import Row, rows

# What is below a prefix, and what of it is in a folder there: `folder` ends with the first slash after the prefix.
_BELOW = """
    select *, case when strpos(rest, '/') > 0 then left(name, length({prefix}) + strpos(rest, '/')) end as folder
    from (select id, name, created_at, updated_at, last_accessed_at, metadata,
                 substr(name, length({prefix}) + 1) as rest
          from storage.objects where bucket_id = %(bucket)s and {matches}) as matching
"""


async def search(
    connection: Connection,
    bucket: str,
    *,
    prefix: str,
    search: str,
    limit: int,
    offset: int,
    column: str,
    descending: bool,
) -> list[Row]:
    """Return the objects in the folder `prefix` whose name begins with `search`, whatever the case; and the folders.

    Names are relative to the folder. A folder has a name and nothing else. Sorted by another column than the name,
    folders come first.
    """
    below = _BELOW.format(
        prefix="(%(prefix)s || %(search)s)", matches="starts_with(lower(name), lower(%(prefix)s || %(search)s))"
    )
    direction = "desc" if descending else "asc"
    order = f"sorted {direction}"
    if column != "name":
        order = f"is_object, {column} {direction}, {order}"
    query = f"""
        with below as ({below}), entries as (
            select rtrim(min(folder), '/') as full_name, null::uuid as id, null::timestamptz as updated_at,
                   null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata,
                   lower(folder) collate "C" as sorted, false as is_object
            from below where folder is not null group by lower(folder)
            union all
            select name, id, updated_at, created_at, last_accessed_at, metadata, lower(name) collate "C", true
            from below where folder is null)
        select substr(full_name, length(%(prefix)s) + 1) as name, id, updated_at, created_at, last_accessed_at, metadata
        from entries order by {order} limit %(limit)s offset %(offset)s
    """
    values = {"bucket": bucket, "prefix": prefix, "search": search, "limit": limit, "offset": offset}
    return await rows(connection, query, values)


@dataclass(frozen=True, slots=True)
class Page:
    """Where the next page begins: after this name, and after this value of the column that it is sorted by."""

    name: str
    value: str

    def cursor(self) -> str:
        """The text for the client."""
        return base64.urlsafe_b64encode(json.dumps([self.name, self.value]).encode()).decode()

    @staticmethod
    def parse(cursor: str) -> Page:
        """Read the text. Raises StorageError if it is not one of ours."""
        try:
            name, value = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        except (ValueError, TypeError) as error:
            raise errors.no_content("Invalid Parameter continuation token") from error
        return Page(str(name), str(value))


async def page(
    connection: Connection,
    bucket: str,
    *,
    prefix: str,
    with_folders: bool,
    limit: int,
    after: Page | None,
    column: str,
    descending: bool,
) -> dict[str, Any]:
    """Return a page of the objects whose name begins with `prefix`; `with_folders` gathers those in a folder below it.

    The result has `folders`, `objects`, `hasNext` and, if there is more, `nextCursor`.
    """
    below = _BELOW.format(prefix="%(prefix)s", matches="starts_with(name, %(prefix)s)")
    direction, beyond = ("desc", "<") if descending else ("asc", ">")
    value = "''" if column == "name" else f"to_char({column} at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
    query = f"""
        with below as ({below}), entries as (
            select null::uuid as id, folder as name, min(created_at) as updated_at, min(created_at) as created_at,
                   null::timestamptz as last_accessed_at, null::jsonb as metadata
            from below where folder is not null and %(with_folders)s group by folder
            union all
            select id, name, updated_at, created_at, last_accessed_at, metadata
            from below where folder is null or not %(with_folders)s)
        select * from (select *, {value} collate "C" as sorted from entries) as valued
        where %(first)s or (sorted, name collate "C") {beyond} (%(value)s, %(name)s)
        order by sorted {direction}, name collate "C" {direction} limit %(limit)s
    """
    values = {
        **{"bucket": bucket, "prefix": prefix, "with_folders": with_folders, "limit": limit + 1},
        **{"first": after is None, "name": after.name if after else "", "value": after.value if after else ""},
    }
    found = await rows(connection, query, values)
    shown = found[:limit]
    result: dict[str, Any] = {"hasNext": len(found) > limit, "folders": [], "objects": []}
    if len(found) > limit:
        result["nextCursor"] = Page(shown[-1]["name"], shown[-1]["sorted"]).cursor()
    for row in shown:
        del row["sorted"]
        if with_folders:
            row["key"] = row["name"][prefix.rfind("/") + 1 :].rstrip("/")
        result["objects" if row["id"] else "folders"].append(row)
    return result
