"""What is wrong in `baml_src`, by file and line, as `make setup` and `make dev` print it; and which model answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devstack import clients
from devstack.generate import generate
from tests.support import ROOT

SOURCES = {f"baml_src/{file.name}": file.read_bytes() for file in (ROOT / "baml_src").glob("*.baml")}
OWN = b"""
client<llm> Model {
  provider anthropic
  options { // not env.LLM_MODEL
    model "claude"
    api_key env.ANTHROPIC_API_KEY
  }
}
"""


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("baml_src/a.baml", b"class A {\n  b Nope\n}\n", "baml_src/a.baml:2: Type `Nope` does not exist"),
        ("baml_src/deep/a.baml", b"function A(", "baml_src/deep/a.baml:1: "),
        ("baml_src/a.baml", b"\xff\xfe", "baml_src/a.baml:1: is not text in UTF-8"),
        (
            "baml_src/generators.baml",
            SOURCES["baml_src/generators.baml"].replace(b'"../"', b'"../other"'),
            "baml_src/generators.baml: the Python generator must write baml_client",
        ),
        ("baml_src/chat.baml", SOURCES["baml_src/chat.baml"] * 2, "cannot be re-defined"),
    ],
)
async def test_mistake_is_told_by_file_and_line(tmp_path: Path, file: str, content: bytes, told: str) -> None:
    problems = await generate({**SOURCES, file: content}, tmp_path)
    assert problems
    assert any(told in str(problem) for problem in problems), problems
    assert not any("\n" in str(problem) or "backtrace" in str(problem) for problem in problems)


def test_command_prints_mistakes_without_a_backtrace_and_keeps_the_client(tmp_path: Path) -> None:
    for name, content in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def make() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "devstack.generate", str(tmp_path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert (make().returncode, (tmp_path / "baml_client" / "types.py").is_file()) == (0, True)
    before = (tmp_path / "baml_client" / "inlinedbaml.py").read_bytes()
    (tmp_path / "baml_src" / "a.baml").write_text('function A(x: strin) -> string {\n  client Nope\n  prompt #""#\n}\n')
    ran = make()
    assert ran.returncode == 1
    assert [line.split(" ")[0] for line in ran.stderr.splitlines()] == ["baml_src/a.baml:1:", "baml_src/a.baml:2:"]
    assert (tmp_path / "baml_client" / "inlinedbaml.py").read_bytes() == before


def test_model_that_answers_is_read_from_the_sources() -> None:
    assert clients.variables(SOURCES) == clients.NAMES
    assert clients.own(SOURCES) == ((), True)

    own = SOURCES | {"baml_src/clients.baml": OWN}
    assert clients.variables(own) == ()
    assert clients.own(own) == (("claude at anthropic: the client Model in baml_src",), False)

    more = own | {
        "baml_src/more.baml": b"""
client<llm> Either { provider fallback
  options { strategy [Model, Local] }
}
client<llm> Local {
  provider openai-generic
  options {
    base_url "http://localhost:11434/v1" // a comment
    model env.LLM_MODEL
  }
}
client<llm> Unused {
  provider openai
  options { model env.LLM_OTHER }
}
function A(message: string) -> string {
  client Either
  prompt #"} // client Nothing {"#
}
function B(message: string) -> string {
  client "openai/gpt-5-mini"
  prompt #""#
}
"""
    }
    assert clients.variables(more) == ("LLM_MODEL", "LLM_OTHER")
    lines, reads = clients.own(more)
    assert reads
    assert [line.split(" ")[0] for line in lines] == ["claude", "gpt-5-mini"]
