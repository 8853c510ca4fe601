"""The partials and the completion of a reply, as the functions of baml_src stream them."""

import asyncio
import json
import os
import threading
from contextlib import aclosing
from itertools import pairwise

import pytest

from bridge.baml.client import Call
from bridge.functions import Functions
from bridge.model import CodeFile, Completion, FileWrite, Partial, Usage
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import collect, turn


async def test_text_streams_in_pieces_that_add_up_to_the_completion(functions: Functions) -> None:
    partials, completion = await collect(functions, turn("[[tokens=40 delay=0.06]]"))
    assert len(partials) >= 8
    texts = [partial.text for partial in partials]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert completion.text.startswith(texts[-1])
    assert completion.text == "".join(f"word{n:02d} " for n in range(40))
    assert completion.data is None
    assert completion.files == ()
    assert all(partial.data is None for partial in partials)


async def test_first_token_is_shown_at_once(functions: Functions, model: ModelServer) -> None:
    async with aclosing(functions.run(turn("[[tokens=2 stall=1]]"))) as pieces:
        assert await asyncio.wait_for(anext(pieces), 5) == Partial("word00 ")
        assert model.requests[-1].sent == 1


async def test_collector_is_not_read_before_the_first_event(
    functions: Functions, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """baml-py panics when a call is just beginning, and then every later call of the process fails."""
    sent: list[int] = []
    read = Call._read

    def note(call: Call) -> bool:
        sent.append(model.requests[-1].sent if model.requests else 0)
        return read(call)

    monkeypatch.setattr(Call, "_read", note)
    partials, _ = await collect(functions, turn("[[tokens=40 first=0.4 delay=0.06]]", "Code"))
    assert len(partials) > 3
    assert min(sent) > 0


async def test_slow_reader_gets_the_newest_partial_without_a_backlog(functions: Functions, model: ModelServer) -> None:
    async with aclosing(functions.run(turn("[[tokens=200 delay=0.005]]"))) as pieces:
        assert isinstance(await anext(pieces), Partial)
        await asyncio.wait_for(model.requests[-1].ended.wait(), 20)
        rest = [piece async for piece in pieces]
    assert len(rest) <= 6, "of about twenty"
    assert isinstance(rest[-1], Completion)


async def test_completion_has_usage_and_model(functions: Functions) -> None:
    _, completion = await collect(functions, turn("[[tokens=7]]"))
    used = completion.usage
    assert (used.model, used.output_tokens) == ("demo-model", 7)
    assert used.input_tokens is not None
    assert used.cached_tokens == used.input_tokens // 2
    _, completion = await collect(functions, turn("[[tokens=7 no_usage]]"))
    assert completion.usage == Usage(model="demo-model")


async def test_code_streams_its_reply_and_gives_files(functions: Functions) -> None:
    content = 'print("a\\n")\n' * 40
    words = "word " * 60
    whole = {"reply": words, "files": [{"path": "a/b.py", "content": content, "language": "python"}]}
    directive = f"[[delay=0.02 json={json.dumps(whole)}]]"
    partials, completion = await collect(functions, turn(directive, "Code"))
    assert completion.text == words
    assert completion.files == (FileWrite("a/b.py", content, "python"),)
    assert completion.data == whole
    texts = [partial.text for partial in partials]
    assert len(set(texts)) >= 3
    assert all(words.startswith(text) for text in texts)
    assert all(partial.data is None for partial in partials), "the data of a partial has neither reply nor files"
    # The text pauses while a file is written, but partials go on: otherwise the reply would look stalled.
    assert texts.count(texts[-1]) >= 2


async def test_demo_model_writes_and_changes_files(functions: Functions) -> None:
    _, completion = await collect(functions, turn("Write a fibonacci function in Python", "Code"))
    assert [file.path for file in completion.files] == ["fibonacci.py"]
    old = CodeFile("app.js", "let a = 1;", "javascript", 2)
    _, completion = await collect(functions, turn("Change app.js", "Code", files=(old,)))
    assert completion.files[0].path == "app.js"
    assert completion.files[0].content.startswith("let a = 1;\n")


async def test_streams_do_not_start_threads(functions: Functions, model: ModelServer) -> None:
    await collect(functions, turn("[[tokens=1]]"))
    before, natively = threading.active_count(), len(os.listdir("/proc/self/task"))
    tasks = [
        asyncio.create_task(collect(functions, turn("[[tokens=20 delay=0.02 stall=19]]", name)))
        for name in ("Chat", "Code")
        for _ in range(20)
    ]
    await model.until(lambda server: [exchange.sent for exchange in server.requests][1:] == [19] * 40, within=20)
    assert threading.active_count() < before + 10  # a few may be the event loop's own, for other work
    assert len(os.listdir("/proc/self/task")) < natively + 10
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
