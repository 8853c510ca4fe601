"""One embedded Supabase for these tests, with a schema of their own."""

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
    """A signed-in user: the headers that a client of theirs sends, and what signing up answered."""

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
    """The Supabase that these tests share. A test that stops a part starts it again."""
    folder = tmp_path_factory.mktemp("data")
    async with Stack(folder, 0, postgres_version=postgres_version(), fsync=False, project=project) as stack:
        yield stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(embedded: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of the front port, without any key."""
    async with httpx.AsyncClient(base_url=embedded.gateway.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def anon(embedded: Stack) -> dict[str, str]:
    """The headers of a visitor who is not signed in."""
    return {"apikey": embedded.environment["SUPABASE_PUBLISHABLE_KEY"]}


@pytest.fixture(scope="session")
def service(embedded: Stack) -> dict[str, str]:
    """The headers of a server with the secret key, as the official clients send them."""
    key = embedded.environment["SUPABASE_SECRET_KEY"]
    return {"apikey": key, "Authorization": f"Bearer {key}"}


async def sign_up(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    """Make a new user."""
    email, password = f"{uuid.uuid4()}@example.com", "correct horse"
    answer = await http.post("/auth/v1/signup", headers=anon, json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    session = answer.json()
    headers = {**anon, "Authorization": f"Bearer {session['access_token']}"}
    return User(session["user"]["id"], email, password, headers, session)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def alice(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    """A user."""
    return await sign_up(http, anon)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bob(http: httpx.AsyncClient, anon: dict[str, str]) -> User:
    """Another user."""
    return await sign_up(http, anon)
