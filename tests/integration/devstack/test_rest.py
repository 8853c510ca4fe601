"""REST behaves like PostgREST wherever a client could notice a difference."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from devstack.stack import Stack
from tests.integration.devstack.conftest import User


async def call(http: httpx.AsyncClient, headers: dict[str, str], name: str, **arguments: Any) -> httpx.Response:
    return await http.post(f"/rest/v1/rpc/{name}", headers=headers, json=arguments)


@pytest.mark.parametrize("value", [{"a": [1, "x", None]}, [1, "x"], "text", "7", 7, 1.5, True, None, {}, [], ""])
async def test_rpc_round_trips_jsonb(http: httpx.AsyncClient, service: dict[str, str], value: object) -> None:
    response = await call(http, service, "echo", value=value)
    assert response.status_code == 200, response.text
    assert response.json() == value


@pytest.mark.parametrize(
    ("value", "kind"), [({}, "object"), ([1], "array"), ("x", "string"), ("7", "string"), (7, "number")]
)
async def test_rpc_preserves_jsonb_type(
    http: httpx.AsyncClient, service: dict[str, str], value: object, kind: str
) -> None:
    assert (await call(http, service, "kind", value=value)).json() == kind


async def test_rpc_round_trips_arrays(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    assert (await call(http, service, "echo_ids", ids=ids)).json() == ids
    assert (await call(http, service, "echo_ids", ids=[])).json() == []
    words = ['a "quoted" one', "a, comma", "{braces}", "back\\slash", "", "naïve 漢字 🎈", "NULL"]
    assert (await call(http, service, "echo_words", words=words)).json() == words
    assert (await call(http, service, "echo_words", words=words, most=2)).json() == words[:2]


async def test_rpc_returns_void_and_table_results(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    nothing = await call(http, service, "nothing")
    assert (nothing.status_code, nothing.content) == (204, b"")
    rows = (await call(http, service, "listing", count=2)).json()
    assert rows == [
        {"number": 1, "at": "2026-01-02T03:04:05.678+00:00"},
        {"number": 2, "at": "2026-01-02T03:04:05.678+00:00"},
    ]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("P0001", 400),
        ("P0002", 500),
        ("22023", 400),
        ("23502", 400),
        ("23503", 409),
        ("23505", 409),
        ("23514", 400),
        ("28000", 403),
        ("40001", 500),
        ("42501", 403),
        ("53300", 503),
        ("53400", 500),
        ("54000", 500),
        ("55000", 500),
        ("55P03", 500),
        ("57014", 500),
        ("58000", 500),
        ("BR001", 400),
        ("PT429", 429),
        ("XX000", 500),
    ],
)
async def test_raised_sqlstate_maps_to_status(http: httpx.AsyncClient, alice: User, state: str, status: int) -> None:
    response = await call(http, alice.headers, "fail", state=state)
    assert response.status_code == status
    body = response.json()
    assert body["code"] == state
    assert body["message"] == "it failed"
    assert body["details"] == "the detail"
    assert set(body) == {"code", "message", "details", "hint"}


async def test_raised_error_includes_hint(http: httpx.AsyncClient, alice: User) -> None:
    for state in ("P0001", "23505", "42501"):
        assert (await call(http, alice.headers, "fail", state=state)).json()["hint"] == "the hint", state


async def test_insufficient_privilege_returns_401_to_anon_and_403_to_user(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User, service: dict[str, str]
) -> None:
    assert (await call(http, anon, "only_service")).status_code == 401
    refused = await call(http, alice.headers, "only_service")
    assert (refused.status_code, refused.json()["code"]) == (403, "42501")
    assert (await call(http, service, "only_service")).json() == "yes"


async def test_constraint_violation_maps_to_status(http: httpx.AsyncClient, alice: User) -> None:
    note = {"id": str(uuid.uuid4()), "body": "once"}
    first = await http.post("/rest/v1/notes", headers=alice.headers, json=note)
    assert (first.status_code, first.content) == (201, b"")
    second = await http.post("/rest/v1/notes", headers=alice.headers, json=note)
    assert (second.status_code, second.json()["code"]) == (409, "23505")
    long = await http.post("/rest/v1/notes", headers=alice.headers, json={"body": "x" * 21})
    assert (long.status_code, long.json()["code"]) == (400, "23514")
    unknown = await http.post("/rest/v1/notes", headers=alice.headers, json={"body": "y", "nonsense": 1})
    assert (unknown.status_code, unknown.json()["code"]) == (400, "PGRST204")


async def test_unknown_table_or_function_returns_404(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    table = await http.get("/rest/v1/nonsense", headers=service)
    assert (table.status_code, table.json()["code"]) == (404, "PGRST205")
    function = await call(http, service, "nonsense")
    assert (function.status_code, function.json()["code"]) == (404, "PGRST202")
    argument = await call(http, service, "echo", wrong=1)
    assert (argument.status_code, argument.json()["code"]) == (404, "PGRST202")


async def test_rest_exposes_only_public_schema(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    for schema in ("hidden", "auth", "realtime"):
        response = await http.get("/rest/v1/secrets", headers={**service, "Accept-Profile": schema})
        assert (response.status_code, response.json()["code"]) == (406, "PGRST106"), schema
    assert (await http.get("/rest/v1/hidden.secrets", headers=service)).status_code == 404
    assert (await http.get("/rest/v1/users", headers=service)).status_code == 404


async def test_error_response_rolls_back(http: httpx.AsyncClient, alice: User) -> None:
    headers = {
        **alice.headers,
        "Accept": "application/vnd.pgrst.object+json",
        "Prefer": "return=representation",
    }
    rows = [{"body": "kept by mistake"}, {"body": "and this"}]
    refused = await http.post("/rest/v1/notes", headers=headers, json=rows)
    assert (refused.status_code, refused.json()["code"]) == (406, "PGRST116")
    left = await http.get("/rest/v1/notes?body=eq.kept%20by%20mistake", headers=alice.headers)
    assert left.json() == []


async def test_rows_round_trip_typed_values(http: httpx.AsyncClient, alice: User) -> None:
    headers = {**alice.headers, "Prefer": "return=representation"}
    note = {"body": "typed", "data": {"a": ["b", 1]}, "tags": ["x", 'y"z'], "at": "2026-01-02T03:04:05+02:00"}
    made = await http.post("/rest/v1/notes", headers=headers, json=note)
    assert made.status_code == 201
    [row] = made.json()
    assert row == {
        **note,
        "id": row["id"],
        "user_id": alice.id,
        "at": "2026-01-02T01:04:05+00:00",
    }
    for data in ("text", [1, 2], 5, None, "5"):
        changed = await http.patch(f"/rest/v1/notes?id=eq.{row['id']}", headers=headers, json={"data": data})
        assert changed.status_code == 200, changed.text
        assert changed.json()[0]["data"] == data


DEFAULTS = {"id": 1, "word": "given", "note": None}


@pytest.mark.parametrize(
    ("query", "body", "prefer", "status", "rows"),
    [
        ("", {}, "", 201, None),
        ("", {}, "return=representation", 201, [DEFAULTS]),
        ("", [{}], "return=representation", 201, [DEFAULTS]),
        ("?select=word", {}, "return=representation", 201, [{"word": "given"}]),
        ("", [], "return=representation", 201, []),
        # the second conflicts with the first
        ("", [{}, {}], "return=representation", 409, "23505"),
        ("", [{}, {}], "return=representation,resolution=ignore-duplicates", 201, [DEFAULTS]),
        # there is no column to merge
        ("?on_conflict=id", [{}, {}], "return=representation,resolution=merge-duplicates", 201, [DEFAULTS]),
        ("?columns=id,note", [{}], "return=representation", 400, "23502"),  # null instead of the default
        ("?columns=word,note", [{}], "return=representation,missing=default", 201, [DEFAULTS]),
        ("", [{}, {"note": "x"}], "return=representation", 400, "PGRST102"),
        ("", [{"note": "x"}, {}], "return=representation,missing=default", 400, "PGRST102"),
        ("", [{"note": "x"}, {"word": "y"}], "return=representation", 400, "PGRST102"),
    ],
)
async def test_row_without_columns_has_the_defaults(
    http: httpx.AsyncClient, service: dict[str, str], query: str, body: Any, prefer: str, status: int, rows: Any
) -> None:
    path, headers = "/rest/v1/defaults", {**service, "Prefer": prefer}
    try:
        response = await http.post(path + query, headers=headers, json=body)
        assert response.status_code == status, response.text
        if isinstance(rows, str):
            assert response.json()["code"] == rows
        else:
            assert (response.json() if response.content else None) == rows
    finally:
        assert (await http.delete(f"{path}?id=gt.0", headers=service)).status_code == 204


async def test_row_without_columns_needs_permission_for_one(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User, service: dict[str, str]
) -> None:
    assert (await http.post("/rest/v1/defaults", headers=anon, json={})).status_code == 401
    assert (await http.post("/rest/v1/defaults", headers=alice.headers, json={})).status_code == 201
    assert (await http.delete("/rest/v1/defaults?id=gt.0", headers=service)).status_code == 204


@pytest.mark.parametrize("body", [{}, []])
async def test_change_of_no_column_changes_no_row(
    http: httpx.AsyncClient, service: dict[str, str], body: object
) -> None:
    await http.post("/rest/v1/defaults", headers=service, json={})
    headers = {**service, "Prefer": "return=representation"}
    changed = await http.patch("/rest/v1/defaults?id=eq.1", headers=headers, json=body)
    assert (changed.status_code, changed.json()) == (200, [])
    assert (await http.delete("/rest/v1/defaults?id=gt.0", headers=service)).status_code == 204


async def test_row_level_security_isolates_users(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User, bob: User, service: dict[str, str]
) -> None:
    made = await http.post("/rest/v1/notes", headers=alice.headers, json={"body": "private"})
    assert made.status_code == 201
    query = "/rest/v1/notes?body=eq.private"
    assert len((await http.get(query, headers=alice.headers)).json()) == 1
    assert (await http.get(query, headers=bob.headers)).json() == []
    assert (await http.get(query, headers=anon)).status_code == 401
    assert len((await http.get(query, headers=service)).json()) == 1
    forged = await http.post("/rest/v1/notes", headers=bob.headers, json={"body": "forged", "user_id": alice.id})
    assert (forged.status_code, forged.json()["code"]) == (403, "42501")
    assert (await http.delete(query, headers=bob.headers)).status_code == 204
    assert len((await http.get(query, headers=alice.headers)).json()) == 1


async def test_request_runs_with_token_role_and_claims(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User, service: dict[str, str]
) -> None:
    visitor = (await call(http, anon, "who")).json()
    assert (visitor["user"], visitor["role"], visitor["uid"]) == ("anon", "anon", None)
    user = (await call(http, alice.headers, "who")).json()
    assert (user["user"], user["role"]) == ("authenticated", "authenticated")
    assert (user["uid"], user["email"]) == (alice.id, alice.email)
    assert user["claims"]["aud"] == "authenticated"
    server = (await call(http, service, "who")).json()
    assert (server["user"], server["role"], server["session"]) == (
        "service_role",
        "service_role",
        "authenticator",
    )


async def test_role_timeout_cancels_statement(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User, service: dict[str, str]
) -> None:
    for headers, timeout in ((anon, "3s"), (alice.headers, "8s"), (service, "8s")):
        who = (await call(http, headers, "who")).json()
        assert (who["timeout"], who["lock_timeout"]) == (timeout, "8s")
    begun = time.monotonic()
    late = await call(http, anon, "nap", seconds=20)
    assert 2.5 < time.monotonic() - begun < 8  # before the other roles' timeout
    assert (late.status_code, late.json()["code"]) == (500, "57014")


async def test_function_timeout_cancels_statement(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    late = await call(http, service, "short_nap", seconds=5)
    assert (late.status_code, late.json()["code"]) == (500, "57014")
    assert (await call(http, service, "short_nap", seconds=0)).status_code == 204


async def test_schema_change_is_picked_up(embedded: Stack, http: httpx.AsyncClient, service: dict[str, str]) -> None:
    url = embedded.environment["SUPABASE_DB_URL"]
    query = "/rest/v1/grown?select=*"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create table public.grown (a int); insert into public.grown values (1)")
        await embedded.lite.reload()
        assert (await http.get(query, headers=service)).json() == [{"a": 1}]
        await connection.execute("alter table public.grown add column b int default 2")
        await connection.execute("notify pgrst, 'reload schema'")
        # The notification is asynchronous, as with PostgREST.
        deadline = time.monotonic() + 10
        while (response := (await http.get(query, headers=service)).json()) != [{"a": 1, "b": 2}]:
            assert time.monotonic() < deadline, response
        await connection.execute("drop table public.grown")


async def test_requests_survive_schema_reload(
    embedded: Stack, http: httpx.AsyncClient, service: dict[str, str]
) -> None:
    async def work() -> None:
        for _ in range(20):
            assert (await call(http, service, "echo", value=1)).status_code == 200

    async def change() -> None:
        for _ in range(20):
            await embedded.lite.reload()

    async with asyncio.timeout(30):
        await asyncio.gather(change(), *(work() for _ in range(16)))


class TestKeys:
    async def test_missing_key_returns_401(self, http: httpx.AsyncClient) -> None:
        for path in ("/rest/v1/notes", "/auth/v1/user"):
            response = await http.get(path)
            assert response.status_code == 401
            assert response.json()["message"] == "No API key found in request"

    async def test_wrong_key_returns_401(self, http: httpx.AsyncClient) -> None:
        for key in ("sb_secret_wrong", "wrong", "a.b.c"):
            response = await http.get("/rest/v1/notes", headers={"apikey": key, "Authorization": f"Bearer {key}"})
            assert (response.status_code, response.json()["message"]) == (401, "Invalid API key"), key

    async def test_key_in_query_is_accepted(self, embedded: Stack, http: httpx.AsyncClient) -> None:
        key = embedded.environment["SUPABASE_SECRET_KEY"]
        assert (await http.get("/rest/v1/notes", params={"apikey": key})).status_code == 200

    async def test_legacy_key_has_its_role(self, embedded: Stack, http: httpx.AsyncClient) -> None:
        secret = embedded.environment["SUPABASE_JWT_SECRET"]
        for role in ("anon", "service_role"):
            key = jwt.encode({"role": role, "iss": "supabase", "exp": time.time() + 60}, secret, "HS256")
            headers = {"apikey": key, "Authorization": f"Bearer {key}"}
            assert (await call(http, headers, "who")).json()["user"] == role
        forged = jwt.encode({"role": "service_role"}, "x" * 40, "HS256")
        assert (await http.get("/rest/v1/notes", headers={"apikey": forged})).status_code == 401

    async def test_invalid_token_returns_401(
        self, embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str], alice: User
    ) -> None:
        secret = embedded.environment["SUPABASE_JWT_SECRET"]
        claims = {"sub": alice.id, "role": "authenticated", "aud": "authenticated"}
        expired = jwt.encode({**claims, "exp": time.time() - 60}, secret, "HS256")
        forged = jwt.encode({**claims, "exp": time.time() + 60}, "x" * 40, "HS256")
        unsigned = jwt.encode(claims, None, "none")  # type: ignore[arg-type]  # no key needed
        for token in (expired, forged, unsigned):
            response = await http.get("/rest/v1/notes", headers={**anon, "Authorization": f"Bearer {token}"})
            assert response.status_code == 401, response.text

    async def test_token_cannot_select_privileged_role(
        self, embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str]
    ) -> None:
        """Even with a valid signature: the REST server may only switch to one of three roles."""
        secret = embedded.environment["SUPABASE_JWT_SECRET"]
        for role in ("supabase_admin", "postgres", "supabase_auth_admin"):
            token = jwt.encode({"role": role, "exp": time.time() + 60}, secret, "HS256")
            response = await call(http, {**anon, "Authorization": f"Bearer {token}"}, "who")
            assert response.status_code in (401, 403), response.text
