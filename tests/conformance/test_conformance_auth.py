"""API keys, tokens and sessions behave as on the hosted service."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import jwt
import pytest
from supabase import AsyncClient, AuthApiError, AuthWeakPasswordError

from tests.conformance.conftest import PASSWORD, Supabase, User

WHO = "/rest/v1/rpc/conformance_who"


async def test_sign_in_returns_session_or_error(alice: User, visitor: AsyncClient) -> None:
    with pytest.raises(AuthApiError) as refused:
        await visitor.auth.sign_in_with_password({"email": alice.email, "password": "wrong"})
    assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")
    response = await visitor.auth.sign_in_with_password({"email": alice.email, "password": PASSWORD})
    assert response.user is not None
    assert (response.user.id, response.user.email, response.user.role) == (alice.id, alice.email, "authenticated")
    assert response.session is not None
    assert (response.session.token_type, response.session.expires_in) == ("bearer", 3600)


async def test_sign_up_rejects_invalid_input(
    alice: User, visitor: AsyncClient, http: httpx.AsyncClient, supabase: Supabase
) -> None:
    settings = (await http.get("/auth/v1/settings", headers={"apikey": supabase.publishable_key})).json()
    if settings["mailer_autoconfirm"]:
        with pytest.raises(AuthApiError) as known:
            await visitor.auth.sign_up({"email": alice.email, "password": PASSWORD})
        assert (known.value.status, known.value.code) == (422, "user_already_exists")
    else:  # a project that confirms addresses does not reveal whether one is registered
        hidden = await visitor.auth.sign_up({"email": alice.email, "password": PASSWORD})
        assert hidden.user is not None
        assert hidden.user.identities == []
    with pytest.raises(AuthWeakPasswordError):
        await visitor.auth.sign_up({"email": f"{uuid.uuid4()}@example.com", "password": "short"})
    with pytest.raises(AuthApiError) as invalid:
        await visitor.auth.sign_up({"email": "nonsense", "password": PASSWORD})
    assert invalid.value.code == "validation_failed"


async def test_user_can_change_password(alice: User, visitor: AsyncClient) -> None:
    with pytest.raises(AuthApiError) as same:
        await alice.client.auth.update_user({"password": PASSWORD})
    assert (same.value.status, same.value.code) == (422, "same_password")
    with pytest.raises(AuthWeakPasswordError):
        await alice.client.auth.update_user({"password": "short"})
    await alice.client.auth.update_user({"password": f"{PASSWORD} 2"})
    with pytest.raises(AuthApiError):
        await visitor.auth.sign_in_with_password({"email": alice.email, "password": PASSWORD})
    signed_in = await visitor.auth.sign_in_with_password({"email": alice.email, "password": f"{PASSWORD} 2"})
    assert signed_in.session is not None


async def test_token_has_hosted_claims(alice: User, server: AsyncClient) -> None:
    await server.auth.admin.update_user_by_id(alice.id, {"app_metadata": {"plan": "pro"}})
    refreshed = (await alice.client.auth.refresh_session()).session
    assert refreshed is not None
    before, after = (
        jwt.decode(token, options={"verify_signature": False}) for token in (alice.token, refreshed.access_token)
    )
    always = {"aal", "amr", "app_metadata", "aud", "email", "exp", "iat", "is_anonymous", "iss", "phone", "role"}
    for claims in (before, after):
        assert claims.keys() >= always | {"session_id", "sub", "user_metadata"}
        assert (claims["sub"], claims["aal"], claims["is_anonymous"]) == (alice.id, "aal1", False)
        assert claims["exp"] - claims["iat"] == 3600
    assert (before["session_id"], before["amr"]) == (after["session_id"], after["amr"])
    assert "plan" not in before["app_metadata"]
    assert after["app_metadata"]["plan"] == "pro"
    found: Any = (await alice.client.rpc("conformance_who", {}).execute()).data
    assert found["claims"]["app_metadata"]["plan"] == "pro"


async def test_jwks_endpoint_returns_keys(http: httpx.AsyncClient) -> None:
    response = await http.get("/auth/v1/.well-known/jwks.json")
    assert response.status_code == 200
    assert isinstance(response.json()["keys"], list)


async def test_anonymous_sign_in_is_disabled(visitor: AsyncClient) -> None:
    with pytest.raises(AuthApiError) as anonymous:
        await visitor.auth.sign_in_anonymously()
    assert (anonymous.value.status, anonymous.value.code) == (422, "anonymous_provider_disabled")


async def test_user_can_change_metadata(alice: User) -> None:
    changed = await alice.client.auth.update_user({"data": {"name": "Älice"}})
    assert changed.user.user_metadata["name"] == "Älice"
    found = await alice.client.auth.get_user()
    assert found is not None
    assert found.user.user_metadata["name"] == "Älice"


async def test_refresh_rotates_token(alice: User, visitor: AsyncClient) -> None:
    refreshed = await alice.client.auth.refresh_session()
    assert refreshed.session is not None
    assert refreshed.session.refresh_token != alice.refresh_token
    assert refreshed.session.user.id == alice.id
    again = await alice.client.auth.refresh_session()
    assert again.session is not None
    with pytest.raises(AuthApiError) as unknown:
        await visitor.auth.refresh_session(alice.refresh_token[::-1])
    # depends on the token format, of which Auth has had two
    assert unknown.value.code in ("refresh_token_not_found", "validation_failed")
    assert unknown.value.status == 400


async def test_sign_out_ends_session(alice: User, visitor: AsyncClient) -> None:
    await alice.client.auth.sign_out()
    with pytest.raises(AuthApiError) as ended:
        await visitor.auth.refresh_session(alice.refresh_token)
    assert ended.value.status == 400
    with pytest.raises(AuthApiError) as missing:
        await visitor.auth.get_user(alice.token)
    assert (missing.value.status, missing.value.code) == (403, "session_not_found")


async def test_opaque_key_has_its_role(http: httpx.AsyncClient, supabase: Supabase, alice: User) -> None:
    async def role(**headers: str) -> Any:
        response = await http.post(WHO, headers=headers, json={})
        assert response.status_code == 200, response.text
        return response.json()["role"], response.json()["uid"]

    publishable, secret = supabase.publishable_key, supabase.secret_key
    assert await role(apikey=publishable) == ("anon", None)
    assert await role(apikey=publishable, Authorization=f"Bearer {publishable}") == ("anon", None)
    assert await role(apikey=secret) == ("service_role", None)
    assert await role(apikey=secret, Authorization=f"Bearer {secret}") == ("service_role", None)
    assert await role(apikey=publishable, Authorization=f"Bearer {alice.token}") == ("authenticated", alice.id)
    assert await role(apikey=secret, Authorization=f"Bearer {alice.token}") == ("authenticated", alice.id)


async def test_legacy_key_has_its_role(
    connect: Callable[[str], Awaitable[AsyncClient]], sign: Callable[..., str], alice: User
) -> None:
    for wanted in ("anon", "service_role"):
        client = await connect(sign(alice.id, lifetime=60, role=wanted))
        found: Any = (await client.rpc("conformance_who", {}).execute()).data
        assert found["role"] == wanted


async def test_service_function_requires_secret_key(
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


async def test_missing_or_wrong_key_returns_401(http: httpx.AsyncClient) -> None:
    for path in ("/rest/v1/conformance_notes", "/auth/v1/user"):
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers={"apikey": "sb_publishable_wrong"})).status_code == 401


async def test_invalid_token_is_rejected(
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


async def test_admin_api_manages_users(server: AsyncClient, visitor: AsyncClient) -> None:
    admin, email = server.auth.admin, f"{uuid.uuid4()}@example.com"
    with pytest.raises(AuthWeakPasswordError) as weak:
        await admin.create_user({"email": email, "password": "short"})
    assert (weak.value.status, weak.value.reasons) == (422, ["length"])
    user = (await admin.create_user({"email": email, "password": PASSWORD, "app_metadata": {"plan": "pro"}})).user
    try:
        assert (user.email, user.role, user.email_confirmed_at) == (email, "authenticated", None)
        assert user.app_metadata == {"provider": "email", "providers": ["email"], "plan": "pro"}
        assert user.identities is not None
        assert [identity.provider for identity in user.identities] == ["email"]
        with pytest.raises(AuthApiError) as twice:
            await admin.create_user({"email": email.upper()})
        assert (twice.value.status, twice.value.code) == (422, "email_exists")
        with pytest.raises(AuthApiError) as unconfirmed:
            await visitor.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert (unconfirmed.value.status, unconfirmed.value.code) == (400, "email_not_confirmed")
        await admin.update_user_by_id(user.id, {"email_confirm": True, "user_metadata": {"name": "A", "age": 3}})
        changed = await admin.update_user_by_id(user.id, {"email": f"b{email}", "user_metadata": {"age": None}})
        assert changed.user.user_metadata["name"] == "A"
        assert "age" not in changed.user.user_metadata
        signed_in = await visitor.auth.sign_in_with_password({"email": f"b{email}", "password": PASSWORD})
        assert signed_in.user is not None
        assert signed_in.user.app_metadata["plan"] == "pro"
        await admin.update_user_by_id(user.id, {"password": PASSWORD})  # setting the same password again is allowed
        assert (await admin.get_user_by_id(user.id)).user.email == f"b{email}"
        assert user.id in {one.id for one in await admin.list_users(page=1, per_page=200)}
    finally:
        await admin.delete_user(user.id)
    with pytest.raises(AuthApiError) as missing:
        await admin.get_user_by_id(user.id)
    assert (missing.value.status, missing.value.code) == (404, "user_not_found")
    with pytest.raises(AuthApiError) as signed_out:
        await visitor.auth.refresh_session()
    assert signed_out.value.status == 400


async def test_admin_api_requires_secret_key(alice: User, http: httpx.AsyncClient, supabase: Supabase) -> None:
    path, headers = f"/auth/v1/admin/users/{alice.id}", {"apikey": supabase.publishable_key}
    for method in ("GET", "DELETE"):
        for token in (alice.token, supabase.publishable_key):
            refused = await http.request(method, path, headers={**headers, "Authorization": f"Bearer {token}"})
            assert refused.status_code in (401, 403)
    found = await http.get(path, headers={"apikey": supabase.secret_key})
    assert found.json()["id"] == alice.id
    page = await http.get("/auth/v1/admin/users?per_page=1", headers={"apikey": supabase.secret_key})
    assert len(page.json()["users"]) == 1
    assert int(page.headers["x-total-count"]) >= 1
