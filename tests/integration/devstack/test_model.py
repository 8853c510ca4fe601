"""The demo model: its protocol, directives and replies."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from devstack.model import ModelServer, Script, read_script
from tests.support import ROOT

CODE = "Answer in JSON using this schema:\n{\n  reply: string,\n  files: [\n    { path: string }\n  ],\n}"
COMPARISON = "Answer in JSON using this schema:\n{\n  reply: string,\n  options: [\n    { name: string }\n  ],\n}"


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def body(message: str, system: str = "", *, stream: bool = True, earlier: tuple[tuple[str, str], ...] = ()) -> Any:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in earlier]
    messages.append({"role": "user", "content": message})
    return {"model": "m", "messages": messages, "stream": stream, "stream_options": {"include_usage": True}}


async def events(http: aiohttp.ClientSession, model: ModelServer, request: Any) -> list[Any]:
    async with http.post(f"{model.url}/chat/completions", json=request) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = await response.text()
    blocks = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return [block if block == "[DONE]" else json.loads(block) for block in blocks]


async def reply_to(http: aiohttp.ClientSession, model: ModelServer, message: str, *more: Any, **options: Any) -> str:
    received = await events(http, model, body(message, *more, **options))
    return "".join(e["choices"][0]["delta"].get("content", "") for e in received if e != "[DONE]" and e["choices"])


async def test_stream_follows_protocol(http: aiohttp.ClientSession, model: ModelServer) -> None:
    *tokens, last, usage, done = await events(http, model, body("[[tokens=3]]"))
    assert [t["choices"][0]["delta"].get("content") for t in tokens] == ["word00 ", "word01 ", "word02 "]
    assert tokens[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all(t["choices"][0]["finish_reason"] is None for t in tokens)
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == usage["usage"]["prompt_tokens"] // 2
    assert done == "[DONE]"


async def test_usage_is_sent_only_on_request(http: aiohttp.ClientSession, model: ModelServer) -> None:
    request = body("[[tokens=3]]")
    del request["stream_options"]
    assert all("usage" not in e for e in await events(http, model, request))
    assert all("usage" not in e for e in await events(http, model, body("[[tokens=3 no_usage]]")))


async def test_request_without_stream_returns_one_response(http: aiohttp.ClientSession, model: ModelServer) -> None:
    async with http.post(f"{model.url}/chat/completions", json=body("[[tokens=2]]", stream=False)) as response:
        completion = await response.json()
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": "word00 word01 "}
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] == 2


async def test_invalid_body_returns_400(http: aiohttp.ClientSession, model: ModelServer) -> None:
    for sent in ("no json", "[]", "{}", '{"messages": []}', '{"messages": [{"role": "user"}]}', '{"messages": 1}'):
        async with http.post(f"{model.url}/chat/completions", data=sent) as response:
            assert response.status == 400
            assert "error" in await response.json()


async def test_echo_returns_message_unchanged(http: aiohttp.ClientSession, model: ModelServer) -> None:
    for text in ("[[echo]]", "[[echo]]  two  spaces \n\n\ttab ünï 漢字\n", "x" * 5000 + "[[echo]]"):
        assert await reply_to(http, model, text) == text


@pytest.mark.parametrize(
    ("message", "script"),
    [
        ("hello", None),
        ("[[a link]] and [[another]]", None),
        ("[[tokens]]", None),
        ("[[tokens=many]]", None),
        ("[[tokens=3", None),
        ('[[text="open]]', None),
        ("[[]]", None),
        ("[[echo]]", Script(echo=True, source="echo")),
        ("see [[a link]] [[tokens=3 delay=0.5]] x", Script(tokens=3, delay=0.5, source="tokens=3 delay=0.5")),
        (
            '[[text="a ]] b" finish=length]]',
            Script(text="a ]] b", finish="length", source='text="a ]] b" finish=length'),
        ),
        ('[[json={"a": [1, "]]"]}]]', Script(json={"a": [1, "]]"]}, source='json={"a": [1, "]]"]}')),
    ],
)
def test_read_script_parses_directive(message: str, script: Script | None) -> None:
    assert read_script(message) == script


async def test_error_directive_stops_after_times(http: aiohttp.ClientSession, model: ModelServer) -> None:
    seen = []
    for _ in range(3):
        async with http.post(
            f"{model.url}/chat/completions", json=body("[[error=429 retry_after=3 times=2]]")
        ) as response:
            seen.append((response.status, response.headers.get("Retry-After")))
    assert seen == [(429, "3"), (429, "3"), (200, None)]
    assert [e.outcome for e in model.requests] == ["refused", "refused", "complete"]


async def test_cut_aborts_and_clean_cut_ends_stream(http: aiohttp.ClientSession, model: ModelServer) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await events(http, model, body("[[tokens=9 cut=3]]"))
    received = await events(http, model, body("[[tokens=9 clean_cut=3]]"))
    assert len(received) == 3
    assert all(e["choices"][0]["finish_reason"] is None for e in received)
    assert [e.outcome for e in model.requests] == ["cut", "cut"]


async def test_fail_sends_error_in_stream(http: aiohttp.ClientSession, model: ModelServer) -> None:
    received = await events(http, model, body("[[tokens=9 fail=2]]"))
    assert "error" in received[-1]
    assert len(received) == 3


async def test_held_reply_continues_after_let_go(http: aiohttp.ClientSession, model: ModelServer) -> None:
    reply = asyncio.create_task(reply_to(http, model, "[[tokens=7 hold=3]]"))
    await model.until(lambda m: bool(m.requests) and m.requests[-1].sent == 3)
    model.let_go()
    await model.until(lambda m: m.requests[-1].sent == 6)
    assert model.open == 1
    model.let_go()
    assert await reply == "".join(f"word{n:02d} " for n in range(7))
    # permits given early apply to later holds of the same reply, but not to the next reply
    reply = asyncio.create_task(reply_to(http, model, "[[tokens=7 first=0.2 hold=3]]"))
    await model.until(lambda m: m.open == 1)
    model.let_go(times=9)
    assert (await reply).endswith("word06 ")
    reply = asyncio.create_task(reply_to(http, model, "[[tokens=4 hold=3]]"))
    await model.until(lambda m: m.open == 1 and m.requests[-1].sent == 3)
    model.let_go()
    await reply


@pytest.mark.quiet
async def test_stall_lasts_until_client_disconnects(http: aiohttp.ClientSession, model: ModelServer) -> None:
    async with http.post(f"{model.url}/chat/completions", json=body("[[tokens=9 stall=2]]")) as response:
        await model.until(lambda server: server.requests[-1].sent == 2)
        assert model.open == 1
        left = time.monotonic()
        response.close()
    exchange = model.requests[-1]
    await asyncio.wait_for(exchange.ended.wait(), 2)
    assert exchange.outcome == "dropped"
    assert exchange.ended_at is not None
    assert exchange.ended_at - left < 0.2
    await model.until(lambda server: server.open == 0)


@pytest.mark.quiet
async def test_stream_keeps_pace(http: aiohttp.ClientSession, model: ModelServer) -> None:
    begun = time.monotonic()
    await reply_to(http, model, "[[tokens=20 first=0.1 delay=0.01]]")
    assert 0.28 < time.monotonic() - begun < 1


async def test_server_stops_with_open_streams(http: aiohttp.ClientSession) -> None:
    async with ModelServer() as server:
        post = asyncio.create_task(events(http, server, body("[[stall=0]]")))
        await server.until(lambda s: s.open == 1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    with pytest.raises(aiohttp.ClientError):
        await post


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What is this?", "supabase-baml-bridge"),
        ("How do I add a function?", "baml_src/"),
        ("how do I deploy this to production?", "supabase db push"),
        ("How is a reply streamed?", "checkpointed"),
        ("How do I use a real model?", "LLM_BASE_URL"),
        ("can I use Claude or Ollama instead?", "clients.baml"),
        ("How do I stop an answer?", "cancel_message"),
        ("Is it secure?", "Row level security"),
        ("What happens when a worker crashes?", "lease"),
        ("How does my React page talk to it?", "publishable"),
        ("Hello!", "demo model"),
        ("Write a fizzbuzz function in JavaScript", "```javascript"),
        ("blargh", "You wrote: “blargh”"),
        ("", "demo model"),
    ],
)
async def test_model_answers_questions_about_project(
    http: aiohttp.ClientSession, model: ModelServer, question: str, word: str
) -> None:
    reply = await reply_to(http, model, question)
    assert word in reply
    assert "demo model" in reply.lower()


async def test_model_remembers_conversation(http: aiohttp.ClientSession, model: ModelServer) -> None:
    earlier = (("user", "Hi, my name is Ada"), ("assistant", "Nice to meet you."))
    assert "Ada" in await reply_to(http, model, "What is my name?", earlier=earlier)
    assert "Hi, my name is Ada" in await reply_to(http, model, "What did I say?", earlier=earlier)
    assert "haven't mentioned" in await reply_to(http, model, "Do you know my name?")


async def test_code_request_returns_reply_and_files(http: aiohttp.ClientSession, model: ModelServer) -> None:
    reply = json.loads(await reply_to(http, model, "Write fibonacci in Python", CODE))
    assert [file["path"] for file in reply["files"]] == ["fibonacci.py"]
    compile(reply["files"][0]["content"], "fibonacci.py", "exec")
    system = CODE + '\n<file path="x.py">\na = 1\n</file>'
    reply = json.loads(await reply_to(http, model, "change x.py please", system))
    assert reply["files"][0]["content"].startswith("a = 1\n\n# ")
    assert json.loads(await reply_to(http, model, "hello", CODE))["files"] == []
    assert json.loads(await reply_to(http, model, "[[text=hi]]", CODE)) == {"reply": "hi", "files": []}
    for count in (1, 4, 5, 50):
        assert len((await reply_to(http, model, f"[[tokens={count}]]", CODE)).split()) >= count
    filler = json.loads(await reply_to(http, model, "[[tokens=40]]", CODE))
    assert len(filler["reply"].split()) == 10
    assert len(filler["files"][0]["content"].split()) == 30


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("Train, bus or bicycle to work?", ["Train", "Bus", "Bicycle"]),
        ("Compare Postgres and MySQL, please", ["Postgres", "MySQL"]),
        ("Which is better for me: tea vs. coffee?", ["Tea", "Coffee"]),
        ("Compare ways to get to work.", ["Bicycle", "Train", "Bus", "Car"]),
        ("Thank you!", []),
    ],
)
async def test_comparison_lists_named_options(
    http: aiohttp.ClientSession, model: ModelServer, question: str, names: list[str]
) -> None:
    comparison = json.loads(await reply_to(http, model, question, COMPARISON))
    assert "demo model" in comparison["reply"]
    assert [option["name"] for option in comparison["options"]] == names
    assert json.loads(await reply_to(http, model, "[[text=hi]]", COMPARISON)) == {"reply": "hi", "options": []}


async def test_title_ignores_quoted_directive(http: aiohttp.ClientSession, model: ModelServer) -> None:
    quoted = "<question>\n[[error=500]] How do I deploy the worker?\n</question>\n<answer>\n…\n</answer>\n\nTitle:"
    assert await reply_to(http, model, quoted) == "Deploy the worker"


async def test_requests_endpoint_lists_requests(http: aiohttp.ClientSession, model: ModelServer) -> None:
    await reply_to(http, model, "[[tokens=2]]")
    async with http.get(model.url.removesuffix("/v1") + "/requests") as response:
        (seen,) = await response.json()
    assert (seen["outcome"], seen["sent"], seen["body"]["model"]) == ("complete", 2, "m")


async def start(*options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "devstack.model", *options, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_command_serves_until_signal(http: aiohttp.ClientSession, stop: signal.Signals) -> None:
    process = await start("--port", "0", "--first", "0", "--rate", "0")
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    url = line.split()[-1]
    assert url.startswith("http://127.0.0.1:")
    async with http.post(f"{url}/chat/completions", json=body("[[stall=0]]")) as response:
        assert response.status == 200
        os.kill(process.pid, stop)
        _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (0, b"")


async def test_port_in_use_prints_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await start("--port", str(taken.getsockname()[1]))
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"choose another with --port" in err
    assert len(err.splitlines()) == 1


async def test_help_lists_every_directive() -> None:
    process = await start("--help")
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    for name in set(Script.__slots__) - {"source"}:
        assert f"  {name}".encode() in out
