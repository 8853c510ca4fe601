"""One call of a BAML function: its partial results, and how it ended.

The stream that baml-py 0.226.3 offers (`async for`) starts a thread for each call and polls. Leaving it early blocks
the event loop for five seconds while the provider keeps generating. So a call is driven one level lower, through the
private API that the generated client itself uses: `create_async_stream`, `on_event`, `done`, `cast_to`.
tests/integration/bridge/baml/test_pin.py fails when an upgrade changes any of it.

BAML builds the request, sends it and parses structures. What was answered is read from the provider's own events, which
a `Collector` keeps (`bridge.baml.events`). They are polled: a callback for each event would cost 50 µs.
"""

import asyncio
import importlib
import inspect
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from baml_py import Collector
from baml_py.baml_py import AbortController, BamlError

from bridge.baml.answer import Answer
from bridge.baml.escapes import decode_escapes, restore
from bridge.baml.events import read_event
from bridge.baml.failures import Response
from bridge.model import Usage

# The providers whose events can be read. Of others, which may come with a new version, BAML's reading is believed.
READABLE = frozenset({
    "openai", "openai-generic", "openai-responses", "azure-openai", "ollama", "openrouter",
    "anthropic", "google-ai", "vertex-ai", "aws-bedrock",
})  # fmt: skip

READ_SHARE = 0.04  # share of one core for reading one stream; parsing a structure covers the whole text so far
READ_SECONDS = 0.05  # shortest pause between two partials
READ_LONGEST = 5.0  # longest pause, in seconds, so that a long reply keeps showing signs of life
SETTLE_SECONDS = 3.0  # how long a whole answer waits for token counts, if the provider does not close the stream
ABORT_SECONDS = 2.0  # how long an aborted call may take to end; it takes about 0.001


