"""REST with the official Python client: tables behave as with PostgREST."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, cast

import httpx
import psycopg
import pytest
from postgrest import APIError, CountMethod
from supabase import AsyncClient

from tests.conformance.conftest import Supabase, User, differs
from tests.conformance.notes import MINIMAL, NOTES, Rows, authorized, bodies, fill, notes

NUL = rb"\u0000"
TEXTS = (
    rb'{"body": "a%sb"}',
    rb'{"body": "x", "data": {"a": [{"b": "%s"}]}}',
    rb'{"body": "x", "data": {"%s": 1}}',
    rb'{"body": "x", "data": "%s"}',
    rb'{"body": "x", "tags": ["a", "%s"]}',
)


async def test_filter_selects_rows(alice: User) -> None:
    await fill(alice)
    everything = ["alpha", "Beta", "gamma, (ray)", "delta"]
    cases: list[tuple[Any, list[str]]] = [
        (notes(alice), everything),
        (notes(alice).eq("rank", 2), ["Beta"]),
        (notes(alice).neq("rank", 2), ["alpha", "gamma, (ray)", "delta"]),
        (notes(alice).gt("rank", 3), ["delta"]),
        (notes(alice).gte("rank", 3), ["gamma, (ray)", "delta"]),
        (notes(alice).lt("rank", 2), ["alpha"]),
        (notes(alice).lte("rank", 2), ["alpha", "Beta"]),
        (notes(alice).like("body", "%a%a%"), ["alpha", "gamma, (ray)", "delta"][:2]),
        (notes(alice).ilike("body", "b%"), ["Beta"]),
        (notes(alice).in_("body", ["alpha", "gamma, (ray)"]), ["alpha", "gamma, (ray)"]),
        (notes(alice).is_("due", "null"), ["alpha", "gamma, (ray)", "delta"]),
        (notes(alice).not_.is_("due", "null"), ["Beta"]),
        (notes(alice).contains("tags", ["a"]), ["alpha", "delta"]),
        (notes(alice).contained_by("tags", ["a", "b"]), ["alpha", "Beta", "gamma, (ray)"]),
        (notes(alice).overlaps("tags", ["b", "c"]), ["alpha", "Beta"]),
        (notes(alice).contains("data", {"kind": "x"}), ["alpha", "delta"]),
        (notes(alice).eq("data->>kind", "y"), ["Beta"]),
        (notes(alice).eq("data->deep->>n", "1"), ["alpha"]),
        (notes(alice).or_("rank.eq.1,and(rank.gt.3,body.eq.delta)"), ["alpha", "delta"]),
        (notes(alice).or_('body.eq."gamma, (ray)",rank.eq.1'), ["alpha", "gamma, (ray)"]),
        (notes(alice).limit(2), ["alpha", "Beta"]),
        (notes(alice).range(1, 2), ["Beta", "gamma, (ray)"]),
    ]
    for query, wanted in cases:
        assert bodies(await query.execute()) == wanted, query.request.params


async def test_order_sorts_rows(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES).select("body")
    assert bodies(await table.order("rank", desc=True).limit(1).execute()) == ["delta"]
    last = alice.client.table(NOTES).select("body").order("due", nullsfirst=False).order("rank", desc=True)
    assert bodies(await last.execute()) == ["Beta", "delta", "gamma, (ray)", "alpha"]


async def test_select_renames_and_casts_columns(alice: User) -> None:
    await fill(alice)
    query = notes(alice, "title:body,rank::text,kind:data->>kind").eq("rank", 1)
    assert (await query.execute()).data == [{"title": "alpha", "rank": "1", "kind": "x"}]


async def test_values_round_trip(alice: User) -> None:
    sent = {
        "body": 'ünï ☃ \n"quoted" \\',
        "rank": -7,
        "tags": ["x", 'y"z', "a,b", "", "{}", "null"],
        "data": {"null": None, "list": [1, 2.5, "3", [True]], "text": '"', "": {}},
        "due": "2026-01-02T03:04:05.678901+02:00",
    }
    row = await one(alice, sent)
    assert row == {**sent, "due": "2026-01-02T01:04:05.678901+00:00"}
    values: list[Any] = ["text", "5", 5, [1, 2], False, {"a": []}]
    for data in values:
        change: Any = {"data": data}
        await alice.client.table(NOTES).update(change, returning=MINIMAL).eq("rank", -7).execute()
        assert (await notes(alice, "data").execute()).data == [{"data": data}]


async def one(user: User, values: dict[str, Any]) -> dict[str, Any]:
    await user.client.table(NOTES).insert(cast(Any, values), returning=MINIMAL).execute()
    [row] = cast(Rows, (await notes(user, "body,rank,tags,data,due").execute()).data)
    return row


async def test_numbers_bytes_and_array_nulls_round_trip(server: AsyncClient) -> None:
    table = server.table("conformance_types")
    rows: Any = [
        {
            "id": 1,
            "amount": 12.5,
            "raw": "\\x00ff",
            "words": ["a", None, "null", 'q"\\{},'],
            "ids": [None, str(uuid.UUID(int=1))],
        },
        {"id": 2, "amount": -3, "raw": None, "words": [], "ids": None},
    ]
    await table.delete().gte("id", 0).execute()
    assert (await table.insert(rows).execute()).data == rows
    assert (await table.select("*").eq("amount", 12.5).eq("raw", "\\x00ff").execute()).data == rows[:1]
    total: Any = (await table.select("amount").gt("amount", -4).order("amount").execute()).data
    assert [type(row["amount"]) for row in total] == [int, float]


async def test_count_returns_total(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES)
    response = await table.select("body", count=CountMethod.exact).gt("rank", 1).limit(1).execute()
    assert (response.count, len(response.data)) == (3, 1)
    head = await table.select("id", count=CountMethod.exact, head=True).execute()
    assert (head.count, head.data) == (4, [])


async def test_single_returns_one_row(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES)
    assert (await table.select("body").eq("rank", 1).single().execute()).data == {"body": "alpha"}
    assert await table.select("body").eq("rank", 9).maybe_single().execute() is None
    with pytest.raises(APIError) as none:
        await table.select("body").eq("rank", 9).single().execute()
    assert (none.value.code, none.value.details) == ("PGRST116", "The result contains 0 rows")


async def test_select_embeds_related_rows(alice: User) -> None:
    await fill(alice)
    [note] = cast(Rows, (await notes(alice, "id").eq("rank", 1).execute()).data)
    comments = [{"note_id": note["id"], "text": text} for text in ("one", "two")]
    await alice.client.table("conformance_comments").insert(cast(Any, comments)).execute()
    query = notes(alice, "body,conformance_comments(text)").lte("rank", 2)
    assert (await query.execute()).data == [
        {"body": "alpha", "conformance_comments": [{"text": "one"}, {"text": "two"}]},
        {"body": "Beta", "conformance_comments": []},
    ]
    inner = notes(alice, "body,conformance_comments!inner(text)").eq("conformance_comments.text", "two")
    assert (await inner.execute()).data == [{"body": "alpha", "conformance_comments": [{"text": "two"}]}]
    parent = alice.client.table("conformance_comments").select("text,note:conformance_notes(body)").eq("text", "one")
    assert (await parent.execute()).data == [{"text": "one", "note": {"body": "alpha"}}]


async def test_upsert_merges_or_ignores_duplicates(alice: User) -> None:
    table = alice.client.table("conformance_counters")
    first = await table.upsert(cast(Any, {"owner": alice.id, "name": "n", "value": 5})).execute()
    assert cast(Rows, first.data)[0]["value"] == 5
    rows: Any = [{"owner": alice.id, "name": "n", "value": 6}, {"owner": alice.id, "name": "m", "value": 7}]
    await table.upsert(rows, on_conflict="owner,name").execute()
    kept: Any = [{"owner": alice.id, "name": "n", "value": 99}, {"owner": alice.id, "name": "o", "value": 8}]
    ignored = await table.upsert(kept, ignore_duplicates=True).execute()
    assert [row["name"] for row in cast(Rows, ignored.data)] == ["o"]
    found = await table.select("name,value").order("name").execute()
    assert found.data == [{"name": "m", "value": 7}, {"name": "n", "value": 6}, {"name": "o", "value": 8}]


async def test_bulk_insert_can_use_defaults(alice: User) -> None:
    rows: Any = [{"name": "a", "value": 3}, {"name": "b"}]
    table = alice.client.table("conformance_counters")
    await table.insert(rows, default_to_null=False).execute()
    assert (await table.select("name,value").order("name").execute()).data == [
        {"name": "a", "value": 3},
        {"name": "b", "value": 1},
    ]


async def test_bulk_insert_sets_missing_columns_to_null(alice: User) -> None:
    rows: Any = [{"name": "a", "value": 3}, {"name": "b"}]
    with pytest.raises(APIError) as refused:
        await alice.client.table("conformance_counters").insert(rows).execute()
    assert refused.value.code == "23502"
    inserted = await alice.client.table("conformance_counters").insert(rows, default_to_null=False).execute()
    assert [row["value"] for row in cast(Rows, inserted.data)] == [3, 1]


async def test_row_without_columns_has_the_defaults(alice: User) -> None:
    """Neither the rows nor the request name a column. The user may insert into two of them only."""
    table, defaults = alice.client.table("conformance_defaults"), {"word": "given", "note": None}
    sent: list[tuple[Any, int]] = [({}, 1), ([{}], 1), ([{}, {}], 2), ([], 0)]
    for rows, count in sent:
        for default_to_null in (True, False):
            inserted = cast(Rows, (await table.insert(rows, default_to_null=default_to_null).execute()).data)
            assert [{key: row[key] for key in defaults} for row in inserted] == [defaults] * count, rows
    upserted = await table.upsert(cast(Any, {})).execute()
    assert [row["word"] for row in cast(Rows, upserted.data)] == ["given"]
    await table.insert(cast(Any, {}), returning=MINIMAL).execute()
    assert len(cast(Rows, (await table.select("id").execute()).data)) == 10
    with pytest.raises(APIError) as refused:
        await alice.client.table(NOTES).insert(cast(Any, {}), returning=MINIMAL).execute()
    assert refused.value.code == "23502"


async def test_change_without_filter_is_rejected(
    http: httpx.AsyncClient, supabase: Supabase, alice: User, server: AsyncClient
) -> None:
    for headers in ({"apikey": supabase.secret_key}, authorized(supabase, alice)):
        for method, body in (("PATCH", {"value": 9}), ("DELETE", None)):
            response = await http.request(method, "/rest/v1/conformance_counters", headers=headers, json=body)
            assert (response.status_code, response.json()["code"]) == (400, "21000"), method


async def test_pagination_sets_status_and_range(http: httpx.AsyncClient, supabase: Supabase, alice: User) -> None:
    await fill(alice)
    path, headers = f"/rest/v1/{NOTES}?select=rank&order=rank", authorized(supabase, alice)
    counted = {**headers, "Prefer": "count=exact"}
    cases = [
        (headers, "", 200, "0-3/*"),
        (counted, "", 200, "0-3/4"),
        (counted, "&limit=2", 206, "0-1/4"),
        (counted, "&limit=2&offset=3", 206, "3-3/4"),
        (counted, "&offset=9", 416, "*/4"),
        (headers, "&offset=9", 200, "*/*"),
        ({**counted, "Range-Unit": "items", "Range": "1-2"}, "", 206, "1-2/4"),
    ]
    for sent, query, status, content_range in cases:
        response = await http.get(path + query, headers=sent)
        assert (response.status_code, response.headers["content-range"]) == (status, content_range), query


async def test_max_affected_rejects_larger_update(http: httpx.AsyncClient, supabase: Supabase, alice: User) -> None:
    await fill(alice)
    headers = {**authorized(supabase, alice), "Prefer": "handling=strict, max-affected=1"}
    response = await http.patch(f"/rest/v1/{NOTES}?rank=gte.1", headers=headers, json={"body": "x"})
    assert (response.status_code, response.json()["code"]) == (400, "PGRST124")
    assert bodies(await notes(alice).eq("body", "x").execute()) == []


async def test_csv_quotes_values(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES).select("body,rank,due").order("rank").gte("rank", 3)
    assert (await table.csv().execute()).data == 'body,rank,due\n"gamma, (ray)",3,\ndelta,4,'


@differs('arrays in CSV are written as JSON (`["a"]`, not `{a}`)')
async def test_csv_writes_postgres_arrays(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES).select("tags").eq("rank", 1)
    assert (await table.csv().execute()).data == 'tags\n"{a,b}"'


async def test_update_and_delete_return_rows(alice: User) -> None:
    await fill(alice)
    table = alice.client.table("conformance_counters")
    await table.insert(cast(Any, [{"name": "a"}, {"name": "b"}])).execute()
    assert cast(Rows, (await table.update({"value": 9}).eq("name", "a").execute()).data)[0]["value"] == 9
    assert (await table.update({"value": 9}).eq("name", "zz").execute()).data == []
    deleted = cast(Rows, (await table.delete().gte("value", 0).execute()).data)
    assert {row["name"] for row in deleted} == {"a", "b"}


async def test_invalid_request_returns_status_and_code(
    http: httpx.AsyncClient, supabase: Supabase, alice: User
) -> None:
    headers = authorized(supabase, alice)
    long = {"body": "x" * 101}
    once = {"id": str(uuid.uuid4()), "body": "once"}
    assert (await http.post(f"/rest/v1/{NOTES}", headers=headers, json=once)).status_code == 201
    cases: list[tuple[str, str, Any, int, str]] = [
        ("GET", "/conformance_nonsense", None, 404, "PGRST205"),
        ("POST", "/rpc/conformance_nonsense", {}, 404, "PGRST202"),
        ("POST", "/rpc/conformance_echo", {"wrong": 1}, 404, "PGRST202"),
        ("GET", f"/{NOTES}?nonsense=eq.1", None, 400, "42703"),
        ("GET", f"/{NOTES}?select=nonsense", None, 400, "42703"),
        ("GET", f"/{NOTES}?rank=eq.x", None, 400, "22P02"),
        ("GET", f"/{NOTES}?id=eq.x", None, 400, "22P02"),
        ("GET", f"/{NOTES}?rank=nonsense.1", None, 400, "PGRST100"),
        ("GET", f"/{NOTES}?select=body,conformance_counters(name)", None, 400, "PGRST200"),
        ("POST", f"/{NOTES}", {"body": "y", "nonsense": 1}, 400, "PGRST204"),
        ("POST", f"/{NOTES}", {"rank": 1}, 400, "23502"),
        ("POST", f"/{NOTES}", long, 400, "23514"),
        ("POST", f"/{NOTES}", once, 409, "23505"),
        ("POST", "/conformance_comments", {"note_id": str(uuid.uuid4()), "text": "x"}, 403, "42501"),
    ]
    for method, path, body, status, code in cases:
        response = await http.request(method, f"/rest/v1{path}", headers=headers, json=body)
        assert (response.status_code, response.json().get("code")) == (status, code), (path, response.text)
        assert response.json().keys() == {"code", "message", "details", "hint"}, path


async def test_invalid_json_body_is_rejected(http: httpx.AsyncClient, supabase: Supabase, alice: User) -> None:
    headers = {**authorized(supabase, alice), "Content-Type": "application/json"}
    response = await http.post(f"/rest/v1/{NOTES}", headers=headers, content=b"{nonsense")
    assert (response.status_code, response.json()["code"]) == (400, "PGRST102")


# NUL has no place in Postgres's text; half of a pair of surrogates, and half of a character's bytes, are not Unicode
UNSTORABLE = [
    *[(text % NUL, "22P05") for text in TEXTS],
    *[
        (text % half, "PGRST102")
        for text in TEXTS
        for half in (rb"\ud83d", rb"\udc00", rb"\ud83d\ud83d", b"\xed\xa0\x80")
    ],
]


@pytest.mark.parametrize(("body", "code"), UNSTORABLE)
async def test_text_that_postgres_cannot_store_is_rejected(
    http: httpx.AsyncClient, supabase: Supabase, alice: User, body: bytes, code: str
) -> None:
    await fill(alice)
    headers = {**authorized(supabase, alice), "Content-Type": "application/json"}
    for method, path in (("POST", NOTES), ("PATCH", f"{NOTES}?rank=eq.1")):
        response = await http.request(method, f"/rest/v1/{path}", headers=headers, content=body)
        assert (response.status_code, response.json()["code"]) == (400, code), (method, response.text)
    echo = await http.post("/rest/v1/rpc/conformance_echo", headers=headers, content=b'{"value": %s}' % body)
    assert (echo.status_code, echo.json()["code"]) == (400, code), echo.text
    assert sorted(bodies(await notes(alice).execute())) == ["Beta", "alpha", "delta", "gamma, (ray)"]


async def test_escapes_of_escapes_are_text(alice: User) -> None:
    row = await one(alice, {"body": r"\u0000 \ud83d \0 😀", "data": {r"\ud83d": r"\u0000"}, "tags": ["\u0001"]})
    assert (row["body"], row["data"], row["tags"]) == (r"\u0000 \ud83d \0 😀", {r"\ud83d": r"\u0000"}, ["\u0001"])


async def test_rls_hides_rows_of_other_users(alice: User, bob: User, visitor: AsyncClient, server: AsyncClient) -> None:
    await fill(alice)
    assert (await notes(bob).execute()).data == []
    await bob.client.table(NOTES).delete(returning=MINIMAL).gte("rank", 0).execute()
    await bob.client.table(NOTES).update({"body": "x"}, returning=MINIMAL).gte("rank", 0).execute()
    assert bodies(await notes(alice).limit(1).execute()) == ["alpha"]
    with pytest.raises(APIError) as refused:
        await visitor.table(NOTES).select("body").execute()
    assert refused.value.code == "42501"
    mine = await server.table(NOTES).select("body,secret").eq("owner", alice.id).execute()
    assert len(mine.data) == 4
    assert cast(Rows, mine.data)[0]["secret"] == "hidden"
    with pytest.raises(APIError) as forged:
        await bob.client.table("conformance_counters").insert(cast(Any, {"owner": alice.id, "name": "x"})).execute()
    assert forged.value.code == "42501"
    assert "row-level security" in str(forged.value.message)


async def test_column_grants_are_enforced(alice: User) -> None:
    await fill(alice)
    table = alice.client.table(NOTES)
    for query in (
        table.select("secret"),
        table.select("*"),
        table.insert(cast(Any, {"body": "x", "secret": "mine"}), returning=MINIMAL),
        table.insert(cast(Any, {"body": "x", "owner": alice.id}), returning=MINIMAL),
        table.update(cast(Any, {"secret": "x"}), returning=MINIMAL).eq("rank", 1),
    ):
        with pytest.raises(APIError) as refused:
            await query.execute()
        assert (refused.value.code, refused.value.message) == (
            "42501",
            "permission denied for table conformance_notes",
        )
    await table.update({"body": "changed"}, returning=MINIMAL).eq("rank", 1).execute()
    assert bodies(await notes(alice).limit(1).execute()) == ["changed"]


async def test_schema_change_is_picked_up(supabase: Supabase, server: AsyncClient) -> None:
    if supabase.database is None:
        pytest.skip("SUPABASE_DB_URL is not set")
    async with await psycopg.AsyncConnection.connect(supabase.database, autocommit=True) as database:
        await database.execute("create table public.conformance_new (a int)")
        try:
            await database.execute("grant all on public.conformance_new to service_role")
            await database.execute("notify pgrst, 'reload schema'")
            await insert_once_known(server, {"a": 1})
            await database.execute("alter table public.conformance_new add column b text default 'x'")
            await database.execute("notify pgrst, 'reload schema'")
            await insert_once_known(server, {"a": 2, "b": "y"})
        finally:
            await database.execute("drop table public.conformance_new")
            await database.execute("notify pgrst, 'reload schema'")


async def insert_once_known(server: AsyncClient, row: dict[str, Any]) -> None:
    """Insert a row, retrying until REST knows its columns."""
    deadline = time.monotonic() + 15
    while True:
        try:
            response = await server.table("conformance_new").insert(cast(Any, row)).execute()
        except APIError as error:
            if error.code not in ("PGRST205", "PGRST204") or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            assert response.data == [row]
            return
