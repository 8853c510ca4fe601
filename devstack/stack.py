"""The embedded Supabase: starts its parts in order and stops them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from devstack import DevstackError, keys, migrations, realtime, state, storage
from devstack.gateway import Gateway
from devstack.lite import Lite
from devstack.postgres import SUPERUSER, Postgres
from devstack.realtime import Realtime
from devstack.realtime.limits import NO_LIMITS, Limits
from devstack.realtime.wal import ReplicationLost
from devstack.storage import Storage

_HERE = Path(__file__).parent
_RESTART_SECONDS = 0.5


class Stack:
    """An embedded Supabase with its data in one folder, as an async context manager.

    `port` is the port on 127.0.0.1 (0 picks a free one). `polling_delay` is the range, in seconds,
    within which a change reaches a `postgres_changes` subscriber; `denied_delay` is how many seconds
    a rejected join waits for its reply. Both default to the values of the hosted service. `limits`
    are the Realtime limits of a plan. `fsync=False` is for tests. `progress` is called with a line
    for each step. `project` is the folder that contains `supabase/migrations`.

    Tests can stop and start the parts separately: `postgres`, `lite`, `realtime`, `storage` and `gateway`.

    On entry, raises `DevstackError` if a part cannot start and `PortInUse` if the port is taken.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 54321,
        *,
        postgres_version: int = 18,
        fsync: bool = True,
        polling_delay: tuple[float, float] = (0.1, 0.5),
        denied_delay: float = 5.0,
        limits: Limits = NO_LIMITS,
        progress: Callable[[str], None] = lambda _: None,
        project: Path = migrations.PROJECT,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self._port = port
        self._version = postgres_version
        self._fsync = fsync
        self._polling_delay = polling_delay
        self._denied_delay = denied_delay
        self._limits = limits
        self._progress = progress
        self.project = project
        self._exit = contextlib.AsyncExitStack()
        self.lite_restarts = 0
        # the last emails that Auth would have sent, a line each
        self.mails: deque[str] = deque(maxlen=100)
        self._keys: keys.Keys
        self.postgres: Postgres
        self.lite: Lite
        self.realtime: Realtime
        self.storage: Storage
        self.gateway: Gateway

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a program needs to use this Supabase."""
        return {
            "SUPABASE_URL": self.gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": self._keys.publishable_key,
            "SUPABASE_SECRET_KEY": self._keys.secret_key,
            "SUPABASE_JWT_SECRET": self._keys.jwt_secret,
            "SUPABASE_DB_URL": self.postgres.dsn("postgres", self._keys.postgres),
        }

    @property
    def admin_url(self) -> str:
        """The superuser's connection URL, which the hosted service does not provide."""
        return self.postgres.dsn(SUPERUSER, self._keys.supabase_admin)

    async def __aenter__(self) -> Self:
        """Start everything; if that fails or is cancelled, stop the parts already started."""
        async with contextlib.AsyncExitStack() as opened:
            await self._start(opened)
            self._exit = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        await self._exit.aclose()

    async def failed(self) -> str:
        """Wait until a part fails; return which one and why, in one line."""
        waiting = [asyncio.ensure_future(part.ended()) for part in (self.postgres, self.realtime)]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _got_mail(self, mail: str) -> None:
        self._progress(mail)
        self.mails.append(mail)

    async def _keep_lite(self) -> None:
        """Restart REST and Auth when they exit, as the hosted service does.

        Their driver (postgres 3.4.9) can crash Node when the database is restarted under load.
        """
        while True:
            reason = await self.lite.ended()
            self.lite_restarts += 1
            self._progress(f"Restarting Auth and REST: {reason} …")
            while True:
                await self.lite.stop()
                try:
                    await self.lite.start()
                    break
                except DevstackError:
                    await asyncio.sleep(_RESTART_SECONDS)  # the database is down

    async def _start(self, opened: contextlib.AsyncExitStack) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        opened.enter_context(state.locked(self.data_dir))
        self._keys = keys.load(self.data_dir / "keys.json")
        logs = self.data_dir / "logs"

        # First, so that nothing else starts if the port is taken.
        self.gateway = Gateway(port=self._port, lite_port=lambda: self.lite.port)
        opened.push_async_callback(self.gateway.stop)
        self.gateway.reserve()

        self.lite = Lite(log=logs / "lite.log", fast_passwords=not self._fsync, on_mail=self._got_mail)
        self.postgres = Postgres(
            self.data_dir / f"postgres-{self._version}",
            password=self._keys.supabase_admin,
            log=logs / "postgres.log",
            version=self._version,
            fsync=self._fsync,
        )
        self._progress(f"Postgres {self._version} …")
        opened.push_async_callback(self.postgres.stop)
        opened.push_async_callback(self.lite.stop)
        await self.lite.load()
        await self.postgres.start()
        await self._prepare()

        api_keys = {self._keys.publishable_key: "anon", self._keys.secret_key: "service_role"}
        self.realtime = Realtime(
            dsn=self.admin_url,
            jwt_secret=self._keys.jwt_secret,
            api_keys=api_keys,
            polling_delay=self._polling_delay,
            denied_delay=self._denied_delay,
            limits=self._limits,
        )
        self.storage = Storage(
            dsn=self.admin_url,
            folder=self.data_dir / f"storage-{self._version}",  # as the database: their rows name the files
            jwt_secret=self._keys.jwt_secret,
            api_keys=api_keys,
            fsync=self._fsync,
        )
        opened.push_async_callback(self.storage.stop)
        await self.storage.start()
        await self.gateway.start([*self.realtime.routes(), *self.storage.routes()])

        self._progress("Auth and REST …")
        await self.lite.start(
            {
                "rest": self.postgres.dsn("authenticator", self._keys.authenticator),
                "auth": self.postgres.dsn("supabase_auth_admin", self._keys.supabase_auth_admin),
                "reader": self.admin_url,
                "publishableKey": self._keys.publishable_key,
                "secretKey": self._keys.secret_key,
                "jwtSecret": self._keys.jwt_secret,
                "siteUrl": self.gateway.url,
            }
        )
        database = self.environment["SUPABASE_DB_URL"]
        if pending := await migrations.pending(database, self.project):
            self._progress(f"Migrations ({len(pending)} new) …")
            await migrations.push(database, home=self.data_dir / "cli", project=self.project)
        await self.lite.reload()

        self._progress("Realtime …")
        opened.push_async_callback(self.realtime.stop)
        await self._start_realtime()
        opened.enter_context(state.published(self.data_dir, self.environment))
        keeper = asyncio.create_task(self._keep_lite(), name="keep REST and Auth")
        opened.push_async_callback(_cancelled, keeper)

    async def _start_realtime(self) -> None:
        # To create a replication slot, Postgres waits for all open write transactions to finish.
        waiting = asyncio.get_running_loop().call_later(
            2.0, self._progress, "Realtime is waiting for open write transactions to finish …"
        )
        try:
            await self.realtime.start()
        except (psycopg.Error, ReplicationLost, OSError) as error:
            raise DevstackError(f"Realtime did not start: {str(error).strip()}") from error
        finally:
            waiting.cancel()

    async def _prepare(self) -> None:
        """Create the roles, schemas and functions that migrations rely on, and set the roles' passwords."""
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            await connection.execute((_HERE / "bootstrap.sql").read_bytes())
            for role, password in self._keys.passwords.items():
                await connection.execute(
                    sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(password))
                )
            await connection.execute((_HERE / "auth.sql").read_bytes())
            await connection.execute(realtime.SCHEMA_SQL.encode())
            await connection.execute(storage.SCHEMA_SQL.encode())
            await connection.execute((_HERE / "guard.sql").read_bytes())


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has finished."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
