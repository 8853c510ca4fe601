"""The catalogue: a worker that starts describes its functions, and users read them."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge.model import Description
from bridge.store import Store
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working

HANDLERS = "tests.support.handlers"
WHOLE = Description(
    "Whole",
    "A title",
    "What it does",
    {"type": "object", "properties": {"n": {"type": "integer"}}},
    {"type": "string"},
    ("Why?", "Say “é”\\n."),
    reads_files=True,
    accepts=("image/png", "text/plain"),
)
# a title must not become an instruction to a terminal, turn the direction of the page's text, or hide
UNSEEN = "\x01\x1b\x7f\x9b\u200b\u200e\u2028\u202e\u2066\ufeff\n\t"


@pytest.fixture
async def store(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> AsyncIterator[Store]:
    store = await Store.open(worker_settings(environment), "catalogue")
    yield store
    await store.close()
    await db.execute("delete from public.functions")


async def row_of(user: Person, name: str) -> dict[str, Any]:
    (row,) = await user.rows("functions", name=name)
    return {key: value for key, value in row.items() if key != "updated_at"}


async def test_worker_describes_its_functions(environment: dict[str, str], user: Person) -> None:
    async with working(environment, handlers=HANDLERS, functions="Code,Title,Loud"):

        async def are_described() -> bool:
            return {"Code", "Loud"} <= {row["name"] for row in await user.rows("functions")}

        await until(are_described, within=20)
    code, loud = await row_of(user, "Code"), await row_of(user, "Loud")
    assert list(code.pop("result")["properties"]) == ["reply", "files"]
    assert code == {
        "name": "Code",
        "title": None,
        "description": "Replies with text and code files",
        "parameters": None,
        "suggestions": [
            "Write a Fibonacci generator in Python.",
            "Write a notes table in SQL, private to its owner.",
            "Write a debounce function in TypeScript.",
        ],
        "reads_files": True,
        "accepts": [],
    }
    assert loud == {
        "name": "Loud",
        "title": "Loud words",
        "description": "Yield text, a structured value and a file.",
        "parameters": {"type": "object", "properties": {"exclamation": {"type": "boolean", "default": False}}},
        "result": None,
        "suggestions": ["good morning"],
        "reads_files": False,
        "accepts": [],
    }
    assert await user.rows("functions", name="Title") == []  # internal


async def test_order_of_fields_survives_the_database(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    names = [f"field{n * 7 % 11}" * (n % 3 + 1) for n in range(11)]
    other = Description("Other")
    for ordered in (names, names[::-1]):
        schema: dict[str, Any] = {"properties": {name: {} for name in ordered}}
        await store.describe([Description("Ordered", parameters=schema, result=schema), other])
        row = await row_of(user, "Ordered")
        assert list(row["result"]["properties"]) == list(row["parameters"]["properties"]) == ordered
    # what nobody has known for a day is forgotten at the next start
    await db.execute("update public.functions set updated_at = now() - interval '2 days'")
    await store.describe([other])
    assert [row["name"] for row in await user.rows("functions") if row["name"] in ("Ordered", "Other")] == ["Other"]


async def test_older_worker_changes_only_the_result(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    await store.describe([WHOLE])
    whole = await row_of(user, "Whole")
    assert (whole["title"], whole["suggestions"], whole["reads_files"]) == ("A title", list(WHOLE.suggestions), True)
    assert whole["accepts"] == list(WHOLE.accepts)
    await describe(db, '[{"name": "Whole", "result": {"type": "integer"}}]')
    assert await row_of(user, "Whole") == {**whole, "result": {"type": "integer"}}
    await describe(db, '[{"name": "Whole", "result": null}, {"name": "New", "result": {}}]')
    assert await row_of(user, "Whole") == {**whole, "result": None}
    assert (await row_of(user, "New"))["suggestions"] == []
    await store.describe([Description("Whole")])  # a newer one says that there is nothing any more
    assert await row_of(user, "Whole") == {
        **dict.fromkeys(whole), "name": "Whole", "suggestions": [], "reads_files": False, "accepts": [],
    }  # fmt: skip


async def test_function_that_became_internal_is_removed(store: Store, user: Person) -> None:
    await store.describe([WHOLE, Description("Other")])
    await store.describe([replace(WHOLE, is_internal=True)])
    assert [row["name"] for row in await user.rows("functions") if row["name"] in ("Whole", "Other")] == ["Other"]


async def test_what_a_worker_bounds_is_within_the_bounds_of_the_database(store: Store, user: Person) -> None:
    rng = random.Random(7)
    alphabet = ["a", " ", "é", "漢", "\U0001f600", "\ud800", "\0", '"', "\\", "\\u001b", *UNSEEN]

    def text(most: int) -> str:
        return "".join(rng.choices(alphabet, k=rng.randrange(most)))

    def schema() -> dict[str, Any]:
        names = [f"f{n}" if rng.random() < 0.9 else text(6) for n in range(rng.choice((1, 3, 2000)))]
        return {"properties": {name: {"enum": ["é" * rng.choice((1, 9, 20))]} for name in names}}

    hostile = [
        Description(
            f"Hostile{n}", f"t{text(300)}", f"d{text(1500)}", schema(), schema(), [f"s{text(500)}" for _ in range(12)]
        )
        for n in range(150)
    ]
    await store.describe(hostile)
    rows = {row["name"]: row for row in await user.rows("functions") if row["name"].startswith("Hostile")}
    assert len(rows) == len(hostile)
    for row in rows.values():  # nothing was left out by the database
        assert row["title"].startswith("t")
        assert row["description"].startswith("d")
        assert len(row["suggestions"]) == 8
        shown = "".join([row["title"], row["description"], *row["suggestions"]])
        assert not set(shown) & set(UNSEEN)
    assert {row["result"] is None for row in rows.values()} == {True, False}


@pytest.mark.parametrize(
    ("hostile", "kept"),
    [
        ('"title": "a\\u001bb"', None),
        ('"title": "%s"' % ("x" * 300), None),
        ('"title": "\\u202e"', None),
        ('"title": "a", "description": "%s"' % ("x" * 1100), None),
        ('"title": "a", "description": "\\u2028"', None),
        ('"title": "a", "suggestions": ["a\\nb"]', None),
        ('"title": "a", "suggestions": ["\\\\\\u001b"]', None),
        ('"title": "a", "suggestions": ["\\u200b"]', None),
        ('"title": "a", "suggestions": [{}]', None),
        ('"title": "a", "suggestions": {"a": 1}', None),
        ('"title": "a", "suggestions": ["", "", "", "", "", "", "", "", ""]', None),
        ('"title": "a", "suggestions": ["%s"]' % ("x" * 9000), None),
        ('"title": "a", "parameters": {"a": "\\u0007"}', None),
        ('"title": "a", "parameters": {"\\u202e": 1}', None),
        ('"title": "a", "parameters": {"a": "%s"}' % ("x" * 70_000), None),
        ('"title": "a", "result": {"a": "\\u009b"}', None),
        ('"result": {"a": "%s"}' % ("x" * 70_000), None),
        ('"title": "a", "reads_files": "perhaps"', None),
        ('"title": "a", "suggestions": ["\\\\n"], "parameters": {"a": "\\\\u001b \\n"}', "a"),  # no control character
    ],
)
async def test_database_keeps_nothing_that_breaks_a_bound(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row], hostile: str, kept: str | None
) -> None:
    await describe(db, f'[{{"name": "Whole", {hostile}}}, {{"name": "Beside", "title": "b"}}]')
    row = await row_of(user, "Whole")
    assert row["title"] == kept
    if kept is None:
        assert (row["description"], row["parameters"], row["result"], row["suggestions"]) == (None, None, None, [])
    assert (await row_of(user, "Beside"))["title"] == "b"  # the others of its batch are kept


async def test_null_character_is_refused(user: Person, db: psycopg.AsyncConnection[Row]) -> None:
    for hostile in ('"title": "\\u0000"', '"result": {"a": "\\u0000"}'):
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            await describe(db, f'[{{"name": "Whole", {hostile}}}]')
    assert await user.rows("functions", name="Whole") == []


async def test_name_that_cannot_be_shown_is_left_out(
    store: Store, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    names = '[{"name": "a\\u001b"}, {"name": "\\u202e", "title": ""}, {"name": "%s"}, {"name": ""}, {}]' % ("n" * 200)
    await describe(db, names)
    await store.describe([Description("b\x1b"), Description("n" * 200), Description(""), Description("Fine")])
    assert [row["name"] for row in await user.rows("functions")] == ["Fine"]


async def describe(db: psycopg.AsyncConnection[Row], functions: str) -> None:
    """Call the function with this JSON, as a worker that this repository does not know may do."""
    await db.execute("select public.bridge_describe(%s::json)", (functions,))


async def test_users_cannot_write_the_catalogue(user: Person) -> None:
    table = user.client.table("functions")
    for request in (
        table.insert({"name": "Mine"}),
        table.update({"result": None}).neq("name", ""),
        table.update({"title": "Mine"}).neq("name", ""),
        table.delete().neq("name", ""),
    ):
        with pytest.raises(APIError) as error:
            await request.execute()
        assert error.value.code == "42501"
    with pytest.raises(APIError):
        await user.client.rpc("bridge_describe", {"functions": []}).execute()
