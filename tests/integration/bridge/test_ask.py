"""`bridge ask`, as a developer runs it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeChannel

from bridge import ask as asking
from bridge.account import credentials
from bridge.errors import RealtimeError
from bridge.realtime.connection import Connection
from bridge.rest import connect
from bridge.settings import load
from devstack.model import ModelServer
from devstack.stack import Stack
from tests.integration.bridge.baml.conftest import generate
from tests.support import ROOT, database
from tests.support.commands import run_bridge, wait_for_exit
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working

MOST_WAIT = 60.0


@pytest.fixture(autouse=True)
async def _deleted_users(stack: Stack, environment: dict[str, str]) -> AsyncIterator[None]:
    yield
    await database.delete_all_users(stack.admin_url)
    async with database.database(stack.admin_url) as connection:
        await connection.execute("delete from public.functions")


@pytest.fixture
async def _worker(environment: dict[str, str]) -> AsyncIterator[None]:
    async with working(environment, functions="Chat,Code,Compare"):
        yield


async def ask(environment: Mapping[str, str], *arguments: str, **env: str) -> tuple[int, str, str]:
    return await wait_for_exit(await run_bridge("ask", *arguments, **{**environment, **env}), MOST_WAIT)


async def count(db: psycopg.AsyncConnection[Row], table: str) -> int:
    row = await (await db.execute(f"select count(*) as n from {table}")).fetchone()
    assert row is not None
    return int(row["n"])


async def run_with_stdin(environment: Mapping[str, str], text: bytes, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.cli", "ask", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(MOST_WAIT):
        out, err = await process.communicate(text)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.usefixtures("_worker")
async def test_ask_prints_the_reply_and_leaves_one_user(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    for _ in range(2):
        assert await ask(environment, "Chat", '[[text="hello, world"]]') == (0, "hello, world\n", "")
    assert await count(db, "public.sessions") == 0
    assert await count(db, "auth.users") == 1
    assert await count(db, "auth.sessions") == 0


async def read_some(process: Process, *, end: str) -> str:
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(MOST_WAIT):
        while not text.endswith(end):
            piece = await process.stdout.read(1000)
            assert piece, text
            text += piece.decode()
    return text


@pytest.mark.usefixtures("_worker")
async def test_text_is_printed_while_it_grows(environment: dict[str, str], model: ModelServer) -> None:
    process = await run_bridge("ask", "Chat", "[[tokens=6 hold=3]]", **environment)
    assert await read_some(process, end="word02 ") == "word00 word01 word02 "
    model.let_go(2)
    code, out, err = await wait_for_exit(process)
    assert (code, out, err) == (0, "word03 word04 word05 \n", "")


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_ctrl_c_cancels_the_reply(
    environment: dict[str, str], model: ModelServer, db: psycopg.AsyncConnection[Row], number: signal.Signals, code: int
) -> None:
    process = await run_bridge("ask", "Chat", "[[tokens=6 hold=3]]", **environment)
    await read_some(process, end="word02 ")
    process.send_signal(number)
    assert (await wait_for_exit(process))[0] == code
    await until(lambda: model.requests[-1].outcome == "dropped", 10)
    assert await count(db, "public.sessions") == 0


@pytest.mark.usefixtures("_worker")
async def test_ctrl_c_with_keep_leaves_a_cancelled_question(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    process = await run_bridge("ask", "--keep", "Chat", "[[tokens=6 hold=3]]", **environment)
    await read_some(process, end="word02 ")
    process.send_signal(signal.SIGINT)
    assert (await wait_for_exit(process))[0] == 130
    rows = await (await db.execute("select status from public.messages order by ordinal")).fetchall()
    assert [row["status"] for row in rows] == ["cancelled", "cancelled"]


@pytest.mark.usefixtures("_worker")
async def test_structure_is_printed_as_json_after_its_text(environment: dict[str, str]) -> None:
    code, out, err = await ask(environment, "Compare", "Train or bus?")
    assert (code, err) == (0, "")
    text, data = out.rstrip("\n").rsplit("\n", 1)
    assert "demo model" in text
    assert [option["name"] for option in json.loads(data)["options"]] == ["Train", "Bus"]
    assert "reply" not in json.loads(data)


@pytest.mark.usefixtures("_worker")
async def test_files_are_listed(environment: dict[str, str]) -> None:
    code, out, _ = await ask(environment, "Code", "Write fizzbuzz in Python")
    assert code == 0
    assert out.splitlines()[-1].startswith("file fizzbuzz.py (")
    assert out.splitlines()[-1].endswith(" bytes)")
    assert "{" not in out


@pytest.mark.usefixtures("_worker")
async def test_json_prints_the_row(environment: dict[str, str]) -> None:
    code, out, err = await ask(environment, "Chat", "[[text=hi]]", "--json")
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert (row["content"], row["status"], row["role"]) == ("hi", "done", "assistant")
    code, out, _ = await ask(environment, "Chat", "[[error=400]]", "--json")
    assert code == 1
    assert json.loads(out)["status"] == "failed"


@pytest.mark.usefixtures("_worker")
async def test_failure_prints_its_code_and_sentence(environment: dict[str, str]) -> None:
    code, out, err = await ask(environment, "Chat", "[[error=400]]")
    assert (code, out) == (1, "")
    assert err.startswith("model_refused: ")
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("_worker")
async def test_unknown_function_names_the_known_ones(environment: dict[str, str]) -> None:
    process = await run_bridge("ask", "Chta", "hello", **environment)
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), MOST_WAIT)).decode()
    assert line == "no worker has described a function named 'Chta'; they answer Chat, Code, Compare\n"
    line = (await asyncio.wait_for(process.stderr.readline(), MOST_WAIT)).decode()
    assert line == "queued: the workers are busy, or none of them answers this function\n"
    process.send_signal(signal.SIGINT)
    assert (await wait_for_exit(process))[0] == 130


@pytest.mark.usefixtures("_worker")
async def test_function_that_no_worker_has_described_is_answered(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    await db.execute("delete from public.functions where name = 'Chat'")
    code, out, err = await ask(environment, "Chat", "[[text=hi]]")
    assert (code, out) == (0, "hi\n")
    assert err == "no worker has described a function named 'Chat'; they answer Code, Compare\n"


@pytest.mark.usefixtures("_worker")
async def test_kept_session_is_continued(environment: dict[str, str], model: ModelServer) -> None:
    code, out, err = await ask(environment, "Chat", "[[text=one]]", "--keep")
    assert (code, out) == (0, "one\n")
    session_id = err.split()[-1]
    assert err == f"session {session_id}\n"
    code, out, _ = await ask(environment, "Chat", "[[text=two]]", "--session", session_id)
    assert (code, out) == (0, "two\n")
    assert [m["content"] for m in model.requests[-1].body["messages"][1:]] == ["[[text=one]]", "one", "[[text=two]]"]
    code, _, err = await ask(environment, "Chat", "x", "--session", str(uuid.uuid4()))
    assert code == 2
    assert "has no session" in err


@pytest.mark.usefixtures("_worker")
async def test_token_asks_as_its_user(environment: dict[str, str], user: Person) -> None:
    session_id = await user.open_session(title="mine")
    code, out, _ = await ask(environment, "Chat", "[[text=hi]]", "--session", session_id, "--token", user.token)
    assert (code, out) == (0, "hi\n")
    assert len(await user.rows("messages")) == 2
    code, _, err = await ask(environment, "Chat", "x", "--session", session_id)
    assert code == 2
    assert "has no session" in err
    code, _, err = await ask(environment, "Chat", "x", "--token", "no.such.token")
    assert code == 1
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("_worker")
async def test_token_is_read_from_stdin(environment: dict[str, str], user: Person) -> None:
    options = ("Chat", "[[text=hi]]", "--session", await user.open_session(title="mine"), "--token", "-")
    assert (await run_with_stdin(environment, f"{user.token}\n".encode(), *options))[:2] == (0, "hi\n")
    assert len(await user.rows("messages")) == 2
    for wrong in (b"", b"\n", b"\xff\n", b"a b\n", b"a\x00b"):
        code, out, err = await run_with_stdin(environment, wrong, *options)
        assert (code, out) == (2, "")
        assert "--token" in err
        assert len(err.splitlines()) == 1


async def test_question_and_token_are_not_both_read_from_stdin(environment: dict[str, str]) -> None:
    code, out, err = await run_with_stdin(environment, b"a.b.c\n", "Chat", "-", "--token", "-")
    assert (code, out) == (2, "")
    assert "only one of QUESTION and --token" in err


@pytest.mark.usefixtures("_worker")
async def test_question_is_read_from_stdin(environment: dict[str, str]) -> None:
    assert (await run_with_stdin(environment, b"[[text=hi]]\n", "Chat", "-"))[:2] == (0, "hi\n")
    assert (await run_with_stdin(environment, b"\xff\x00 [[text=hi]]", "Chat", "-"))[:2] == (0, "hi\n")
    code, _, err = await run_with_stdin(environment, b"", "Chat", "-")
    assert code == 1
    assert "empty" in err


@pytest.mark.usefixtures("_worker")
async def test_question_that_is_too_long_is_refused_in_a_line(environment: dict[str, str]) -> None:
    code, out, err = await run_with_stdin(environment, b"x" * 900_000, "Chat", "-")
    assert (code, out) == (1, "")
    assert "too long" in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("_worker")
async def test_control_characters_of_a_reply_are_escaped(environment: dict[str, str]) -> None:
    hostile = "a\u001b[2Jb\u009bc\u202ed\n\te"
    code, out, _ = await ask(environment, "Chat", f"[[text={json.dumps(hostile)}]]")
    assert (code, out) == (0, "a\\x1b[2Jb\\x9bc\\u202ed\n\te\n")


@pytest.mark.usefixtures("_worker")
async def test_reply_that_begins_again_is_printed_anew(environment: dict[str, str]) -> None:
    code, out, err = await ask(environment, "Chat", "[[tokens=9 delay=0.1 cut=5 times=1]]")
    whole = "".join(f"word{n:02d} " for n in range(9))
    assert code == 0
    assert out.endswith(f"{whole}\n")
    assert out.startswith("word00 ")
    assert err in ("", "the reply begins again\n")


@pytest.mark.usefixtures("_worker")
async def test_text_that_no_json_holds_is_asked_all_the_same(environment: dict[str, str]) -> None:
    data = '{"a": "\\ud800", "b": 1e400, "c": "\\u0000", "d": ' + "9" * 400 + "}"
    assert (await ask(environment, "Chat", "[[text=hi]] \udcff", "--data", data))[:2] == (0, "hi\n")
    code, _, err = await ask(environment, "Ch\udcff\x1bat", "hello")
    assert code == 1
    assert "Traceback" not in err
    assert "\x1b" not in err


async def test_wrong_options_are_refused_in_the_usage(environment: dict[str, str]) -> None:
    for option, value in (("--token", "é"), ("--token", "a b"), ("--token", ""), ("--session", "1"), ("--session", "")):
        code, _, err = await ask(environment, "Chat", "hello", option, value)
        assert code == 2
        assert option in err
        assert "Traceback" not in err


@pytest.mark.usefixtures("_worker")
async def test_reader_that_goes_away_cancels_the_reply(
    environment: dict[str, str], model: ModelServer, db: psycopg.AsyncConnection[Row]
) -> None:
    process = await run_bridge("ask", "Chat", "[[tokens=9 hold=3]]", **environment)
    await read_some(process, end="word02 ")
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # asyncio closes no pipe otherwise
    model.let_go(1)
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    assert await process.wait() == 1
    await until(lambda: model.requests[-1].outcome == "dropped", 10)
    assert await count(db, "public.sessions") == 0


@pytest.mark.usefixtures("_worker")
async def test_structure_is_indented_on_a_terminal(environment: dict[str, str]) -> None:
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.cli", "ask", "Compare", '[[json={"reply": "r", "options": []}]]'),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environment},
            stdout=slave,
            stderr=slave,
        )
        assert await asyncio.wait_for(process.wait(), MOST_WAIT) == 0
        shown = os.read(master, 10_000).decode().replace("\r\n", "\n")
    finally:
        os.close(slave)
        os.close(master)
    assert shown == 'r\n{\n  "options": []\n}\n'


async def test_data_reaches_the_function(environment: dict[str, str], model: ModelServer, tmp_path: Path) -> None:
    client = generate(tmp_path, "asked_baml_client", "other_functions.baml", with_clients=True)
    async with working(environment, functions="Spell", client=client):
        data = '{"letters": ["a", "b"], "loud": true}'
        code, out, _ = await ask(environment, "Spell", "[[text=hi]]", "--data", data)
        assert (code, out) == (0, "hi\n")
        assert "[[text=hi]]ab" in model.requests[-1].body["messages"][0]["content"]
        code, _, err = await ask(environment, "Spell", "[[text=hi]]")
        assert code == 1
        assert err.startswith("bad_arguments: ")


@pytest.mark.parametrize("data", ["no json", "[1]", "1", '{"a": NaN}', "", '{"a"', "[" * 100_000])
async def test_data_that_is_no_object_is_refused(environment: dict[str, str], data: str) -> None:
    code, _, err = await ask(environment, "Chat", "hello", "--data", data)
    assert code == 2
    assert "--data" in err
    assert "Traceback" not in err
    assert len(err) < 2000


async def test_without_a_worker_it_says_so(environment: dict[str, str], db: psycopg.AsyncConnection[Row]) -> None:
    process = await run_bridge("ask", "Chat", "hello", **environment)
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), MOST_WAIT)
    assert line.decode() == "queued: no worker is running (start `make dev` or `bridge run`)\n"
    process.send_signal(signal.SIGINT)
    assert (await wait_for_exit(process))[0] == 130
    assert await count(db, "bridge.jobs") == 0


async def test_wrong_key_and_unreachable_project_are_one_line(environment: dict[str, str]) -> None:
    code, _, err = await ask(environment, "Chat", "hello", SUPABASE_SECRET_KEY="sb_secret_wrong")
    assert code == 2
    assert "refused SUPABASE_SECRET_KEY" in err
    code, _, err = await ask(environment, "Chat", "hello", SUPABASE_URL="http://127.0.0.1:9")
    assert code == 1
    assert "does not answer" in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("_worker")
async def test_account_with_another_password_is_refused_with_a_remedy(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    assert (await ask(environment, "Chat", "[[text=hi]]"))[0] == 0
    changed = await db.execute(
        "update auth.users set encrypted_password = 'x' where raw_app_meta_data->>'bridge' = 'ask'"
    )
    assert changed.rowcount == 1
    code, out, err = await ask(environment, "Chat", "[[text=hi]]")
    assert (code, out) == (2, "")
    assert "Delete that user" in err


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize("knows_password", [True, False])
@pytest.mark.parametrize("is_confirmed", [True, False])
async def test_account_that_somebody_else_made_is_not_used(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row], *, knows_password: bool, is_confirmed: bool
) -> None:
    email, password = credentials(environment["SUPABASE_SECRET_KEY"])
    theirs = password if knows_password else "another one"
    client, http = await connect(load(environment))
    async with http:
        await client.auth.admin.create_user(
            {
                "email": email,
                "password": theirs,
                "email_confirm": is_confirmed,
                "user_metadata": {"bridge": "ask"},
            }
        )
    users = "select encrypted_password, raw_app_meta_data, email_confirmed_at from auth.users"
    before = await (await db.execute(users)).fetchall()
    code, out, err = await ask(environment, "Chat", "hello")
    assert (code, out) == (2, "")
    assert email in err
    assert "--token" in err
    assert len(err.splitlines()) == 1
    assert await (await db.execute(users)).fetchall() == before
    assert await count(db, "public.messages") == 0
    assert await count(db, "auth.sessions") == 0


@pytest.mark.usefixtures("_worker")
async def test_well_known_address_of_a_stranger_is_not_used(
    environment: dict[str, str], db: psycopg.AsyncConnection[Row]
) -> None:
    client, http = await connect(load(environment))
    async with http:
        stranger = (await client.auth.sign_up({"email": "bridge-ask@example.com", "password": "correct horse"})).user
    assert stranger is not None
    assert (await ask(environment, "Chat", "[[text=hi]]", "--keep"))[:2] == (0, "hi\n")
    rows = await (await db.execute("select user_id from public.sessions")).fetchall()
    assert [str(row["user_id"]) == stranger.id for row in rows] == [False]


def test_another_secret_key_has_another_account() -> None:
    one, other = credentials("sb_secret_one"), credentials("sb_secret_other")
    assert one == credentials("sb_secret_one")
    assert not set(one) & set(other)
    digits = one[0].removeprefix("bridge-ask-").removesuffix("@example.com")
    assert len(digits) == 12
    assert digits not in one[1]  # the address tells nothing of the password


async def test_help_has_examples() -> None:
    code, out, _ = await wait_for_exit(await run_bridge("ask", "--help"))
    assert code == 0
    assert "bridge ask Chat" in out
    assert "--data" in out


class Deaf(Connection):
    """A connection that cannot join."""

    async def join(self, channel: AsyncRealtimeChannel) -> None:
        raise RealtimeError("refused")


class HardOfHearing(Connection):
    """A connection that loses every second delta, and all rows."""

    def on_broadcast(self, channel: AsyncRealtimeChannel, event: str, callback: Callable[[Any], None]) -> None:
        def sometimes(message: Any) -> None:
            if event == "delta" and message["payload"]["seq"] % 2:
                callback(message)

        super().on_broadcast(channel, event, sometimes)


@pytest.mark.parametrize("connection", [Deaf, HardOfHearing])
async def test_reply_is_whole_without_realtime(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    connection: type[Connection],
) -> None:
    monkeypatch.setattr("bridge.ask.Connection", connection)
    async with working(environment, functions="Chat"):
        code = await asking.ask(load(environment), asking.Question("Chat", "[[tokens=30 delay=0.05]]"))
    assert (code, capsys.readouterr().out) == (0, "".join(f"word{n:02d} " for n in range(30)) + "\n")


@pytest.fixture
async def _agent(environment: dict[str, str]) -> AsyncIterator[None]:
    async with working(environment, functions="Walk", handlers="tests.support.agents"):
        yield


@pytest.mark.usefixtures("_agent")
async def test_ask_answers_what_the_reply_asks(environment: dict[str, str]) -> None:
    text = json.dumps([["text", "Hello. "], ["ask", "send"]])
    code, out, err = await ask(environment, "Walk", text, "--answer", "yes")
    assert (code, out.split(), err) == (0, ["Hello.", "send:yes"], "")
    code, out, err = await ask(environment, "Walk", text, "--answer", "no")
    assert (code, out.split()) == (0, ["Hello.", "send:no"])
    code, out, err = await ask(environment, "Walk", text)  # nobody sits at a terminal
    assert code == 2
    assert "The reply asks: May I send? Answer in a terminal, or with --answer yes." in err


@pytest.mark.usefixtures("_agent")
async def test_ask_reads_the_answer_from_the_terminal(environment: dict[str, str]) -> None:
    main, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.cli", "ask", "Walk", json.dumps([["ask", "send"]])),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(MOST_WAIT):
        assert b"May I send? (yes/no) " in await process.stderr.readuntil(b") ")
        os.write(main, b"yes\n")
        out, _ = await process.communicate()
    os.close(main)
    os.close(terminal)
    assert (process.returncode, out.split()) == (0, [b"send:yes"])
