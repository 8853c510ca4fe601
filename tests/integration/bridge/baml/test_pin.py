"""The parts of baml-py that the bridge relies on although they are private. Every upgrade has to pass these tests.

`bridge.baml.client` drives a call one level below the generated client's stream, which starts a thread for each call
and blocks the event loop when it is left early. `bridge.baml.unparsed` relies on what BAML does not parse.
`bridge.baml.delimiters` knows how BAML splits a prompt into messages. If a test fails after an upgrade, read what
changed, fix those modules, and set the version below.
"""

import asyncio
import gc
import importlib.metadata
import inspect
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from baml_py.baml_py import AbortController, BamlRuntime, Collector, FunctionResult, FunctionResultStream
from baml_py.errors import BamlAbortError, BamlClientHttpError

import baml_client
from baml_client import globals as client_globals
from baml_client import runtime as client_runtime
from bridge.baml.delimiters import DELIMITERS
from devstack.model import ModelServer
from tests.integration.bridge.baml.calls import variables
from tests.support import ROOT

VERSION = "0.226.3"


def begin(
    model: ModelServer, message: str, on_tick: Callable[[], None] | None = None
) -> tuple[Any, Any, AbortController, Collector]:
    controller, collector = AbortController(), Collector("pin")
    runtime: Any = client_runtime.__runtime__
    context = runtime.create_context_manager()
    given = {"messages": [], "message": message, "files": [], "images": [], "pdfs": [], "attachments": []}
    env = {**os.environ, **variables(model.url)}
    stream = runtime.stream_function(
        "Chat", given, None, context, None, None, [collector], env, {}, on_tick, controller
    )
    return context, stream, controller, collector


def cast(result: Any) -> Any:
    types, partial_types = baml_client.types, baml_client.stream_types
    return result.cast_to(types, types, partial_types, False, client_runtime.__runtime__)


def last_call(collector: Collector) -> Any:
    log: Any = collector.last
    return log.calls[-1]


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("baml-py") == VERSION
    assert f'"baml-py=={VERSION}"' in (ROOT / "pyproject.toml").read_text()
    assert f'version "{VERSION}"' in (ROOT / "baml_src" / "generators.baml").read_text()
    assert baml_client.__version__ == VERSION


def test_delimiters_match_the_library() -> None:
    # Found by its distribution: the module baml_py loses its `__file__` once an image has been validated.
    folder = Path(str(importlib.metadata.distribution("baml-py").locate_file("baml_py")))
    (library,) = (path.read_bytes() for path in folder.glob("*.so"))
    found = set(re.findall(rb"BAML_(?:[A-Z]+_)+MAGIC_STRING_DELIMITER", library))
    assert {name.decode() for name in found} == set(DELIMITERS)


def test_generated_client_has_the_parts_in_use() -> None:
    assert client_runtime.__runtime__ is (client_globals.DO_NOT_USE_DIRECTLY_UNLESS_YOU_KNOW_WHAT_YOURE_DOING_RUNTIME)
    for name in ("from_files", "create_context_manager", "stream_function", "build_request_sync", "parse_llm_response"):
        assert hasattr(BamlRuntime, name)
    assert str(vars(BamlRuntime)["stream_function"].__text_signature__).split(", ")[1:] == [
        *("function_name", "args", "on_event", "ctx", "tb", "cb", "collectors", "env_vars"),
        *("tags=None", "on_tick=None", "abort_controller=None)"),
    ]
    assert hasattr(FunctionResultStream, "done")
    assert hasattr(FunctionResult, "cast_to")
    for name in ("Chat", "Code", "Title"):
        assert inspect.iscoroutinefunction(getattr(baml_client.b, name))
        assert callable(getattr(baml_client.b.parse, name))
        assert callable(getattr(baml_client.b.parse_stream, name))


async def test_each_event_is_reported_on_another_thread_and_done_on_the_loop(model: ModelServer) -> None:
    seen: list[tuple[int, int]] = []

    def on_tick() -> None:
        seen.append((threading.get_ident(), len(last_call(collector).sse_responses())))

    context, stream, _controller, collector = begin(model, "[[tokens=20 delay=0.01]]", on_tick)
    assert cast(await asyncio.wait_for(stream.done(context), 20)).startswith("word00 word01 ")
    assert len(seen) >= 20
    assert [recorded for _, recorded in seen] == sorted({recorded for _, recorded in seen})  # before it is reported
    assert all(thread != threading.get_ident() for thread, _ in seen)


async def test_abort_ends_the_call_and_its_connection(model: ModelServer) -> None:
    context, stream, controller, _ = begin(model, "[[tokens=9 delay=0.01 stall=3]]")
    done = asyncio.ensure_future(stream.done(context))
    await model.until(lambda server: bool(server.requests) and server.requests[-1].sent == 3)
    controller.abort()
    await asyncio.wait([done], timeout=5)
    assert done.done()
    with pytest.raises(BamlAbortError):  # `done` does not raise; the result of an aborted call holds the error
        cast(done.result())
    await asyncio.wait_for(model.requests[-1].ended.wait(), 5)
    assert model.requests[-1].outcome == "dropped"


async def test_call_ends_when_its_controller_is_collected(model: ModelServer) -> None:
    # This is why `bridge.baml.client.Call` keeps a reference to the controller.
    context, stream, controller, _ = begin(model, "[[tokens=9 stall=3]]")
    done = asyncio.ensure_future(stream.done(context))
    await model.until(lambda server: bool(server.requests) and server.requests[-1].sent == 3)
    del controller
    gc.collect()
    with pytest.raises(BamlAbortError):
        cast(await asyncio.wait_for(done, 5))


async def test_collector_shows_events_while_they_arrive(model: ModelServer) -> None:
    context, stream, controller, collector = begin(model, "[[tokens=9 delay=0.01 stall=3]]")
    done = asyncio.ensure_future(stream.done(context))
    await model.until(lambda server: bool(server.requests) and server.requests[-1].sent == 3)
    events: list[Any] = []
    deadline = time.monotonic() + 5
    while len(events) < 3 and time.monotonic() < deadline:
        await asyncio.sleep(0.005)  # baml-py has nothing to wait on, so the bridge polls as well
        events = (collector.last and last_call(collector).sse_responses()) or []
    assert json.loads(events[0].text)["choices"][0]["delta"]["content"] == "word00 "
    controller.abort()
    await asyncio.wait([done], timeout=2)


async def test_collector_keeps_the_headers_of_a_refusal(model: ModelServer) -> None:
    context, stream, _controller, collector = begin(model, "[[error=429 retry_after=7]]")
    with pytest.raises(BamlClientHttpError):
        cast(await asyncio.wait_for(stream.done(context), 5))
    response: Any = last_call(collector).http_response
    assert (response.status, response.headers["retry-after"]) == (429, "7")


async def test_cut_stream_still_counts_as_success(model: ModelServer) -> None:
    # If this fails, BAML now reports it, and `bridge.baml.provider.judge_ending` may need to do less.
    context, stream, _controller, _ = begin(model, "[[tokens=9 clean_cut=3]]")
    assert cast(await asyncio.wait_for(stream.done(context), 5)) == "word00 word01 word02 "
