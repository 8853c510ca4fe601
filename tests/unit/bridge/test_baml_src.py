"""The project's baml_src: its own tests pass, and its example clients are valid."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from devstack.model import ModelServer
from tests.support import shipped

CLI = Path(sys.executable).with_name("baml-cli")


async def test_baml_tests_pass_against_the_demo_model() -> None:
    async with ModelServer() as model:
        llm = {"LLM_BASE_URL": model.url, "LLM_API_KEY": "k", "LLM_MODEL": "m"}
        process = await asyncio.create_subprocess_exec(
            CLI, "test", cwd=shipped.project(), env={**os.environ, **llm},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, out.decode()
    functions = {re.findall(r"^function (\w+)", path.read_text(), re.M)[0] for path in _function_files()}
    assert functions == {"Chat", "Code", "Compare", "Describe", "PlanResearch", "Title"}
    assert all(f"function {name}\n" in out.decode() for name in functions), "a function without a test"
    assert len(model.requests) == 11


def _function_files() -> list[Path]:
    return [path for path in (shipped.project() / "baml_src").glob("*.baml") if "\nfunction " in path.read_text()]


def test_example_clients_are_valid(tmp_path: Path) -> None:
    (tmp_path / "baml_src").mkdir()
    for path in (shipped.project() / "baml_src").glob("*.baml"):
        text = path.read_text()
        if path.name == "clients.baml":
            intro, mark, examples = text.partition("// client<llm>")
            text = intro + re.sub(r"^// ?", "", mark + examples, flags=re.M)
        (tmp_path / "baml_src" / path.name).write_text(text)
    clients = re.findall(r"^client<llm> (\w+)", (tmp_path / "baml_src" / "clients.baml").read_text(), re.M)
    assert clients == ["Model", "OpenAI", "Anthropic", "Gemini", "Ollama"]
    ran = subprocess.run([CLI, "check"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_client_has_timeouts_and_no_retry_policy() -> None:
    text = (shipped.project() / "baml_src" / "clients.baml").read_text()
    code = re.sub(r"^//( |$)", "", text, flags=re.M)
    blocks = re.findall(r"^client<llm> .*?^\}", code, re.M | re.S)
    assert len(blocks) == 5
    for block in blocks:
        assert "retry_policy" not in block
        for option in ("connect", "time_to_first_token", "idle", "request"):
            assert re.search(rf"^ *{option}_timeout_ms \d+$", block, re.M)
        assert "enable_connection_pooling true" in block
