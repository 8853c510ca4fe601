"""`make dev` while somebody edits the functions: each change of a file, good or bad, and what a user sees meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support import ROOT, users
from tests.support.dev import Terminal, copy_functions, interrupt, terminal
from tests.support.users import Person
from tests.support.waiting import until

NEW = r"using what was saved"
PROMISED = 3.0  # seconds from a change to its use, or to what is wrong with it


def baml(name: str, answer: str, returns: str = "string") -> str:
    """A BAML function whose answer from the demo model is `answer`."""
    return f"""function {name}(message: string) -> {returns} {{
  client Model
  prompt #"
    {{{{ _.role("user") }}}} [[text="{answer}"]]
  "#
}}
"""


def python(name: str, answer: str, before: str = "") -> str:
    return f"""{before}
from bridge import Turn, handler


@handler("{name}")
async def answer(turn: Turn):
    yield "{answer}"
"""


@dataclass
class Dev:
    """A running `make dev`, the folder that it watches, and a user of it."""

    running: Terminal
    folder: Path
    user: Person
    settled: ClassVar = 0

    def write(self, file: str, text: str) -> int:
        """Save a file as many editors do, by a rename; returns the place in the terminal's text."""
        mark = len(self.running.text)
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(text)
        draft.replace(path)
        return mark

    async def used(self, mark: int) -> None:
        await self.running.until(NEW, since=mark, within=30)

    async def shows(self, pattern: str, mark: int) -> str:
        return (await self.running.until(pattern, since=mark, within=30))[0]

    async def answer(self, function: str, text: str = "hello") -> str:
        session = await self.user.open_session(function, title="named")
        reply = await self.user.reply(await self.user.ask(session, text))
        assert reply["status"] == "done", (reply, self.running.text[-3000:])
        return str(reply["content"])

    async def clear(self) -> None:
        """Take back every change, and wait until nothing of it is left."""
        mark = len(self.running.text)
        for name in ("handlers", "helpers", "go"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (*self.folder.glob("*.py"), self.folder / ".env", *(self.folder / "baml_src").rglob("*.*")):
            if not (ROOT / path.relative_to(self.folder)).is_file() or path.parent == self.folder:
                path.unlink(missing_ok=True)
        for path in (ROOT / "baml_src").glob("*.baml"):
            (self.folder / "baml_src" / path.name).write_bytes(path.read_bytes())
        Dev.settled += 1
        self.write("baml_src/settled.baml", baml(f"Settled{self.settled}", "x"))
        await self.running.until(rf"{NEW}.*Settled{self.settled}\b", since=mark)


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Terminal, Path, Person]]:
    folder = copy_functions(tmp_path_factory.mktemp("project"))
    async with terminal(tmp_path_factory.mktemp("data"), 25273, folder=folder) as started:
        await started.until("Ctrl-C")
        user = await users.person(started.environment)
        try:
            yield started, folder, user
        finally:
            await user.close()
        assert await interrupt(started) == 0, started.text
        assert "Traceback" not in started.text


@pytest.fixture
async def dev(running: tuple[Terminal, Path, Person]) -> AsyncIterator[Dev]:
    found = Dev(*running)
    yield found
    await found.clear()


@pytest.mark.quiet
async def test_change_is_used_and_mistake_is_shown_in_time(dev: Dev) -> None:
    async with asyncio.timeout(PROMISED):
        await dev.used(dev.write("baml_src/hi.baml", baml("Hi", "one")))
    async with asyncio.timeout(PROMISED):
        await dev.shows("baml_src/hi.baml:1: ", dev.write("baml_src/hi.baml", baml("Hi", "x", "strin")))
    async with asyncio.timeout(PROMISED):
        await dev.used(dev.write("baml_src/hi.baml", baml("Hi", "two")))
    assert await dev.answer("Hi") == "two"
    async with asyncio.timeout(PROMISED):
        await dev.shows(r"handlers\.py:1: ", dev.write("handlers.py", "x = (\n"))


async def test_edited_function_answers_the_next_message(dev: Dev) -> None:
    await dev.used(dev.write("baml_src/hi.baml", baml("Hi", "one")))  # a new function needs no setting
    assert await dev.answer("Hi") == "one"
    await dev.used(dev.write("baml_src/hi.baml", baml("Hi", "two")))
    assert await dev.answer("Hi") == "two"
    await dev.used(dev.write("baml_src/deep/down/more.baml", baml("More", "deep")))
    assert await dev.answer("More") == "deep"