class Client:
    """The parts that the bridge needs of the package `baml_client`, or of one generated under another name.

    `methods` has the method of every BAML function; `sources` are the BAML files that the client was generated from.
    """

    def __init__(self, module: ModuleType) -> None:
        runtime = importlib.import_module(f"{module.__name__}.runtime")
        self.functions = module.b
        self.types, self.partial_types = module.types, module.stream_types
        self.manager, self.runtime = runtime.DoNotUseDirectlyCallManager, runtime.__runtime__
        methods = inspect.getmembers(type(self.functions), inspect.iscoroutinefunction)
        self.methods = {name: method for name, method in methods if not name.startswith("_")}
        self.sources: Mapping[str, str] = importlib.import_module(f"{module.__name__}.inlinedbaml").get_baml_files()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: the answer, or None if the provider's events cannot be read; what BAML made of it.

    `result` is BAML's, in Python's types, and `raw` the text that it comes from; or else `error` is what BAML raised.
    `response` is that of a call that failed before its first event, or that does not stream.
    """

    answer: Answer | None
    usage: Usage
    raw: str | None = None
    result: Any = None
    error: BamlError | None = None
    response: Response = field(default_factory=Response)


class Call:
    """A running call. Create it on the event loop, and always `close` it: that ends the provider's connection.

    `is_text` means that the function returns a string. Raises what baml-py raises if the call cannot begin.
    """

    def __init__(
        self, client: Client, name: str, args: dict[str, Any], *, is_text: bool, env: Mapping[str, str]
    ) -> None:
        self._client, self._name, self._is_text = client, name, is_text
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._is_alive = False  # something came since the last look
        self._newest: Any = None  # of a text: BAML's newest result, for providers whose events cannot be read
        self._answers: dict[str, Answer] = {}  # by the id of the request: a client in baml_src may have fallbacks
        self._call: Any = None  # the one that gave the answer
        self._answer: Answer | None = None
        self._is_superseded = False  # BAML has begun another call since
        self._whole_at: float | None = None  # on the loop's clock: since when the answer is whole and does not grow
        self._said = 0
        self._waiter: asyncio.Future[None] | None = None
        self._controller = AbortController()  # kept to the end: baml-py aborts the call when it is collected
        self._collector = Collector(name)
        options = {"abort_controller": self._controller, "collector": self._collector, "env": dict(env)}
        if not is_text:
            # With `on_event`, BAML would parse the whole structure every 50 ms, at any cost.
            options["on_tick"] = lambda *_: self._on_event(None)
        context, self._stream = client.manager(options).create_async_stream(function_name=name, args=args)
        if is_text:
            self._stream.on_event(self._on_event)
        self.done: asyncio.Future[Any] = asyncio.ensure_future(self._stream.done(context))
        self.done.add_done_callback(self._on_done)

    def _on_event(self, result: Any) -> None:
        # Runs on a thread of baml-py and must not raise into it.
        self._newest = result
        if result is None or result.is_ok():  # a call that fails shows no sign of life
            self._is_alive = True
        if not self._begun.is_set():
            with suppress(RuntimeError):  # the event loop has ended, and with it every reader
                self._loop.call_soon_threadsafe(self._begun.set)

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        self._begun.set()
        self._wake()
        if not future.cancelled():
            future.exception()  # marks it as retrieved, or asyncio logs it when no reader is left

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, seconds: float) -> None:
        """Wait, or until the call is done. It costs less than `asyncio.wait`, and runs 20 times a second."""
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()

    async def partials(self) -> AsyncGenerator[Any, None]:
        """Yield the newest partial result whenever something came from the provider; end when the answer ends.

        None means that there is nothing new to show: the model is thinking, or its text cannot be parsed yet. There is
        no timeout here: the client's own (baml_src/clients.baml) and the turn's apply.
        """
        # Do not read the collector before the first event: it may know of a call whose start is not stored yet. baml-py
        # then panics, and every later call of the process fails.
        await self._begun.wait()
        shown = ""
        while not self.done.done():
            started = time.thread_time()  # CPU time: time that the machine spent elsewhere is no cost of the reading
            is_alive, self._is_alive = self._is_alive, False
            is_alive = self._read() or is_alive
            if self._is_over():
                return
            value = None
            if self._answer is None:
                if is_alive and self._newest is not None and self._newest.is_ok():
                    value = self._cast(self._newest, partial=True)
            elif (text := self._answer.text) != shown:
                shown = text
                value = text if self._is_text else self._parse_partial(text)
            pause = min(max(READ_SECONDS, (time.thread_time() - started) / READ_SHARE), READ_LONGEST)
            if is_alive:
                yield value
            await self._wait(pause)

    @property
    def has_begun(self) -> bool:
        """Whether the model has written a word or a thought, as far as this can be told."""
        return self._begun.is_set() if self._answer is None else self._answer.has_begun

    @property
    def usage(self) -> Usage:
        """What the provider has reported so far."""
        return Usage() if self._answer is None else self._answer.usage

    async def end(self) -> Ended:
        """Wait until the answer has ended, unless `partials` found its end, and return all of it."""
        if not self._is_over():
            await asyncio.wait([self.done])
        if self._begun.is_set():
            self._read()
        response = Response()
        if self._call is not None and (answered := self._call.http_response) is not None:
            headers = {name.lower(): str(value) for name, value in answered.headers.items()}
            response = Response(answered.body.text(), headers)
            if answered.status < 300 and self._call.provider in READABLE and self._answer is None:
                self._answer = Answer()  # the client does not stream: the whole answer is one body
                read_event(self._answer, response.body)
        ended = Ended(self._answer, _usage(self._answer, self._call), response=response)
        if not self.done.done():
            return ended
        try:
            result = self._cast(self.done.result(), partial=False)
            return replace(ended, raw=log.raw_llm_response if (log := self._collector.last) else None, result=result)
        except BamlError as error:
            return replace(ended, error=error)

    def parse(self, text: str) -> Any:
        """Parse the text of a whole structured answer, and return it as JSON values. Raises what baml-py raises."""
        return restore(getattr(self._client.functions.parse, self._name)(decode_escapes(text)))

    def _parse_partial(self, text: str) -> Any:
        try:
            return restore(getattr(self._client.functions.parse_stream, self._name)(decode_escapes(text, partial=True)))
        except Exception:
            return None  # as is common for half a structure; if the whole cannot be parsed either, `parse` raises

    def abort(self) -> None:
        """Close the provider's connection at once, without waiting for the call to end."""
        if self._is_text:
            # The stream would keep this object alive. With None, baml-py would complain on stderr at every event.
            self._stream.on_event(lambda _: None)
        if not self.done.done():
            self._controller.abort()

    async def close(self) -> None:
        """Abort the call and wait for it to end, at most `ABORT_SECONDS`."""
        self.abort()
        if not self.done.done():
            await asyncio.wait([self.done], timeout=ABORT_SECONDS)

    def _cast(self, result: Any, *, partial: bool) -> Any:
        client = self._client
        return result.cast_to(client.types, client.types, client.partial_types, partial, client.runtime)

    def _read(self) -> bool:
        """Read the events since the last time; True if there were any.

        The answer is that of the call that began last, whatever their order in the collector (baml #2441). But if BAML
        asked again although an answer was whole (it could not read an event after it), the first whole one counts.
        """
        log = self._collector.last
        calls = log.calls if log else ()
        is_alive, best, newest = False, (False, -1, False), -1
        best_began = -1
        for call in calls:
            began = call.timing.start_time_utc_ms
            newest = max(newest, began)
            request_id = call.http_request.id if call.http_request else ""
            answer = self._answers.get(request_id)
            if call.provider in READABLE and (events := _events(call)):
                if answer is None:
                    answer = self._answers[request_id] = Answer()
                for event in events[answer.events :]:
                    read_event(answer, event.text)
                    is_alive = True
            is_whole = answer is not None and answer.is_whole
            order = (is_whole, -began if is_whole else began, answer is not None)
            if order > best:
                best, best_began, self._call, self._answer = order, began, call, answer
        self._is_superseded = best_began < newest
        return is_alive

    def _is_over(self) -> bool:
        """Whether the answer is whole although the call goes on: the provider did not close it, or BAML asks again."""
        if self._answer is None or not self._answer.is_whole:
            self._whole_at = None
            return False
        if self._whole_at is None or self._said != self._answer.said:
            self._whole_at, self._said = self._loop.time(), self._answer.said
        return self._is_superseded or self._loop.time() - self._whole_at > SETTLE_SECONDS


def _events(call: Any) -> Sequence[Any]:
    """Return the events of a call so far; each has a `text`. A call that failed before its first event has none."""
    read = getattr(call, "sse_responses", None)
    return (read() or ()) if read else ()


def _usage(answer: Answer | None, call: Any) -> Usage:
    """Return what the call cost: from its events, and what they do not say from BAML and the request."""
    usage = answer.usage if answer is not None else Usage()
    if call is None:
        return usage
    counted = call.usage
    model = usage.model or (_model_asked(call.http_request.body.text()) if call.http_request else None)
    return Usage(
        model,
        counted.input_tokens if usage.input_tokens is None and counted else usage.input_tokens,
        counted.output_tokens if usage.output_tokens is None and counted else usage.output_tokens,
        counted.cached_input_tokens if usage.cached_tokens is None and counted else usage.cached_tokens,
    )


def _model_asked(body: str) -> str | None:
    try:
        request = json.loads(body)
    except ValueError:
        return None
    model = request.get("model") if isinstance(request, dict) else None
    return model if isinstance(model, str) else None
