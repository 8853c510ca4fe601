"""A Realtime server under test, and a Postgres set up like the devstack's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import psycopg
from aiohttp import web

import devstack
from devstack.__main__ import postgres_version
from devstack.postgres import Postgres
from devstack.realtime import SCHEMA_SQL, Realtime
from devstack.realtime.limits import NO_LIMITS, Clock, Limits
from tests.integration.devstack.realtime.client import Client

SECRET = "a-secret-for-tests-with-more-than-32-characters"
PUBLISHABLE, SECRET_KEY = "sb_publishable_test", "sb_secret_test"
USER_1 = "11111111-1111-1111-1111-111111111111"
USER_2 = "22222222-2222-2222-2222-222222222222"
PASSWORD = "postgres"
Sql = Callable[..., Awaitable[list[tuple[Any, ...]]]]


def token(role: str = "authenticated", sub: str | None = USER_1, *, lifetime: float = 3600, **more: str) -> str:
    """Sign a token; `more` are additional claims."""
    claims: dict[str, Any] = {"role": role, "exp": int(time.time() + lifetime), **more}
    if sub is not None:
        claims["sub"] = sub
    return jwt.encode(claims, SECRET, algorithm="HS256")


async def execute(dsn: str, text: str) -> None:
    """Run a script."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(text)


@asynccontextmanager
async def running_postgres(folder: Path, setup: str, *, version: int | None = None) -> AsyncIterator[Postgres]:
    """Run a Postgres set up like the devstack's; the role `postgres` then runs the script `setup`."""
    version = version or postgres_version()
    postgres = Postgres(folder / "data", password=PASSWORD, log=folder / "log", version=version, fsync=False)
    await postgres.start()
    try:
        admin = postgres.dsn("supabase_admin", PASSWORD)
        sources = Path(devstack.__file__).parent
        await execute(admin, (sources / "bootstrap.sql").read_text())
        await execute(admin, f"alter role postgres password '{PASSWORD}'")
        await execute(admin, (sources / "auth.sql").read_text())
        for _ in range(2):  # it is idempotent
            await execute(admin, SCHEMA_SQL)
            await execute(admin, (sources / "guard.sql").read_text())
        await execute(postgres.dsn("postgres", PASSWORD), setup)
        yield postgres
    finally:
        await postgres.stop()


@asynccontextmanager
async def policy(postgres: Postgres, condition: str, *, before: str = "", after: str = "") -> AsyncIterator[None]:
    """Add a policy that lets users read private topics if the condition holds."""
    dsn = postgres.dsn("postgres", PASSWORD)
    await execute(
        dsn, f"{before}; create policy tested on realtime.messages for select to authenticated using ({condition})"
    )
    try:
        yield
    finally:
        await execute(dsn, f"drop policy tested on realtime.messages; {after}")


class Service:
    """A running Realtime server."""

    def __init__(self, realtime: Realtime, url: str, session: aiohttp.ClientSession) -> None:
        self.realtime = realtime
        self.url = url
        self.session = session
        self._opened = AsyncExitStack()

    async def connect(self, vsn: str = "1.0.0", key: str = PUBLISHABLE) -> Client:
        """Open a socket; it is closed together with the server."""
        websocket = await self.session.ws_connect(f"{self.url}/websocket?apikey={key}&vsn={vsn}")
        self._opened.push_async_callback(websocket.close)
        return Client(websocket, vsn)

    async def close(self) -> None:
        await self._opened.aclose()


@asynccontextmanager
async def served(
    postgres: Postgres,
    *,
    polling_delay: tuple[float, float] = (0.0, 0.0),
    denied_delay: float = 0.05,
    idle_seconds: float = 65.0,
    limits: Limits = NO_LIMITS,
    clock: Clock = time.monotonic,
) -> AsyncIterator[Service]:
    """Run a Realtime server on a free port."""
    realtime = Realtime(
        dsn=postgres.dsn("supabase_admin", PASSWORD),
        jwt_secret=SECRET,
        api_keys={PUBLISHABLE: "anon", SECRET_KEY: "service_role"},
        polling_delay=polling_delay,
        denied_delay=denied_delay,
        idle_seconds=idle_seconds,
        limits=limits,
        clock=clock,
    )
    application = web.Application()
    application.add_routes(realtime.routes())
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    await realtime.start()
    async with aiohttp.ClientSession() as session:
        service = Service(realtime, f"http://127.0.0.1:{port}/realtime/v1", session)
        try:
            yield service
        finally:
            await service.close()
            await realtime.stop()
            await runner.cleanup()
