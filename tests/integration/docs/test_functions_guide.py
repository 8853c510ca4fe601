"""The functions and handlers of docs/functions.md and README.md compile, load, and answer as the pages promise."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from bridge.baml import arguments, media
from bridge.model import CodeFile, Message, Session, Turn
from devstack.migrations import PROJECT
from devstack.model import ModelServer
from tests.integration.docs.conftest import CLI, SIGN_IN, Program, write_project
from tests.support.blocks import code_of, in_page, rows_of
from tests.support.database import Row
from tests.support.objects import FILES, upload
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import WorkerProcess

PAGE = PROJECT / "docs" / "functions.md"
README = in_page("README.md", "js")
ASKS = in_page("docs/functions.md", "js")
CHECKED = [*code_of("baml", "python"), *README, *ASKS]

RECIPE = {
    "reply": "Boil it. Then wait.",
    "title": "Egg",
    "ingredients": [{"name": "egg", "grams": 60}, {"name": "salt", "grams": None}],
    "files": [{"path": "egg.md", "content": "# Egg", "language": "markdown"}],
}


def asked(model: ModelServer, role: str) -> str:
    """The messages of this role in the last request to the model."""
    return "\n".join(str(item["content"]) for item in model.requests[-1].body["messages"] if item["role"] == role)


async def ask(worker: WorkerProcess, user: Person, function: str, text: str, **columns: object) -> Row:
    """The reply to a question in a new session that has a title."""
    assert worker.runs, worker.log.read_text()[-2000:]
    return await user.reply(await user.ask(await user.open_session(function, title="named"), text, **columns))


def test_baml_blocks_compile(tmp_path: Path) -> None:
    write_project(tmp_path, code_of("baml"))
    ran = subprocess.run([CLI, "check"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_clients_set_timeouts_and_no_retry_policy() -> None:
    clients = [block.text for block in in_page("docs/functions.md", "baml") if block.text.startswith("client<llm>")]
    assert len(clients) == 8
    for client in clients:
        assert "retry_policy" not in client
        for option in ("connect", "time_to_first_token", "idle", "request"):
            assert f"{option}_timeout_ms" in client or "provider aws-bedrock" in client, client


async def test_translate_gets_its_argument_from_data(
    worker: WorkerProcess, program: Program, user: Person, model: ModelServer
) -> None:
    (block,) = ASKS
    (row,) = await program(
        user,
        SIGN_IN.text,
        block.text,
        "const ended = async () => (await supabase.from('messages').select().eq('role', 'assistant')).data[0];",
        "await until(async () => (await ended())?.status === 'done');",
        "console.log(JSON.stringify(await ended()));",
        "process.exit(0);",
    )
    assert row["content"]
    translation = next(item for item in model.requests if "Translate" in str(item.body["messages"][0]["content"]))
    system, question = translation.body["messages"]
    assert (system["role"], question["role"]) == ("system", "user")
    assert system["content"].strip() == "Translate what the user writes into French."
    assert question["content"].strip() == "Good morning"


async def test_readme_frontend_shows_reply(worker: WorkerProcess, program: Program, user: Person) -> None:
    (block,) = README
    # the README inserts before its channel has joined, so delay the insert until it has
    delay_insert = """
        const send = globalThis.fetch;
        globalThis.fetch = async (url, options) => {
          const asks = options.method === "POST" && new URL(url).pathname === "/rest/v1/messages";
          if (asks) await until(() => supabase.getChannels().every(({ state }) => state === "joined"));
          return send(url, options);
        };
    """
    (seen,) = await program(
        user,
        delay_insert,
        SIGN_IN.text,
        "const { data: session } = await supabase.from('sessions').insert({ title: 'named' }).select().single();",
        "const [shown, updates] = [{}, []];",
        "const show = (id, text) => (shown[id] = (shown[id] ?? '') + text);",
        "const update = (row) => updates.push(row);",
        block.text,
        "const done = () => updates.find(({ role, status }) => role === 'assistant' && status === 'done');",
        "await until(done);",
        "console.log(JSON.stringify({ shown, row: done() }));",
        "process.exit(0);",
    )
    assert seen["row"]["content"].startswith("Hello!")
    assert seen["shown"] == {seen["row"]["id"]: seen["row"]["content"]}


async def test_echo_repeats_message(worker: WorkerProcess, user: Person) -> None:
    assert (await ask(worker, user, "Echo", "one  two"))["content"] == "one two "


async def test_attachments_are_read_and_given(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    session_id = await user.open_session("Read", title="named")
    named = [await upload(user, session_id, kind) for kind in ("image/png", "text/plain")]
    reply = await user.reply(await user.ask(session_id, "what is it?", attachments=named))
    assert (reply["status"], reply["error"]) == ("done", None)
    assert FILES["text/plain"].decode().partition("\r")[0] in asked(model, "user")
    assert base64.b64encode(FILES["image/png"]).decode() in asked(model, "user")
    session_id = await user.open_session("Outline", title="named")
    named = [await upload(user, session_id, kind) for kind in ("image/png", "text/plain")]
    reply = await user.reply(await user.ask(session_id, "", attachments=named))
    assert reply["content"] == "You sent 2."
    (file,) = (part for part in reply["parts"] if part["type"] == "file")
    path = file["url"].removeprefix("attachments/")
    listed = await user.client.storage.from_("attachments").download(path)
    assert listed.decode().splitlines()[0] == f"a.png: {len(FILES['image/png'])} bytes, image/png"


async def test_cook_streams_data_and_writes_file(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    session_id = await user.open_session("Cook", title="named")
    events = await user.listen(f"session:{session_id}")
    question = await user.ask(session_id, f"[[delay=0.03 json={json.dumps(RECIPE)}]]", data={"servings": 4})
    reply = await user.reply(question)
    assert (reply["status"], reply["content"], reply["data"]) == ("done", RECIPE["reply"], RECIPE)
    assert "Give a recipe for 4." in asked(model, "system")
    await events.until(lambda seen: seen.of("message", role="assistant", status="done"))
    deltas = events.of("delta")
    assert "".join(delta["text"] for delta in deltas if "text" in delta) == RECIPE["reply"]
    snapshots = [delta["data"] for delta in deltas if "data" in delta]
    assert snapshots
    assert all(set(snapshot) <= {"title", "ingredients"} for snapshot in snapshots)
    (file,) = await user.rows("code_files", session_id=session_id)
    assert (file["path"], file["content"]) == ("egg.md", "# Egg")


async def test_cook_drops_file_that_cannot_be_stored(
    worker: WorkerProcess, user: Person, model: ModelServer, db: psycopg.AsyncConnection[Row]
) -> None:
    session_id = await user.open_session("Cook", title="named")
    recipe = RECIPE | {"files": [{"path": "x" * 513, "content": "", "language": None}]}
    question = await user.ask(session_id, f"[[json={json.dumps(recipe)}]]")
    reply = await user.reply(question)
    assert (reply["status"], reply["data"]) == ("done", recipe)
    assert "Give a recipe." in asked(model, "system")
    assert await user.rows("code_files", session_id=session_id) == []
    (run,) = await (await db.execute("select error from bridge.runs where question_id = %s", [question])).fetchall()
    assert "code_files_path" in run["error"]["detail"]


async def test_count_stops_at_its_argument(worker: WorkerProcess, user: Person) -> None:
    session_id = await user.open_session("Count", title="named")
    reply = await user.reply(await user.ask(session_id, "one two three"))
    assert (reply["status"], reply["content"], reply["data"]) == ("done", "3 words: ott", {"words": 3})
    (file,) = await user.rows("code_files", session_id=session_id)
    assert (file["path"], file["content"], file["language"]) == ("words.txt", "one\ntwo\nthree", "text")
    failed = await user.reply(await user.ask(session_id, "one two three", data={"most": 2}))
    assert (failed["status"], failed["attempt"]) == ("failed", 1)
    assert failed["error"] == {"code": "too_many_words", "message": "I count to 2."}


async def test_investigate_reads_file_and_answers(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    session_id = await user.open_session("Investigate", title="named")
    finish = f"[[json={json.dumps({'tool': 'finish', 'answer': 'It is 42.'})}]]"
    await (
        user.client.table("code_files")
        .insert({"session_id": session_id, "path": "a.py", "content": f"answer = 42  # {finish}"})
        .execute()
    )
    step = json.dumps({"tool": "open_file", "path": "a.py"})
    known = len(model.requests)
    reply = await user.reply(await user.ask(session_id, f"What is the answer? [[json={step}]]"))
    assert (reply["status"], reply["content"]) == ("done", "It is 42."), (reply["error"], worker.lines()[-3:])
    assert len(model.requests) - known == 2
    assert "answer = 42" in asked(model, "user")
    endless = f"[[json={json.dumps({'tool': 'open_file', 'path': 'none'})}]] "
    await user.client.table("code_files").delete().eq("session_id", session_id).execute()
    await (
        user.client.table("code_files").insert({"session_id": session_id, "path": "none", "content": endless}).execute()
    )
    reply = await user.reply(await user.ask(session_id, endless))
    assert (reply["status"], reply["error"]["code"]) == ("failed", "too_many_steps")


async def test_loop_ends_with_the_demo_model_alone(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    session_id = await user.open_session("Investigate", title="named")
    await (
        user.client.table("code_files").insert({"session_id": session_id, "path": "a.py", "content": "x = 1"}).execute()
    )
    known = len(model.requests)
    reply = await user.reply(await user.ask(session_id, "What is x?"))
    assert (reply["status"], len(model.requests) - known) == ("done", 2)
    assert "You wrote: “What is x?”" in reply["content"]
    assert "x = 1" in asked(model, "user")  # the file that it read


async def test_cancel_ends_loop_and_model_call(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    session_id = await user.open_session("Investigate", title="named")
    known = len(model.requests)
    question = await user.ask(session_id, "[[stall=0 text=x]]")
    await model.until(lambda m: len(m.requests) > known and m.open == 1, within=15)
    await user.client.rpc("cancel_message", {"message_id": question}).execute()
    assert (await user.reply(question))["status"] == "cancelled"
    await model.until(lambda m: m.open == 0)


async def test_functions_are_described_as_promised(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    async def are_described() -> bool:
        return len(await user.rows("functions", name="Letter")) == 1

    await until(are_described, within=20)
    (journey,) = await user.rows("functions", name="Journey")
    assert (journey["title"], journey["description"]) == ("Journey", "Plans a journey, day by day")
    assert journey["suggestions"] == ["Three days in Rome?", "A week in Norway, by train?"]
    assert journey["parameters"]["required"] == ["pace"]
    (letter,) = await user.rows("functions", name="Letter")
    assert (letter["title"], letter["description"]) == ("Write a letter", "Writes letters in the tone you like.")
    assert await user.rows("functions", name="Title") == []
    await ask(worker, user, "Journey", "Rome", data={"pace": "slow"})
    assert asked(model, "user").strip() == "Rome Make it slow."
    assert (await ask(worker, user, "Letter", "x", data={"copies": 2}))["content"] == "A plain letter, 2 times."
    refused = await ask(worker, user, "Letter", "x", data={"copies": 10})
    assert (refused["status"], refused["error"]["code"]) == ("failed", "bad_arguments")


@pytest.mark.parametrize("data", [None, {"language": 5}, {"message": "French"}])
async def test_missing_or_wrong_argument_fails_without_model_call(
    worker: WorkerProcess, user: Person, model: ModelServer, data: Row | None
) -> None:
    known = len(model.requests)
    reply = await ask(worker, user, "Translate", "Good morning", data=data)
    assert (reply["status"], reply["error"]["code"], reply["attempt"]) == ("failed", "bad_arguments", 1)
    assert "`language`" in reply["error"]["message"]
    assert len(model.requests) == known


async def test_data_cannot_override_turn(worker: WorkerProcess, user: Person, model: ModelServer) -> None:
    await ask(worker, user, "Translate", "[[text=Salut]]", data={"language": "French", "message": "another"})
    assert asked(model, "user").strip() == "[[text=Salut]]"


async def test_session_without_title_gets_one(worker: WorkerProcess, user: Person) -> None:
    session_id = await user.open_session("Echo")
    events = await user.listen(f"user:{user.id}", "session")
    await user.reply(await user.ask(session_id, "cold soup"))
    await events.until(lambda seen: [row for row in seen.of("session", id=session_id) if row["title"]])


def test_documented_parameters_match_worker() -> None:
    names = {name for row in rows_of(PAGE, "Parameters") for name in re.findall(r"`(\w+)`", row[0])}
    assert names == {*arguments._FROM_TURN, *media.MEDIA, media.ALL}
    session = Session("id", "user", None, "f", {})
    turn = Turn("f", "text", (Message("user", "x"),), (CodeFile("a", "b"),), session, "user")
    (row,) = [row for row in rows_of(PAGE, "Parameters") if row[0] == "`session`"]
    assert set(re.findall(r"`(\w+)`", row[1])) == set(arguments._FROM_TURN["session"](turn))


def test_documented_turn_fields_exist() -> None:
    (line,) = re.findall(r"^`turn` has (.*?)\.", PAGE.read_text(), re.M)
    assert set(re.findall(r"`(\w+)`", line)) | {"function"} == {
        name for name, field in Turn.__dataclass_fields__.items() if field.repr
    }
