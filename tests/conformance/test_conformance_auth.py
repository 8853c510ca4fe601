"""Keys, tokens and sessions, as the hosted gateway, Auth, REST and Realtime treat them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from supabase import AsyncClient, AuthApiError

from tests.conformance.conftest import PASSWORD, Supabase, User, differs

WHO = "/rest/v1/rpc/conformance_who"


async def test_sign_in(alice: User, visitor: AsyncClient) -> None:
    with pytest.raises(AuthApiError) as refused:
        await visitor.auth.sign_in_with_password({"email": alice.email, "password": "wrong"})
    assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")
    answer = await visitor.auth.sign_in_with_password({"email": alice.email, "password": PASSWORD})
    assert answer.user is not None
    assert (answer.user.id, answer.user.email, answer.user.role) == (alice.id, alice.email, "authenticated")
    assert answer.session is not None
    assert (answer.session.token_type, answer.session.expires_in) == ("bearer", 3600)


async def test_metadata_of_a_user(alice: User) -> None:
    changed = await alice.client.auth.update_user({"data": {"name": "Älice"}})
    assert changed.user.user_metadata["name"] == "Älice"
    found = await alice.client.auth.get_user()
    assert found is not None
    assert found.user.user_metadata["name"] == "Älice"


async def test_refresh_tokens(alice: User, visitor: AsyncClient) -> None:
    refreshed = await alice.client.auth.refresh_session()
    assert refreshed.session is not None
    assert refreshed.session.refresh_token != alice.refresh_token
    assert refreshed.session.user.id == alice.id
    again = await alice.client.auth.refresh_session()
    assert again.session is not None
    with pytest.raises(AuthApiError) as unknown:
        await visitor.auth.refresh_session(alice.refresh_token[::-1])
    # which one depends on the format of tokens, of which Auth has had two
    assert unknown.value.code in ("refresh_token_not_found", "validation_failed")
    assert unknown.value.status == 400


async def test_a_session_ends(alice: User, visitor: AsyncClient) -> None:
    await alice.client.auth.sign_out()
    with pytest.raises(AuthApiError) as ended:
        await visitor.auth.refresh_session(alice.refresh_token)
    assert ended.value.status == 400
    with pytest.raises(AuthApiError) as gone:
        await visitor.auth.get_user(alice.token)
    assert (gone.value.status, gone.value.code) == (403, "session_not_found")


async def test_opaque_keys(http: httpx.AsyncClient, supabase: Supabase, alice: User) -> None:
    async def role(**headers: str) -> Any:
        answer = await http.post(WHO, headers=headers, json={})
        assert answer.status_code == 200, answer.text
        return answer.json()["role"], answer.json()["uid"]

    publishable, secret = supabase.publishable_key, supabase.secret_key
    assert await role(apikey=publishable) == ("anon", None)
    assert await role(apikey=publishable, Authorization=f"Bearer {publishable}") == ("anon", None)
    assert await role(apikey=secret) == ("service_role", None)
    assert await role(apikey=secret, Authorization=f"Bearer {secret}") == ("service_role", None)
    assert await role(apikey=publishable, Authorization=f"Bearer {alice.token}") == ("authenticated", alice.id)
    assert await role(apikey=secret, Authorization=f"Bearer {alice.token}") == ("authenticated", alice.id)


async def test_legacy_keys(
    connect: Callable[[str], Awaitable[AsyncClient]], sign: Callable[..., str], alice: User
) -> None:
    for wanted in ("anon", "service_role"):
        client = await connect(sign(alice.id, lifetime=60, role=wanted))
        found: Any = (await client.rpc("conformance_who", {}).execute()).data
        assert found["role"] == wanted


async def test_only_the_secret_key_may(
    server: AsyncClient, alice: User, http: httpx.AsyncClient, supabase: Supabase
) -> None:
    assert (await server.rpc("conformance_service_only", {}).execute()).data == "yes"
    path = "/rest/v1/rpc/conformance_service_only"
    headers = {"apikey": supabase.publishable_key}
    visitor = await http.post(path, headers=headers, json={})
    assert (visitor.status_code, visitor.json()["code"]) == (401, "42501")
    user = await http.post(path, headers={**headers, "Authorization": f"Bearer {alice.token}"}, json={})
    assert (user.status_code, user.json()["code"]) == (403, "42501")
    assert user.json()["message"] == "permission denied for function conformance_service_only"


async def test_no_key(http: httpx.AsyncClient) -> None:
    for path in ("/rest/v1/conformance_notes", "/auth/v1/user"):
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"apikey": "sb_publishable_wrong"})).status_code == 401


async def test_expired_and_forged_tokens(
    http: httpx.AsyncClient, supabase: Supabase, alice: User, sign: Callable[..., str]
) -> None:
    expired = sign(alice.id, lifetime=-60)
    forged = sign(alice.id, lifetime=60, key="x" * 40)
    for token in (expired, forged):
        headers = {"apikey": supabase.publishable_key, "Authorization": f"Bearer {token}"}
        rest = await http.post(WHO, headers=headers, json={})
        assert rest.status_code == 401
        assert rest.json().keys() == {"code", "message", "details", "hint"}
        if token is expired:
            assert (rest.json()["code"], rest.json()["message"]) == ("PGRST303", "JWT expired")
        else:
            assert rest.json()["code"] == "PGRST301"
        auth = await http.get("/auth/v1/user", headers=headers)
        assert (auth.status_code, auth.json()["error_code"]) == (403, "bad_jwt")


@differs("Auth has no admin API")
async def test_admin(server: AsyncClient, alice: User) -> None:
    assert (await server.auth.admin.get_user_by_id(alice.id)).user.email == alice.email