@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("baml_src/hi.baml", baml("Hi", "x", "strin"), r"baml_src/hi\.baml:1: Type `strin` does not exist"),
        ("baml_src/sub/hi.baml", baml("Hi", "x").replace("Model", "Nope"), r"baml_src/sub/hi\.baml:2: Client Nope not"),
        ("baml_src/hi.baml", baml("Hi", "x")[:-3], r"baml_src/hi\.baml:1: "),
        ("baml_src/hi.baml", baml("Chat", "x"), r"baml_src/(hi|chat)\.baml:\d: .*cannot be re-defined"),
        ("baml_src/clients.baml", "", r"baml_src/chat\.baml:\d+: Client Model not found"),
        ("handlers.py", "x = (\n", r"handlers\.py:1: .*SyntaxError: "),
        ("handlers.py", "\nimport not_there_at_all\n", r"handlers\.py:2: .*needs not_there_at_all"),
        ("handlers.py", "\nfrom bridge import nothing\n", r"handlers\.py:2: .*ImportError: "),
        ("handlers.py", "\n\nraise ValueError('no')\n", r"handlers\.py:3: .*ValueError: no"),
        ("handlers.py", "import sys\nsys.exit('bye')\n", r"handlers\.py:2: .*SystemExit: bye"),
        ("handlers.py", python("Echo", "x").replace("async def", "def"), r"handlers\.py:5: .*not an async function"),
        (".env", "# mine\nBRIDGE_HISTORY=many\n", r"\.env:2: BRIDGE_HISTORY is 'many'"),
        (".env", "\n\nBRIDGE_FUNCTIONS=Chat,Gone\n", r"\.env:3: BRIDGE_FUNCTIONS names Gone"),
        (".env", "LLM_MODEL=x\n", r"\.env:1: LLM_BASE_URL is not set"),
        (".env", "BRIDGE_HANDLERS=nowhere\n", r"\.env:1: BRIDGE_HANDLERS names the module nowhere"),
    ],
)
async def test_mistake_is_shown_by_file_and_line_while_the_old_version_answers(
    dev: Dev, file: str, text: str, place: str
) -> None:
    mark = dev.write(file, text)
    line = await dev.shows(rf"^dev +│ {place}.*$", mark)
    assert "Traceback" not in dev.running.text[mark:], line
    await dev.running.until("the version before it answers until then", since=mark)
    assert await dev.answer("Chat", "[[text=still]]") == "still"


async def test_mended_mistake_is_fixed_by_itself(dev: Dev) -> None:
    mark = dev.write("baml_src/hi.baml", baml("Hi", "x", "strin"))
    await dev.shows("baml_src/hi.baml:1: ", mark)
    mark = dev.write("baml_src/hi.baml", baml("Hi", "mended"))
    await dev.shows("fixed", mark)
    assert await dev.answer("Hi") == "mended"
    mark = dev.write("baml_src/hi.baml", baml("Hi", "x", "strin"))
    await dev.shows("baml_src/hi.baml:1: ", mark)
    mark = dev.write("baml_src/hi.baml", baml("Hi", "mended"))  # what is running already
    await dev.shows("fixed", mark)
    assert not re.search(NEW, dev.running.text[mark:])


async def test_handlers_need_no_setting_and_are_read_again_with_what_they_import(dev: Dev) -> None:
    await dev.used(dev.write("handlers.py", python("Echo", "one")))
    assert await dev.answer("Echo") == "one"
    dev.write("helpers/words.py", "WORD = 'two'\n")
    dev.write("helpers/__init__.py", "")
    mark = dev.write(
        "handlers.py", python("Echo", "{WORD}", "from helpers.words import WORD").replace('yield "', 'yield f"')
    )
    await dev.used(mark)
    assert await dev.answer("Echo") == "two"
    await dev.used(dev.write("helpers/words.py", "WORD = 'three'\n"))
    assert await dev.answer("Echo") == "three"
    await dev.shows(r"helpers/words\.py:2: .*SyntaxError", dev.write("helpers/words.py", "WORD = 'x'\n?\n"))
    assert await dev.answer("Echo") == "three"


