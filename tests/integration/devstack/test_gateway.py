"""The gateway: CORS, unknown paths, and responses while a part is down."""

from __future__ import annotations

import socket

import httpx
import pytest

from devstack.stack import Stack
from tests.integration.devstack.conftest import User
from tests.support.waiting import until


@pytest.mark.parametrize(
    "path", ["/rest/v1/notes", "/auth/v1/token", "/realtime/v1/api/broadcast", "/storage/v1/object/b/x"]
)
async def test_preflight_allows_any_origin(http: httpx.AsyncClient, path: str) -> None:
    response = await http.options(
        path,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "apikey,authorization,x-client-info",
        },
    )
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "PATCH" in response.headers["access-control-allow-methods"]
    assert "x-client-info" in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "path",
    ["/rest/v1/notes", "/rest/v1/nonsense", "/auth/v1/user", "/realtime/v1/api/ping", "/storage/v1/object/b/x"],
)
async def test_response_is_readable_from_any_origin(http: httpx.AsyncClient, alice: User, path: str) -> None:
    for headers in (alice.headers, {}):
        response = await http.get(path, headers={**headers, "Origin": "https://app.example"})
        assert response.headers.get_list("access-control-allow-origin") == ["*"]
    assert "content-range" in response.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("path", ["/", "/nonsense", "/functions/v1/hello", "/rest/v2/notes", "/rest/v1x"])
async def test_unknown_path_returns_404(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert (response.status_code, response.json()) == (404, {"message": "no Route matched with those values"})


async def test_proxy_preserves_body(http: httpx.AsyncClient, service: dict[str, str]) -> None:
    text = "漢字 🎈 \n" * 100_000
    response = await http.post("/rest/v1/rpc/echo", headers=service, json={"value": {"text": text}})
    assert response.json() == {"text": text}


async def test_proxy_preserves_query_and_head(http: httpx.AsyncClient, alice: User) -> None:
    await http.post("/rest/v1/notes", headers=alice.headers, json={"body": "a+b & c=d/é"})
    found = await http.get("/rest/v1/notes", params={"body": "eq.a+b & c=d/é"}, headers=alice.headers)
    assert [row["body"] for row in found.json()] == ["a+b & c=d/é"]
    head = await http.head(
        "/rest/v1/notes", params={"select": "id"}, headers={**alice.headers, "Prefer": "count=exact"}
    )
    assert head.status_code == 200
    assert head.headers["content-range"].split("/")[1].isdigit()


async def test_gateway_returns_503_without_lite(
    embedded: Stack, http: httpx.AsyncClient, service: dict[str, str]
) -> None:
    await embedded.lite.stop()
    try:
        for path in ("/rest/v1/notes", "/auth/v1/user"):
            response = await http.get(path, headers=service)
            assert response.status_code == 503
            assert "message" in response.json()
    finally:
        await embedded.lite.start()
    assert (await http.get("/rest/v1/notes", headers=service)).status_code == 200


async def test_rest_and_auth_recover_from_postgres_outage(
    embedded: Stack, http: httpx.AsyncClient, service: dict[str, str], anon: dict[str, str], alice: User
) -> None:
    await embedded.postgres.stop()
    try:
        response = await http.get("/rest/v1/notes", headers=service)
        assert response.status_code == 503
        assert response.json()["code"].startswith("PGRST")
        signed_in = await http.post(
            "/auth/v1/token?grant_type=password",
            headers=anon,
            json={"email": alice.email, "password": alice.password},
        )
        assert signed_in.status_code >= 500
    finally:
        await embedded.postgres.start()

    async def is_back() -> bool:
        return (await http.get("/rest/v1/notes", headers=service)).status_code == 200

    await until(is_back, within=30)  # it may have to restart, see Stack._keep_lite


async def test_ports_listen_only_on_loopback(embedded: Stack) -> None:
    ports = [embedded.gateway.port, embedded.postgres.port, embedded.lite.port]
    for port in ports:
        assert port is not None
        with socket.socket() as probe:
            probe.settimeout(2)
            # 127.0.0.2 reaches a socket bound to all addresses, but not one bound to 127.0.0.1
            assert probe.connect_ex(("127.0.0.2", port)) != 0
