"""Brings a database up to date with `supabase/migrations`, by the Supabase CLI (npm `supabase` 3.1.0).

`python -m devstack.migrations baseline` writes the baseline migration from `supabase/schemas`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg

from devstack import DevstackError
from devstack.node import node
from devstack.process import before_exec, end

PROJECT = Path(__file__).resolve().parents[1]
_SECONDS = 300.0
_NAME = re.compile(r"(\d+)_.*\.sql")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def versions(project: Path = PROJECT) -> tuple[str, ...]:
    """Return the versions of the project's migrations, oldest first."""
    return tuple(sorted(match[1] for file in files(project) if (match := _NAME.fullmatch(file.name))))


def files(project: Path = PROJECT) -> tuple[Path, ...]:
    """Return the project's migrations, oldest first."""
    return tuple(sorted((project / "supabase" / "migrations").glob("*.sql")))


def schemas(project: Path = PROJECT) -> tuple[Path, ...]:
    """Return the schema files, in the order in which `supabase/config.toml` lists them."""
    folder = project / "supabase"
    config = tomllib.loads((folder / "config.toml").read_text())
    return tuple(folder / path for path in config["db"]["migrations"]["schema_paths"])


def baseline(project: Path = PROJECT) -> str:
    """Return the schema files as one migration."""
    parts = [f"-- schemas/{file.name}\n\n{file.read_text()}" for file in schemas(project)]
    return "-- Made by `python -m devstack.migrations baseline` from supabase/schemas.\n\n" + "\n\n".join(parts)


def write_baseline(project: Path = PROJECT) -> Path:
    """Write the project's only migration, the baseline, from the schema files; return its path.

    Raises `DevstackError` if there are later migrations: a database may then have the baseline already.
    """
    match files(project):
        case [file] if file.name.endswith("_baseline.sql"):
            file.write_text(baseline(project))
            return file
        case found:
            names = ", ".join(file.name for file in found) or "none"
            raise DevstackError(f"the baseline must be the only migration, but there are: {names}")


async def pending(url: str, project: Path = PROJECT) -> tuple[str, ...]:
    """Return the versions that the database has not seen yet.

    Raises `DevstackError` if there are some, and the database has seen others that the project lacks: they cannot be
    applied then.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        known = await connection.execute("select to_regclass('supabase_migrations.schema_migrations')")
        row = await known.fetchone()
        applied: set[str] = set()
        if row is not None and row[0] is not None:
            rows = await connection.execute("select version from supabase_migrations.schema_migrations")
            applied = {str(version) for (version,) in await rows.fetchall()}
    found = tuple(version for version in versions(project) if version not in applied)
    if found and (gone := sorted(applied - set(versions(project)))):
        raise DevstackError(
            f"new migrations cannot be applied, because this database has migrations whose files are gone from "
            f"supabase/migrations: {', '.join(gone)}. Put the files back, and undo a migration with a new one. Or "
            "start over with an empty database: delete the data folder (.devstack, or the one of --data)"
        )
    return found


async def push(url: str, *, home: Path, project: Path = PROJECT) -> None:
    """Apply what is pending. `home` is where the CLI may keep its own files.

    Raises `DevstackError` with what the CLI says if a migration fails; those before it stay applied.
    """
    try:
        await cli("db", "push", "--include-all", "--skip-vault", url=url, home=home, project=project)
    except DevstackError as error:
        raise DevstackError(f"a migration failed: {error}") from error


async def cli(*arguments: str, url: str, home: Path, project: Path = PROJECT) -> str:
    """Run a command of the CLI against a database and return what it prints to stdout.

    Raises `DevstackError` with what the CLI says, in one line, if it does not end well.
    """
    parts = urlsplit(url)
    # Other users of the machine see a command line: the password goes another way.
    target = urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port}"))
    process = await asyncio.create_subprocess_exec(
        *(await asyncio.to_thread(node), str(script())),
        *("--yes", "--agent", "no", "--workdir", str(project)),
        *(*arguments, f"--remote={target}?sslmode=disable"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home) | {"PGPASSWORD": parts.password or ""},
        start_new_session=True,
        preexec_fn=before_exec(signal.SIGKILL),
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise DevstackError(f"supabase {' '.join(arguments)} took more than {_SECONDS:.0f} s") from None
    finally:
        await end(process, (signal.SIGTERM, 2.0))
    if process.returncode != 0:
        raise DevstackError(_essence((errors + output).decode(errors="replace")))
    return output.decode()


def script() -> Path:
    """Return the CLI's script. Raises `DevstackError` if it is not installed."""
    file = PROJECT / "node_modules" / "supabase" / "dist" / "supabase.js"
    if not file.is_file():
        raise DevstackError("the Supabase CLI is not installed: run `make setup`")
    return file


def environment(home: Path) -> dict[str, str]:
    """The CLI's environment: nothing of ours but the path, no telemetry, no look for updates."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "SUPABASE_HOME": str(home),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "SUPABASE_NO_UPDATE_NOTIFIER": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }


def _essence(output: str) -> str:
    """What the CLI printed, without colours and its own decoration, in one line."""
    lines = [_COLOUR.sub("", line).strip(" │▲■●◇└┌") for line in output.splitlines()]
    return " | ".join(line for line in lines if line)[-4000:]


if __name__ == "__main__":
    if sys.argv[1:] != ["baseline"]:
        sys.exit("usage: python -m devstack.migrations baseline")
    try:
        print(f"{write_baseline().relative_to(PROJECT)} is up to date")
    except DevstackError as problem:
        sys.exit(f"devstack: {problem}")
