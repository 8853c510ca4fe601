"""Starting, stopping and killing the devstack, and restarting it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest

from devstack import DevstackError, PortInUse, privileges, state
from devstack.__main__ import main, postgres_version
from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.integration.devstack.processes import descendants, linux, wait_until_ended

SECONDS = 60


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@contextlib.asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m devstack …`; kill it at the end if it is still running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ready(process: asyncio.subprocess.Process) -> str:
    """Wait for the line `ready URL` and return the URL."""
    assert process.stdout is not None
    output = b""
    async with asyncio.timeout(SECONDS):
        async for line in process.stdout:
            output += line
            if match := re.fullmatch(rb"ready (http://127\.0\.0\.1:\d+)\n", line):
                return match[1].decode()
    raise AssertionError(output)


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_stop_ends_all_processes_and_keeps_data(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    async with command("--data", str(data), "--port", "0") as process:
        url = await ready(process)
        env = state.running(data)
        assert env["SUPABASE_URL"] == url
        with psycopg.connect(env["SUPABASE_DB_URL"], autocommit=True) as db:
            db.execute("create table public.kept (id int); insert into public.kept values (7)")
        family = descendants(process.pid)
        assert len(family) > 5, "Postgres with its child processes, and Node"
        process.send_signal(number)
        async with asyncio.timeout(15):
            code = await process.wait()
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        await wait_until_ended(*family)
    with pytest.raises(DevstackError, match="no devstack is running"):
        state.running(data)

    async with Stack(data, 0, postgres_version=postgres_version()) as stack:
        assert stack.environment["SUPABASE_SECRET_KEY"] == env["SUPABASE_SECRET_KEY"]
        with psycopg.connect(stack.environment["SUPABASE_DB_URL"]) as db:
            assert db.execute("select id from public.kept").fetchone() == (7,)


async def test_sigterm_during_start_stops_cleanly(tmp_path: Path) -> None:
    async with command("--data", str(tmp_path), "--port", "0") as process:
        assert process.stdout is not None
        assert b"Postgres" in await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            output, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        assert b"ready" not in output


async def test_env_command_prints_running_environment(
    embedded: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(main, ["env", "--data", str(embedded.data_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "SUPABASE_URL",
        "SUPABASE_PUBLISHABLE_KEY",
        "SUPABASE_SECRET_KEY",
        "SUPABASE_JWT_SECRET",
        "SUPABASE_DB_URL",
    ]
    assert dict(line.split("=", 1) for line in lines) == embedded.environment
    assert await asyncio.to_thread(main, ["env", "--data", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_secrets_are_readable_only_by_owner(embedded: Stack) -> None:
    for name in ("keys.json", "state.json"):
        assert stat.S_IMODE((embedded.data_dir / name).stat().st_mode) == 0o600, name


async def test_second_devstack_on_folder_is_rejected(embedded: Stack) -> None:
    with pytest.raises(DevstackError, match="another devstack is using") as error:
        await Stack(embedded.data_dir, 0).__aenter__()
    one_line(error)


async def failing(*arguments: str, **variables: str) -> tuple[int | None, str]:
    """Run a command that must fail; return its exit code and its one-line error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack", *arguments),
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()
    [line] = errors.decode().splitlines()
    return process.returncode, line


async def test_port_in_use_exits_before_starting_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} is in use.*--port") as error:
            await Stack(tmp_path, port).__aenter__()
        one_line(error)
        assert "postgres" not in " ".join(os.listdir(tmp_path)), "nothing was started"
        code, line = await failing("--data", str(tmp_path), "--port", str(port))
        assert (code, line) == (2, f"devstack: {error.value}")


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "x"], ["nonsense"], ["--nonsense"]])
def test_bad_arguments_print_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["17", "newest"])
async def test_unknown_postgres_version_names_supported_ones(tmp_path: Path, version: str) -> None:
    code, line = await failing("--data", str(tmp_path), "--port", "0", DEVSTACK_POSTGRES=version)
    assert code == 1
    assert "18" in line
    assert "16" in line


def server(folder: Path, version: int = 18) -> Postgres:
    return Postgres(folder / "postgres", password="secret", log=folder / "log", version=version, fsync=False)


async def select_one(postgres: Postgres) -> None:
    dsn = postgres.dsn("supabase_admin", "secret")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        assert await (await connection.execute("select 1")).fetchone() == (1,)


@pytest.mark.parametrize("version", [18, 16])
async def test_postgres_version_starts_and_stops(tmp_path: Path, version: int) -> None:
    postgres = server(tmp_path, version)
    await postgres.start()
    try:
        async with await psycopg.AsyncConnection.connect(postgres.dsn("supabase_admin", "secret")) as connection:
            assert connection.info.server_version // 10000 == version
    finally:
        await postgres.stop()
    assert postgres.pid is None


