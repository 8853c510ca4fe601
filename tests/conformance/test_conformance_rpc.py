"""Calling database functions over REST with the official Python client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from postgrest import CountMethod

from tests.conformance.conftest import Supabase, User, differs
from tests.conformance.notes import authorized, fill


@pytest.mark.parametrize(
    "value", [{"a": [1, {"b": None}]}, [1, "two"], "text", "5", 5, 2.5, True, None, '"quoted"', [], {}], ids=repr
)
async def test_rpc_round_trips_jsonb(alice: User, value: Any) -> None:
    assert (await alice.client.rpc("conformance_echo", {"value": value}).execute()).data == value


async def test_rpc_accepts_arrays(alice: User) -> None:
    assert (await alice.client.rpc("conformance_total", {"numbers": [1, 2, 39]}).execute()).data == 42
    assert (await alice.client.rpc("conformance_total", {"numbers": []}).execute()).data is None
    words = ["a", 'b"c', "d,e", "", "{f}", "null", "ü"]
    found = await alice.client.rpc("conformance_words", {"words": words}).execute()
    assert found.data == [{"word": word, "at": at} for at, word in enumerate(words, 1)]


async def test_rpc_result_can_be_filtered(alice: User) -> None:
    words = alice.client.rpc("conformance_words", {"words": ["x", "y", "z"], "times": 2})
    response = await words.neq("word", "y").order("at", desc=True).limit(1).execute()
    assert response.data == [{"word": "z", "at": 3}]
    await fill(alice)
    own = await alice.client.rpc("conformance_own_notes", {}, get=True).select("body").eq("rank", 2).execute()
    assert own.data == [{"body": "Beta"}]


@differs("the rows of a function that returns a table of its own are not counted")
async def test_rpc_counts_rows(alice: User) -> None:
    words = alice.client.rpc("conformance_words", {"words": ["x", "y"], "times": 2}, count=CountMethod.exact)
    assert (await words.limit(1).execute()).count == 4


async def test_rpc_accepts_keywords_and_capitals_as_names(alice: User) -> None:
    arguments: Any = {"select": "a", "camelCase": 2, "order": ["x"]}
    assert (await alice.client.rpc("conformance_odd_names", arguments).execute()).data == 'a-2-["x"]'
    assert (await alice.client.rpc("conformance_odd_names", {"select": "a", "camelCase": 2}).execute()).data == "a-2-[]"


async def test_void_rpc_returns_204(http: httpx.AsyncClient, supabase: Supabase) -> None:
    response = await http.post(
        "/rest/v1/rpc/conformance_nothing", headers={"apikey": supabase.publishable_key}, json={}
    )
    assert (response.status_code, response.content) == (204, b"")


STATES = [
    ("P0001", 400),
    ("23505", 409),
    ("23503", 409),
    ("23514", 400),
    ("22023", 400),
    ("40001", 500),
    ("PT418", 418),
]


@pytest.mark.parametrize(("state", "status"), STATES)
async def test_raised_sqlstate_maps_to_status(
    http: httpx.AsyncClient, supabase: Supabase, alice: User, state: str, status: int
) -> None:
    headers = authorized(supabase, alice)
    response = await http.post("/rest/v1/rpc/conformance_fail", headers=headers, json={"state": state})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.json() == {"code": state, "message": "the message", "details": "the detail", "hint": "the hint"}
