"""The Supabase under test: the embedded one, or another one configured in the environment.

To test another one, for example that of `supabase start`, set `SUPABASE_URL`, `SUPABASE_PUBLISHABLE_KEY` and
`SUPABASE_SECRET_KEY`. The tests need `SUPABASE_DB_URL` to create and change tables; without it, apply `schema.sql` by
hand, and tests that change tables are skipped. They need `SUPABASE_JWT_SECRET` to sign tokens; without it, tests that
do so are skipped. Test users have addresses at example.com and are deleted afterwards.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from devstack.stack import Stack

FOLDER = Path(__file__).parent
PASSWORD = "correct horse battery"
# Read at import, because the tests themselves run without these variables.
GIVEN = {name: value for name, value in os.environ.items() if name.startswith("SUPABASE_")}


def differs(how: str) -> pytest.MarkDecorator:
    """Mark a difference between the embedded and the hosted Supabase; docs/devstack.md lists it too."""
    return pytest.mark.xfail(condition="SUPABASE_URL" not in GIVEN, reason=how, strict=True)


@dataclass(frozen=True, slots=True)
class Supabase:
    """A project and the credentials for it. `patience` is how many seconds to wait for expected messages."""

    url: str
    publishable_key: str
    secret_key: str
    database: str | None
    jwt_secret: str | None
    patience: float


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user with an official client."""

    client: AsyncClient
    id: str
    email: str
    token: str
    refresh_token: str


def _project(values: dict[str, str], *, embedded: bool) -> Supabase:
    return Supabase(
        url=values["SUPABASE_URL"],
        publishable_key=values["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=values["SUPABASE_SECRET_KEY"],
        database=values.get("SUPABASE_DB_URL"),
        jwt_secret=values.get("SUPABASE_JWT_SECRET"),
        patience=5 if embedded else 20,
    )


if "SUPABASE_URL" in GIVEN:

    @pytest.fixture(scope="session")
    async def bare() -> Supabase:
        return _project(GIVEN, embedded=False)

else:

    @pytest.fixture(scope="session")
    async def bare(stack: Stack) -> Supabase:
        return _project(stack.environment, embedded=True)


@pytest.fixture(scope="package")
async def supabase(bare: Supabase) -> AsyncIterator[Supabase]:
    """The project, with the tables and functions of `schema.sql`."""
    if bare.database is not None:
        await run_script(bare.database, "schema.sql")
    headers = {"apikey": bare.secret_key}
    async with httpx.AsyncClient(base_url=bare.url, headers=headers, timeout=30) as http:
        deadline = time.monotonic() + 15  # REST reloads the schema with a delay
        while (response := await http.post("/rest/v1/rpc/conformance_nothing", json={})).status_code != 204:
            if bare.database is None:
                pytest.skip("apply tests/conformance/schema.sql first, or set SUPABASE_DB_URL")
            assert time.monotonic() < deadline, response.text
    yield bare
    if bare.database is not None:
        await run_script(bare.database, "drop.sql")


async def run_script(database: str, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute((FOLDER / name).read_bytes())


@pytest.fixture
async def http(supabase: Supabase) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client without a key."""
    async with httpx.AsyncClient(base_url=supabase.url, timeout=30) as client:
        yield client


@pytest.fixture
async def connect(supabase: Supabase) -> AsyncIterator[Callable[[str], Awaitable[AsyncClient]]]:
    """Creates official clients with a key."""
    opened: list[tuple[AsyncClient, httpx.AsyncClient]] = []

    async def connect(key: str) -> AsyncClient:
        http = httpx.AsyncClient(timeout=30)
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=True, httpx_client=http)
        opened.append((await acreate_client(supabase.url, key, options), http))
        return opened[-1][0]

    yield connect
    for client, session in opened:
        await client.realtime.close()
        await session.aclose()


@pytest.fixture
async def visitor(supabase: Supabase, connect: Callable[[str], Awaitable[AsyncClient]]) -> AsyncClient:
    """A client that is not signed in."""
    return await connect(supabase.publishable_key)


@pytest.fixture
async def server(supabase: Supabase, connect: Callable[[str], Awaitable[AsyncClient]]) -> AsyncClient:
    """A client with the secret key."""
    return await connect(supabase.secret_key)


@pytest.fixture
async def sign_up(
    supabase: Supabase, server: AsyncClient, connect: Callable[[str], Awaitable[AsyncClient]]
) -> AsyncIterator[Callable[[], Awaitable[User]]]:
    """Creates users with a confirmed email address."""
    created: list[str] = []

    async def sign_up() -> User:
        email = f"{uuid.uuid4()}@example.com"
        await server.auth.admin.create_user({"email": email, "password": PASSWORD, "email_confirm": True})
        client = await connect(supabase.publishable_key)
        response = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert response.session is not None
        session = response.session
        created.append(session.user.id)
        return User(client, session.user.id, email, session.access_token, session.refresh_token)

    yield sign_up
    for user_id in created:
        await server.auth.admin.delete_user(user_id)


@pytest.fixture
async def alice(sign_up: Callable[[], Awaitable[User]]) -> User:
    return await sign_up()


@pytest.fixture
async def bob(sign_up: Callable[[], Awaitable[User]]) -> User:
    return await sign_up()


@pytest.fixture
async def bucket(server: AsyncClient) -> AsyncIterator[str]:
    """A private bucket in which each user has a folder with the user's id as its name. It is deleted afterwards."""
    name = f"conformance-{uuid.uuid4()}"
    await server.storage.create_bucket(
        name, options={"public": False, "file_size_limit": 100_000, "allowed_mime_types": ["image/png", "text/plain"]}
    )
    yield name
    await delete_bucket(server, name)


async def delete_bucket(server: AsyncClient, name: str) -> None:
    """Remove a bucket's objects, then the bucket. The hosted service would empty it later, so this does."""
    files = server.storage.from_(name)
    while found := (await files.list_v2({"with_delimiter": False})).objects:
        removed = await files.remove([one.name for one in found])
        assert removed, [one.name for one in found]
    await server.storage.delete_bucket(name)


@pytest.fixture
def sign(supabase: Supabase) -> Callable[..., str]:
    """Signs tokens like the project's Auth."""
    if supabase.jwt_secret is None:
        pytest.skip("SUPABASE_JWT_SECRET is not set")
    secret = supabase.jwt_secret

    def sign(user_id: str, *, lifetime: float, role: str = "authenticated", key: str = secret) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {"sub": user_id, "role": role, "aud": "authenticated"}
        return jwt.encode(claims | {"iat": now, "exp": int(now + lifetime)}, key, "HS256")

    return sign