async def test_incomplete_folder_is_initialised_again(tmp_path: Path) -> None:
    draft = tmp_path / "postgres.new"
    (draft / "base").mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "pg_wal").mkdir()
    (tmp_path / "postgres.password").write_text("old")
    postgres = server(tmp_path)
    await postgres.start()
    try:
        await select_one(postgres)
    finally:
        await postgres.stop()
    assert sorted(os.listdir(tmp_path)) == ["log", "postgres"]


@pytest.mark.parametrize("content", ["999999\n/nowhere\n1\n2\n\n127.0.0.1\n 1 2\nready\n", "{other}\n", "", "x"])
async def test_stale_pid_file_does_not_block_start(tmp_path: Path, content: str) -> None:
    """The pid of an ended process, of another program, and a partially written file."""
    postgres = server(tmp_path)
    await postgres.start()
    await postgres.stop()
    (tmp_path / "postgres" / "postmaster.pid").write_text(content.format(other=os.getppid()))
    await postgres.start()
    try:
        await select_one(postgres)
    finally:
        await postgres.stop()


async def test_start_stops_orphan_of_killed_run(tmp_path: Path) -> None:
    first, second = server(tmp_path), server(tmp_path)
    await first.start()
    pid = first.pid
    assert pid is not None
    try:
        await second.start()  # as after a kill on a system that does not end orphans
        assert second.pid not in (None, pid)
        await wait_until_ended(pid)
        await select_one(second)
    finally:
        await second.stop()
        await first.stop()


async def test_postgres_crash_is_reported(tmp_path: Path) -> None:
    postgres = server(tmp_path)
    await postgres.start()
    try:
        ended = asyncio.create_task(postgres.ended())
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert "Postgres exited unexpectedly" in await ended
        await postgres.start()
        await select_one(postgres)
    finally:
        await postgres.stop()


async def test_failing_migration_is_reported_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "20260101000000_good.sql").write_text("create table public.good (id int);")
    (folder / "20260101000001_bad.sql").write_text("create table public.bad (id int); select 1/0;")
    with pytest.raises(DevstackError, match=r"20260101000001_bad\.sql.*division by zero") as error:
        await Stack(
            tmp_path / "data", 0, postgres_version=postgres_version(), fsync=False, project=tmp_path / "project"
        ).__aenter__()
    one_line(error)
    (folder / "20260101000001_bad.sql").write_text("create table public.bad (id int);")
    async with (
        Stack(
            tmp_path / "data", 0, postgres_version=postgres_version(), fsync=False, project=tmp_path / "project"
        ) as stack,
        httpx.AsyncClient(base_url=stack.gateway.url) as client,
    ):
        key = {"apikey": stack.environment["SUPABASE_SECRET_KEY"]}
        for table in ("good", "bad"):
            assert (await client.get(f"/rest/v1/{table}", headers=key)).json() == []


async def test_migration_whose_file_is_gone_is_named_with_a_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "20260101000000_mine.sql").write_text("create table public.mine (id int);")

    def start() -> Stack:
        version = postgres_version()
        return Stack(tmp_path / "data", 0, postgres_version=version, fsync=False, project=tmp_path / "project")

    async with start():
        pass
    (folder / "20260101000000_mine.sql").unlink()
    async with start():
        pass  # nothing is to be applied
    (folder / "20260101000001_next.sql").write_text("create table public.next (id int);")
    with pytest.raises(DevstackError, match=r"files are gone .*: 20260101000000\. .* delete the data folder") as error:
        await start().__aenter__()
    assert "repair" not in one_line(error)


async def test_damaged_keys_are_reported(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(DevstackError, match="damaged") as error:
        await Stack(tmp_path, 0).__aenter__()
    one_line(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_postgres_runs_as_ordinary_user(tmp_path: Path) -> None:
    nobody = privileges.account((tmp_path, Path(sys.executable)))
    assert nobody is not None
    other = pwd.getpwnam("daemon")  # any existing user: initdb looks up the name
    user = privileges.Account(other.pw_uid, other.pw_gid, nobody.capability)
    os.chown(tmp_path, user.uid, user.gid)
    script = """
import asyncio, pathlib, sys
from devstack.postgres import Postgres

async def main(folder):
    postgres = Postgres(folder / "postgres", password="x", log=folder / "log", fsync=False)
    await postgres.start()
    print(pathlib.Path(f"/proc/{postgres.pid}").stat().st_uid)
    await postgres.stop()

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path)),
        preexec_fn=user.assume(),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"%d\n" % user.uid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")
def test_root_keeps_only_needed_capability(tmp_path: Path) -> None:
    open_path, closed = tmp_path / "open", tmp_path / "closed"
    open_path.mkdir()
    closed.mkdir(mode=0o700)
    account = privileges.account((closed,))
    assert account is not None
    assert account.uid != 0
    assert account.capability is not None
    plain = privileges.account((Path("/usr"),))
    assert plain is not None
    assert plain.capability is None