async def test_handlers_may_be_a_package(dev: Dev) -> None:
    dev.write("handlers/echo.py", python("Echo", "package"))
    await dev.used(dev.write("handlers/__init__.py", "from handlers import echo as echo\n"))
    assert await dev.answer("Echo") == "package"
    mark = len(dev.running.text)
    (dev.folder / "handlers" / "echo.py").rename(dev.folder / "handlers" / "other.py")
    await dev.shows(r"handlers/__init__\.py:1: ", mark)
    await dev.used(dev.write("handlers/__init__.py", "from handlers import other as other\n"))


async def test_setting_of_the_file_is_used(dev: Dev) -> None:
    await dev.used(dev.write("baml_src/hi.baml", baml("Hi", "one")))
    mark = dev.write(".env", "BRIDGE_FUNCTIONS=Hi\n")
    assert "Chat" not in await dev.shows(rf"{NEW}.*", mark)
    session = await dev.user.open_session("Code")
    await dev.user.ask(session, "hello")
    said = await dev.shows("dev .*a session asks for 'Code'.*", mark)  # long before the question is given up
    assert "BRIDGE_FUNCTIONS, which is Hi" in said
    await dev.used(dev.write(".env", ""))


async def test_unknown_function_is_named_at_once(dev: Dev) -> None:
    mark = len(dev.running.text)
    session = await dev.user.open_session("chat")
    await dev.user.ask(session, "hello")
    said = await dev.shows("a session asks for 'chat'.*", mark)
    assert "did you mean Chat?" in said
    await dev.user.client.table("sessions").delete().eq("id", session).execute()


async def test_deleted_and_renamed_files_count(dev: Dev) -> None:
    await dev.used(dev.write("baml_src/sub/hi.baml", baml("Hi", "one")))
    mark = len(dev.running.text)
    (dev.folder / "baml_src" / "sub").rename(dev.folder / "baml_src" / "renamed")
    await dev.used(mark)
    assert await dev.answer("Hi") == "one"
    mark = len(dev.running.text)
    (dev.folder / "baml_src" / "renamed" / "hi.baml").unlink()
    assert "Hi" not in await dev.shows(rf"{NEW}.*", mark)
    mark = len(dev.running.text)
    (dev.folder / "baml_src").rename(dev.folder / "baml_gone")
    await dev.shows("baml_src: there is no BAML file", mark)
    mark = len(dev.running.text)
    (dev.folder / "baml_gone").rename(dev.folder / "baml_src")
    await dev.shows("fixed", mark)


async def test_catalogue_has_what_is_answered_now(dev: Dev) -> None:
    async def described() -> bool:
        rows = await dev.user.rows("functions", name="Renamed")
        return [row["description"] for row in rows] == ["Says one"]

    await dev.used(dev.write("baml_src/hi.baml", "/// Says one\n" + baml("Renamed", "one")))
    await until(described, within=10)
    mark = dev.write("baml_src/hi.baml", baml("Hi", "one"))
    await dev.shows(rf"{NEW}.*\bHi\b", mark)
    names = {row["name"] for row in await dev.user.rows("functions")}
    assert "Renamed" not in names
    assert {"Chat", "Code", "Compare"} <= names


async def test_many_files_at_once_are_one_restart(dev: Dev) -> None:
    mark = len(dev.running.text)
    for number in range(40):
        dev.write(f"baml_src/many/f{number}.baml", baml(f"F{number}", str(number)))
    await dev.used(mark)
    assert await dev.answer("F39") == "39"
    assert len(re.findall(NEW, dev.running.text[mark:])) == 1


async def test_save_during_a_restart_wins(dev: Dev) -> None:
    mark = dev.write("baml_src/hi.baml", baml("Hi", "first"))
    await asyncio.sleep(0.4)  # the first one is being started
    dev.write("baml_src/hi.baml", baml("Hi", "second"))
    await dev.running.until(NEW, since=mark)
    assert await dev.answer("Hi") == "second"


