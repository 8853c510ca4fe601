"""What the surroundings do to the commands: each fault is one line with a remedy, and whatever is printed arrives."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from bridge.store import Store
from tests.support import ROOT, shipped
from tests.support.commands import LLM, read_until, run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.workers import worker_settings

NOBODY = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x"}
COMMAND = f"exec {sys.executable} -m bridge.cli"
STRANGE = "\x1b[31mred\x07\nforged line\r\x85\x9b31m\u2028\u202eü\u200b\x7f"


async def run_shell(script: str, env: Mapping[str, str], folder: Path = ROOT) -> Process:
    """Start a shell in `folder`, for what only a shell can do to the streams and the folder of a command."""
    return await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **LLM, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def assert_one_line(code: int, err: str, *texts: str) -> None:
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("bridge: ")
    for text in texts:
        assert text in err


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "SOCKS"),
        ("https_proxy", "socks5h://127.0.0.1:9", "SOCKS"),
        ("HTTP_PROXY", "socks5://127.0.0.1:9", "SOCKS"),
        ("SOCKS_PROXY", "http://127.0.0.1:9", "SOCKS"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "not the address of a proxy"),
        ("HTTPS_PROXY", "http://[::1", "not the address of a proxy"),
        ("HTTPS_PROXY", "http://user:hidden@127.0.0.1:port", "not the address of a proxy"),
        ("HTTPS_PROXY", "127.0.0.1:3128", "http://proxy.example:3128"),
        ("HTTPS_PROXY", "https://127.0.0.1:99999", "not the address of a proxy"),
        ("SSL_CERT_FILE", "/nonexistent.pem", "No such file"),
        ("SSL_CERT_FILE", str(ROOT), "directory"),
        ("SSL_CERT_FILE", str(ROOT / "README.md"), "no certificate"),
        ("SSL_CERT_DIR", "/nonexistent", "no certificates"),
        ("SSL_CERT_DIR", str(ROOT), "no certificates"),
        ("SSL_CERT_DIR", str(ROOT / "README.md"), "Not a directory"),
        ("SSLKEYLOGFILE", "/nonexistent/log", "SSLKEYLOGFILE cannot be written"),
        ("SUPABASE_URL", "http://xn--", "SUPABASE_URL"),
        ("SUPABASE_URL", "http://exämple..com", "SUPABASE_URL"),
        ("SUPABASE_SECRET_KEY", "sb_secret_\x01", "SUPABASE_SECRET_KEY"),
    ],
)
async def test_fault_of_the_environment_is_one_line(name: str, value: str, text: str) -> None:
    code, out, err = await wait_for_exit(await run_bridge("status", **(NOBODY | {name: value})))
    assert_one_line(code, err, name, text)
    assert out == ""
    assert "hidden" not in err, "the password of a proxy"


@pytest.mark.parametrize("command", [["run"], ["doctor"], ["dead", "list"]])
async def test_every_command_reports_a_fault_of_the_environment(command: list[str]) -> None:
    for fault in ({"ALL_PROXY": "socks5://127.0.0.1:9"}, {"SSLKEYLOGFILE": "/nonexistent/log"}):
        code, _, err = await wait_for_exit(await run_bridge(*command, **(NOBODY | fault)))
        assert_one_line(code, err, *fault)


@pytest.mark.parametrize(
    "change",
    [
        {
            "NO_PROXY": "10.0.0.0/8,localhost,.example.com,*.example.com,::1,::1/128,[::1],fe80::/10,host:port",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        },
        {"NO_PROXY": "*", "ALL_PROXY": "socks5://127.0.0.1:9"},
        {"SSL_CERT_FILE": ""},
        {"TZ": "Nowhere/At_All"},
        {"TZ": ":/etc/passwd", "LC_ALL": "xx_YY.nonsense", "LANG": "C"},
        {"HOME": "", "TMPDIR": "/nonexistent", "COLUMNS": "wide", "TERM": "nonsense"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
    ids=str,
)
async def test_unusual_environment_changes_nothing(environment: dict[str, str], change: dict[str, str]) -> None:
    code, out, err = await wait_for_exit(await run_bridge("status", **(environment | change)))
    assert (code, err) == (0, "")
    assert out.startswith("queued ")


async def test_bytes_of_another_encoding_are_one_line() -> None:
    for name in ("BRIDGE_HANDLERS", "BRIDGE_LOG_LEVEL", "SUPABASE_URL", "SUPABASE_SECRET_KEY", "OF_OTHERS"):
        for command in ("run", "doctor", "status") if name.startswith("SUPABASE") else ("run", "doctor"):
            script = f"export {name}=$(printf '\\377') && {COMMAND} {command}"
            assert_one_line(*await _code_and_err(await run_shell(script, NOBODY)), name)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "a" * 70, "192.0.2.1"])
async def test_health_host_that_cannot_be_used_is_one_line(environment: dict[str, str], host: str) -> None:
    code, _, err = await wait_for_exit(await run_bridge("run", **environment, BRIDGE_HEALTH_HOST=host))
    assert_one_line(code, err, "BRIDGE_HEALTH_HOST", host)


@pytest.mark.parametrize("content", [b"A=\xff\xfe\n", b"A=a\0b\n"])
async def test_unreadable_env_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert_one_line(*await _code_and_err(await run_shell(f"{COMMAND} status", NOBODY, tmp_path)), ".env", "UTF-8")


async def test_fault_named_in_the_env_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ALL_PROXY=socks5://127.0.0.1:9\n")
    assert_one_line(*await _code_and_err(await run_shell(f"{COMMAND} status", NOBODY, tmp_path)), "ALL_PROXY")


async def test_deleted_working_directory_is_one_line(tmp_path: Path) -> None:
    script = f"mkdir gone && cd gone && rmdir ../gone && {COMMAND} status"
    assert_one_line(*await _code_and_err(await run_shell(script, NOBODY, tmp_path)), "working directory")


async def _code_and_err(process: Process) -> tuple[int, str]:
    code, _, err = await wait_for_exit(process)
    return code, err


async def test_closed_streams_change_nothing_but_what_is_read(environment: dict[str, str]) -> None:
    for closed, wanted in ((">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)):
        code, out, err = await wait_for_exit(await run_shell(f"{COMMAND} status {closed}", environment))
        assert (code, err) == (wanted, "")
        assert ("queued" in out) == (closed == "2>&-")
    code, out, err = await wait_for_exit(await run_shell(f"{COMMAND} status 2>&-", {"SUPABASE_URL": ""}))
    assert (code, out, err) == (2, "", "")  # the complaint does not end up in the output
    code, _, _ = await wait_for_exit(await run_shell(f"{COMMAND} doctor >&-", environment))
    assert code in (0, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
async def test_output_that_cannot_be_written_is_one_line(environment: dict[str, str]) -> None:
    for command in ("status", "--help"):
        code, _, err = await wait_for_exit(await run_shell(f"{COMMAND} {command} > /dev/full", environment))
        assert code == 1
        assert err == "bridge: The output cannot be written (No space left on device). Send it elsewhere.\n"


# Stops at the import of pydantic until it is killed.
SLOW = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(30)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["run", "status"])
async def test_signal_during_imports_prints_nothing(
    tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    process = await run_bridge(command, **NOBODY, PYTHONPATH=str(tmp_path))
    await read_until(process, "importing")
    process.send_signal(number)
    assert await wait_for_exit(process) == (code, "", "")


async def test_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """As of a background job of a shell script."""
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    script = f"trap '' INT; PYTHONPATH={tmp_path} {COMMAND} status"
    process = await run_shell(script, NOBODY)
    await read_until(process, "importing")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert (await wait_for_exit(process))[0] == 143


async def start_changed(change: str, environment: Mapping[str, str]) -> Process:
    """Start `bridge run` after `change`, a statement of Python."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{change}\nfrom bridge.cli import main\nmain(['run'])"),
        cwd=shipped.project(),
        env={"PATH": os.environ["PATH"], "BRIDGE_HEALTH_PORT": "0", **LLM, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


NO_HANDLERS = """
import asyncio
def refuse(*_): raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse"""
NO_HOST_NAME = """
import socket
def refuse(): raise OSError("no name")
socket.gethostname = refuse"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_worker_drains_where_the_loop_takes_no_signals(
    environment: dict[str, str], number: signal.Signals
) -> None:
    """As on Windows."""
    process = await start_changed(NO_HANDLERS, environment)
    await read_until(process, "health on port")
    process.send_signal(number)
    code, _, err = await wait_for_exit(process)
    assert code == 0, err
    assert '"drained"' in err


async def test_worker_starts_without_a_host_name(environment: dict[str, str]) -> None:
    process = await start_changed(NO_HOST_NAME, environment)
    assert '"worker": "worker-' in await read_until(process, "health on port")
    process.send_signal(signal.SIGTERM)
    assert (await wait_for_exit(process))[0] == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
async def test_names_of_others_are_printed_in_any_encoding_as_text(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row], encoding: str
) -> None:
    """Neither a terminal's command nor a line of their own comes out of a function's or a worker's name."""
    session_id = await user.open_session()
    message_id = await user.ask(session_id, "hello")
    # the database refuses such a name today; a row of before may have it
    constraint = "sessions_function_printable"
    checked = await db.execute(
        "select pg_get_constraintdef(oid) as it from pg_constraint where conname = %s", (constraint,)
    )
    definition = (await checked.fetchall())[0]["it"]
    await db.execute(f"alter table public.sessions drop constraint {constraint}".encode())
    await db.execute("update public.sessions set function = %s where id = %s", (STRANGE, session_id))
    await db.execute("delete from bridge.jobs where question_id = %s", (message_id,))
    await db.execute(
        "insert into bridge.dead_letters (question_id, session_id, attempt, failures, error)"
        " select id, session_id, 1, 1, jsonb_build_object('code', %s::text, 'message', %s::text)"
        " from public.messages where id = %s",
        ("x", STRANGE, message_id),
    )
    store = await Store.open(worker_settings(environment), STRANGE)
    try:
        await store.claim(1, [], ["Nothing"])
        for command in (("status",), ("status", "--json"), ("dead", "list"), ("dead", "list", "--json")):
            env = environment | {"PYTHONIOENCODING": encoding}
            process = await run_bridge(*command, **env)
            async with asyncio.timeout(30):
                out, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
            shown = out.decode(encoding)
            assert "red" in shown
            assert "\nforged" not in shown
            assert all(character.isprintable() or character == "\n" for character in shown), repr(shown)
    finally:
        await store.leave()
        await store.close()
        await db.execute("delete from public.sessions where id = %s", (session_id,))
        await db.execute(f"alter table public.sessions add constraint {constraint} {definition}".encode())


async def test_doctor_prints_what_it_found_in_ascii() -> None:
    env = NOBODY | {"PYTHONIOENCODING": "ascii", "BRIDGE_FUNCTIONS": STRANGE.replace("\n", "") + "Übersetzung"}
    code, out, err = await wait_for_exit(await run_bridge("doctor", **env))
    assert (code, err) == (2, "")
    assert "\\xdcbersetzung" in out
    assert "\x1b" not in out


async def test_argument_with_control_characters_is_shown_as_text() -> None:
    code, _, err = await wait_for_exit(await run_bridge("status", "\x1b[31mred"))
    assert code == 2
    assert "\\x1b[31mred" in err
    assert "\x1b" not in err
