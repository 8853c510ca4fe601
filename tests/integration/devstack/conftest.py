"""An embedded Supabase for these tests, with its own schema."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from devstack.__main__ import postgres_version
from devstack.stack import Stack

SCHEMA = (Path(__file__).parent / "schema.sql").read_text()


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user: the headers of their requests, and the response to the sign-up."""

    id: str
    email: str
    password: str
    headers: dict[str, str]
    session: dict[str, object]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with one migration."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "supabase" / "migrations").mkdir(parents=True)
    (folder / "supabase" / "migrations" / "20260101000000_schema.sql").write_text(SCHEMA)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded(tmp_path_factory: pytest.TempPathFactory, project: Path) -> AsyncIterator[Stack]:
    """The shared Supabase. A test that stops a part must restart it."""
    folder = tmp_path_factory.mktemp("data")
    async with Stack(folder, 0, postgres_version=postgres_version(), fsync=False, project=project) as stack:
        yield stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(embedded: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client without a key."""
    async with httpx.AsyncClient(base_url=embedded.gateway.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def anon(embedded: Stack) -> dict[str, str]:
    """Headers of a client that is not signed in."""
    return {"apikey": embedded.environment["SUPABASE_PUBLISHABLE_KEY"]}


@pytest.fixture(scope="session")
def service(embedded: Stack) -> dict[str, str]:
    """Headers of a client with the secret key, as the official clients send them."""
    key = embedded.environment["SUPABASE_SECRET_KEY"]
    return {"apikey": key, "Authorization": f"Bearer {key}"}


async def sign_up(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    """Create a user."""
    email, password = f"{uuid.uuid4()}@example.com", "correct horse"
    response = await http.post("/auth/v1/signup", headers=anon, json={"email": email, "password": password})
    assert response.status_code == 200, response.text
    session = response.json()
    headers = {**anon, "Authorization": f"Bearer {session['access_token']}"}
    return User(session["user"]["id"], email, password, headers, session)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def alice(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    return await sign_up(http, anon)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bob(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    return await sign_up(http, anon)