@pytest.mark.parametrize(
    "file",
    ["baml_src/.chat.baml.swp", "baml_src/4913", "baml_src/chat.baml~", "baml_src/#chat.baml#", "baml_src/.#chat.baml",
     "__pycache__/x.py", "notes.txt", "helpers/__pycache__/y.py"],
)  # fmt: skip
async def test_drafts_of_editors_and_equal_content_change_nothing(dev: Dev, file: str) -> None:
    mark = dev.write(file, "not BAML {{{ nor (Python")
    os.utime(dev.folder / "baml_src" / "chat.baml")
    (dev.folder / "baml_src" / "chat.baml").write_bytes((ROOT / "baml_src" / "chat.baml").read_bytes())
    # a change that counts is seen after them
    dev.write("baml_src/hi.baml", baml("Hi", "seen"))
    await dev.running.until(NEW, since=mark)
    assert len(re.findall(rf"{NEW}|fix this", dev.running.text[mark:])) == 1, dev.running.text[mark:]
    (dev.folder / file).unlink()


async def test_reply_that_is_being_written_ends_in_the_old_version(dev: Dev) -> None:
    await dev.used(dev.write("handlers.py", HELD))
    session = await dev.user.open_session("Held", title="named")
    question = await dev.user.ask(session, "hello")
    await dev.user.reply(question, lambda row: row["content"].startswith("old"))
    await dev.used(dev.write("handlers.py", HELD.replace("old", "new")))
    other = await dev.user.open_session("Held", title="named")
    second = await dev.user.ask(other, "hello")
    await dev.user.reply(second, lambda row: row["content"].startswith("new"))
    (dev.folder / "go").touch()
    for asked, text in ((question, "old end"), (second, "new end")):
        reply = await dev.user.reply(asked)
        assert (reply["content"], reply["attempt"], reply["status"]) == (text, 1, "done")
    (dev.folder / "go").unlink()


HELD = """
import asyncio
from pathlib import Path

from bridge import Turn, handler


@handler("Held")
async def held(turn: Turn):
    yield "old "
    while not Path("go").exists():
        yield ""
        await asyncio.sleep(0.05)
    yield "end"
"""


async def run(program: str, *arguments: str, folder: Path, **variables: str) -> tuple[int, str]:
    """Run a Python program with nothing set. Returns its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, *arguments),
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_commands_beside_it_need_no_setting(dev: Dev) -> None:
    for arguments in (("status",), ("doctor",), ("dead", "list")):
        code, output = await run("bridge.cli", *arguments, folder=dev.folder)
        assert code == 0, output
    assert (dev.folder / ".env.dev").stat().st_mode & 0o777 == 0o600
    # what is set wins, as a whole: its key is not taken from elsewhere
    code, output = await run("bridge.cli", "status", folder=dev.folder, SUPABASE_URL="http://127.0.0.1:9")
    assert (code, "SUPABASE_SECRET_KEY is not set" in output) == (2, True), output
    # a worker is not started by accident
    code, output = await run("bridge.cli", "run", folder=dev.folder)
    assert (code, "SUPABASE_URL is not set" in output) == (2, True), output
    code, output = await run("devstack", "--data", str(dev.running.data), "env", folder=ROOT)
    assert (code, "LLM_MODEL=demo\n" in output, "SUPABASE_URL=" in output) == (0, True, True), output


async def test_file_left_by_a_killed_run_has_no_effect(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / ".env.dev").write_bytes((dev.folder / ".env.dev").read_bytes())
    code, output = await run("bridge.cli", "status", folder=tmp_path)
    assert (code, "SUPABASE_URL is not set" in output, "make dev" in output) == (2, True, True), output


async def test_start_with_a_mistake_waits_until_it_is_mended(tmp_path: Path) -> None:
    folder = copy_functions(tmp_path)
    (folder / "baml_src" / "hi.baml").write_text(baml("Hi", "x", "strin"))
    async with terminal(tmp_path / "data", 25373, folder=folder) as started:
        await started.until(r"^dev +│ baml_src/hi\.baml:1: Type `strin`")
        await started.until("Ctrl-C")
        assert "none until the mistake above is fixed" in started.text
        (folder / "baml_src" / "hi.baml").write_text(baml("Hi", "good"))
        await started.until(rf"{NEW}.*Hi")
        assert await interrupt(started) == 0
    assert not (folder / ".env.dev").exists()


async def test_wrong_setting_of_the_environment_ends_the_start(tmp_path: Path) -> None:
    async with terminal(tmp_path / "data", 25373, folder=copy_functions(tmp_path), BRIDGE_HISTORY="many") as started:
        assert await started.end() == 1
        assert re.search(r"^dev: .*BRIDGE_HISTORY is 'many'", started.text, re.MULTILINE), started.text
