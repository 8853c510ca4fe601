"""The fields of a structured result are shown in the order of their class, not in that of `jsonb`."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from playwright.async_api import Locator, expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import FUNCTIONS, Tab
from tests.support.database import Row
from tests.support.workers import working

TEXT: dict[str, Any] = {"type": "string"}


def cls(*names: str, **others: Any) -> dict[str, Any]:
    """The schema of a class with these fields."""
    return {"type": "object", "properties": {name: others.get(name, TEXT) for name in names}}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def null_or(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


NODE = {"zone": "top", "a": "1", "child": {"zone": "below", "a": "2", "b": "3"}}
CASES: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "flat": (cls("zebra", "name", "a"), {"a": "1", "name": "2", "zebra": "3"}, ["Zebra", "Name", "A"]),
    "reply and files are elsewhere": (
        cls("zebra", "reply", "files", "a"),
        {"a": "1", "zebra": "2", "files": [], "reply": "text"},
        ["Zebra", "A"],
    ),
    "field that the class lacks comes last": (
        cls("zebra", "yak"),
        {"a": "1", "yak": "2", "zebra": "3"},
        ["Zebra", "Yak", "A"],
    ),
    "nested class": (
        {**cls("where", "at", where=ref("Place")), "$defs": {"Place": cls("town", "no")}},
        {"at": "1", "where": {"no": "2", "town": "3"}},
        ["Where", "Town", "No", "At"],
    ),
    "optional class": (
        {**cls("where", "at", where=null_or(ref("Place"))), "$defs": {"Place": cls("town", "no")}},
        {"at": "1", "where": {"no": "2", "town": "3"}},
        ["Where", "Town", "No", "At"],
    ),
    "class that contains itself": (
        {"$defs": {"Node": cls("zone", "child", "b", "a", child=null_or(ref("Node")))}, **ref("Node")},
        NODE,
        ["Zone", "Child", "Zone", "B", "A", "A"],
    ),
    "union of classes": (
        {"anyOf": [ref("A"), ref("B")], "$defs": {"A": cls("a", "b"), "B": cls("z", "y", "b")}},
        {"b": "1", "y": "2", "z": "3"},
        ["Z", "Y", "B"],
    ),
    "map of classes": (
        {
            **cls("by", by={"type": "object", "additionalProperties": ref("Place")}),
            "$defs": {"Place": cls("town", "no")},
        },
        {"by": {"x": {"no": "2", "town": "3"}}},
        ["By", "X", "Town", "No"],
    ),
    "names of the language": (
        cls("toString", "constructor", "a", "__proto__"),
        {"a": "1", "constructor": "2", "toString": "3"},
        ["To string", "Constructor", "A"],
    ),
    "reference without an end": (
        {"$defs": {"A": {"anyOf": [ref("A"), ref("B")]}, "B": ref("A")}, **ref("A")},
        {"bb": "1", "a": "2"},
        ["A", "Bb"],
    ),
    "no schema": ({}, {"bb": "1", "a": "2"}, ["A", "Bb"]),
}
TABLE = {
    **cls("rows", rows={"type": "array", "items": {"anyOf": [ref("Row"), ref("Other")]}}),
    "$defs": {"Row": cls("zone", "mid", "a"), "Other": cls("zone", "extra")},
}


async def shown(tab: Tab, db: psycopg.AsyncConnection[Row], schema: Any, data: Any) -> Locator:
    """Open a conversation with this result of a function with this schema."""
    await db.execute(
        "insert into public.functions (name, result) values ('Ordered', %s) "
        "on conflict (name) do update set result = excluded.result",
        (json.dumps(schema),),
    )
    await rows.show(tab, db, Conversation("Ordered", [Turn("Question?", "text", data)], function="Ordered"))
    return tab.replies.last.get_by_test_id("data")


@pytest.mark.parametrize("case", CASES)
async def test_fields_are_shown_in_the_order_of_the_class(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], tab: Tab, case: str
) -> None:
    schema, data, names = CASES[case]
    result = await shown(tab, db, schema, data)
    await tab.explained(expect(result.locator("dt")).to_have_text(names))


async def test_columns_are_shown_in_the_order_of_the_class(
    db: psycopg.AsyncConnection[Row], environment: dict[str, str], tab: Tab
) -> None:
    data = {"rows": [{"a": "1", "zone": "x"}, {"mid": "2", "zone": "y"}, {"extra": "3", "zone": "z"}]}
    result = await shown(tab, db, TABLE, data)
    await tab.explained(expect(result.get_by_role("columnheader")).to_have_text(["Zone", "Mid", "A", "Extra"]))


async def test_result_of_worker_is_shown_in_the_order_of_its_class(environment: dict[str, str], tab: Tab) -> None:
    option = {"cons": ["c"], "verdict": "v", "pros": ["p"], "price": 1, "name": "n"}
    async with working(environment, functions=FUNCTIONS):
        await tab.start("Compare")
        await tab.say(f"[[json={json.dumps({'options': [option], 'reply': 'Here.'})} delay=0.02]]")
        columns = tab.replies.last.get_by_role("columnheader")
        await tab.explained(expect(columns.first).to_be_visible())
        await expect(columns.first).to_have_text("Name")  # while it streams
        await tab.until_reply("done")
        order = ["Name", "Price", "Pros", "Cons", "Verdict"]
        await tab.explained(expect(columns).to_have_text(order))
        await tab.page.reload()
        await tab.explained(expect(columns).to_have_text(order))
