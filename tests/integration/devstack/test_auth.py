"""Auth, with the official client and with plain HTTP."""

from __future__ import annotations

import uuid
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from supabase import AsyncClientOptions, AuthApiError, acreate_client

from devstack.stack import Stack
from tests.integration.devstack.conftest import User, sign_up


async def test_official_client_signs_up_in_and_out(embedded: Stack) -> None:
    env = embedded.environment
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(auto_refresh_token=False, httpx_client=http)
        client = await acreate_client(env["SUPABASE_URL"], env["SUPABASE_PUBLISHABLE_KEY"], options)
        email = f"{uuid.uuid4()}@example.com"
        signed_up = await client.auth.sign_up({"email": email, "password": "correct horse"})
        assert signed_up.session is not None, "no confirmation is required"
        assert signed_up.user is not None
        await client.table("notes").insert({"body": "mine", "data": {"a": 1}}).execute()
        [note] = (await client.table("notes").select("user_id, body, data").execute()).data
        assert note == {"user_id": signed_up.user.id, "body": "mine", "data": {"a": 1}}

        again = await client.auth.sign_in_with_password({"email": email, "password": "correct horse"})
        assert again.session is not None
        refreshed = await client.auth.refresh_session()
        assert refreshed.session is not None
        assert refreshed.session.refresh_token != again.session.refresh_token
        who = await client.auth.get_user()
        assert who is not None
        assert who.user.email == email
        await client.auth.sign_out()
        with pytest.raises(AuthApiError, match="Invalid login credentials"):
            await client.auth.sign_in_with_password({"email": email, "password": "wrong"})


async def test_sign_out_ends_session(http: httpx.AsyncClient, anon: dict[str, str]) -> None:
    user = await sign_up(http, anon)
    assert (await http.get("/auth/v1/user", headers=user.headers)).status_code == 200
    assert (await http.post("/auth/v1/logout", headers=user.headers)).status_code == 204
    assert (await http.get("/auth/v1/user", headers=user.headers)).status_code == 403
    refresh = await http.post(
        "/auth/v1/token?grant_type=refresh_token",
        headers=anon,
        json={"refresh_token": user.session["refresh_token"]},
    )
    assert refresh.status_code == 400


async def test_sign_up_rejects_known_email_and_weak_password(
    http: httpx.AsyncClient, anon: dict[str, str], alice: User
) -> None:
    twice = await http.post("/auth/v1/signup", headers=anon, json={"email": alice.email, "password": "correct horse"})
    assert (twice.status_code, twice.json()["error_code"]) == (422, "user_already_exists")
    weak = await http.post("/auth/v1/signup", headers=anon, json={"email": "x@example.com", "password": "x"})
    assert (weak.status_code, weak.json()["error_code"]) == (422, "weak_password")


async def test_auth_users_supports_triggers_and_cascades(
    embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str]
) -> None:
    """A migration may add a trigger to auth.users, and deleting a user cascades."""
    user = await sign_up(http, anon)
    async with await psycopg.AsyncConnection.connect(embedded.environment["SUPABASE_DB_URL"], autocommit=True) as db:
        count = "select count(*) from public.profiles where id = %s"
        assert await (await db.execute(count, (user.id,))).fetchone() == (1,)
        await db.execute("delete from auth.users where id = %s", (user.id,))
        assert await (await db.execute(count, (user.id,))).fetchone() == (0,)


async def test_api_roles_cannot_read_auth_tables(embedded: Stack) -> None:
    async with await psycopg.AsyncConnection.connect(embedded.admin_url) as db:
        for role in ("anon", "authenticated", "service_role", "authenticator"):
            for table in ("users", "refresh_tokens", "sessions", "identities"):
                row = await (
                    await db.execute("select has_table_privilege(%s, %s, 'select')", (role, f"auth.{table}"))
                ).fetchone()
                assert row == (False,), (role, table)


async def recover(embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str], email: str, page: str) -> str | None:
    """Ask for a new password. Returns the link of the email, or None if there is none."""
    before = len(embedded.mails)
    asked = await http.post("/auth/v1/recover", params={"redirect_to": page}, headers=anon, json={"email": email})
    assert (asked.status_code, asked.json()) == (200, {})
    mails = list(embedded.mails)[before:]
    assert all(mail.startswith(f"email to {email}, Reset Your Password: http") for mail in mails)
    return mails[-1].rpartition(" ")[2] if mails else None


def landed(response: httpx.Response) -> tuple[str, dict[str, str]]:
    """The page that a link leads to, and what the address's fragment says."""
    assert response.status_code == 303
    page, _, fragment = response.headers["location"].partition("#")
    return page, {name: values[0] for name, values in parse_qs(fragment).items()}


async def test_recovery_prints_a_link_that_works_once(
    embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str]
) -> None:
    user = await sign_up(http, anon)
    page = "http://127.0.0.1:5173/chat"
    assert await recover(embedded, http, anon, f"{uuid.uuid4()}@example.com", page) is None
    link = await recover(embedded, http, anon, user.email, page)
    assert link is not None
    assert urlsplit(link).path == "/auth/v1/verify"

    where, values = landed(await http.get(link))
    assert (where, values["type"], values["token_type"]) == (page, "recovery", "bearer")
    headers = anon | {"Authorization": f"Bearer {values['access_token']}"}
    changed = await http.put("/auth/v1/user", headers=headers, json={"password": "another horse"})
    assert changed.status_code == 200
    signed_in = await http.post(
        "/auth/v1/token?grant_type=password",
        headers=anon,
        json={"email": user.email, "password": "another horse"},
    )
    assert signed_in.status_code == 200

    where, values = landed(await http.get(link))
    assert (where, values["error"], values["error_code"]) == (page, "access_denied", "otp_expired")


async def test_recovery_link_expires_after_an_hour(
    embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str]
) -> None:
    user = await sign_up(http, anon)
    link = await recover(embedded, http, anon, user.email, "http://127.0.0.1:5173")
    assert link is not None
    async with await psycopg.AsyncConnection.connect(embedded.admin_url, autocommit=True) as db:
        await db.execute(
            "update auth.users set recovery_sent_at = recovery_sent_at - interval '61 minutes' where email = %s",
            (user.email,),
        )
    _, values = landed(await http.get(link))
    assert values["error_code"] == "otp_expired"


async def test_recovery_link_leads_to_no_foreign_page(
    embedded: Stack, http: httpx.AsyncClient, anon: dict[str, str]
) -> None:
    user = await sign_up(http, anon)
    link = await recover(embedded, http, anon, user.email, "https://evil.example.com/")
    assert link is not None
    where, values = landed(await http.get(link))
    assert where == embedded.environment["SUPABASE_URL"]
    assert "access_token" in values
