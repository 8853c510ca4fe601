"""One call of a BAML function: its partial results, and how it ended.

The stream that baml-py 0.226.3 offers (`async for`) starts a thread for each call and polls. Leaving it early blocks
the event loop for five seconds while the provider keeps generating. So a call is driven one level lower, through the
private API that the generated client itself uses: `stream_function`, `on_tick`, `done`, `cast_to`.
tests/integration/bridge/baml/test_pin.py fails when an upgrade changes any of it.

BAML builds the request and sends it. What was answered is read from the provider's own events, which a `Collector`
keeps (`bridge.baml.events`), and a structure is parsed by `bridge.baml.parsing`. BAML itself parses nothing
(`bridge.baml.unparsed`).

The events have to be polled, all of them each time, which takes 0.05 µs for each. BAML reports each on a thread of its
own. A generator takes the report: a function would cost 20 µs, because its frame needs a stack of that thread.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from baml_py import ClientRegistry, Collector
from baml_py.baml_py import AbortController, BamlError

from bridge.baml.answer import Answer
from bridge.baml.events import read_event
from bridge.baml.failures import Response, bad_output
from bridge.baml.parsing import Parser
from bridge.baml.running import EVENT_BYTES, HELD_BY_ALL, HELD_BYTES, TEXT_COPIES, Running
from bridge.baml.unparsed import Unparsed
from bridge.model import Usage
from bridge.sanitize import is_too_large

# The providers whose events can be read. Of others, which may come with a new version, BAML's reading is believed.
READABLE = frozenset({
    "openai", "openai-generic", "openai-responses", "azure-openai", "ollama", "openrouter",
    "anthropic", "google-ai", "vertex-ai", "aws-bedrock",
})  # fmt: skip

READ_SECONDS = 0.05  # shortest pause between two partials
READ_LONGEST = 5.0  # longest pause, in seconds, so that a long reply keeps showing signs of life
READ_SLICE = 0.02  # longest time on the event loop for reading events, in seconds; what is left waits for its turn

LONGEST_EVENT = 1_500_000  # characters of an event that is read, which may repeat the whole answer
BODY_BYTES = 8 << 20  # of an answer that is not a stream
ERROR_CHARACTERS = 100_000  # of the body of an error that are read
MOST_OF_REQUEST = 1 << 20  # characters of a request that are searched for the model's name
LONGEST_RAW = 2_000_000  # characters of a text with its reasoning
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
        self.runtime = runtime.__runtime__
        methods = inspect.getmembers(type(self.functions), inspect.iscoroutinefunction)
        self.methods = {name: method for name, method in methods if not name.startswith("_")}
        self.module = module
        self.sources: Mapping[str, str] = importlib.import_module(f"{module.__name__}.inlinedbaml").get_baml_files()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: the answer, or None if the provider's events cannot be read.

    Then `result` is the text as BAML read it; or else `error` is what BAML raised. `response` is that of a call that
    failed before its first event, or that does not stream.
    """

    answer: Answer | None
    usage: Usage
    result: Any = None
    error: BamlError | None = None
    response: Response = field(default_factory=Response)


class Call:
    """A running call. Create it on the event loop, and always `close` it: that ends the provider's connection.

    `is_text` means that the function returns a string; with `shows_reasoning`, what the model thinks is kept. `model`
    is a client in `baml_src` to use instead of the function's own; BAML would take another name for a provider's model.
    Raises what baml-py raises if the call cannot begin.
    """

    def __init__(
        self,
        client: Client,
        unparsed: Unparsed,
        running: Running,
        name: str,
        args: dict[str, Any],
        *,
        is_text: bool,
        env: Mapping[str, str],
        model: str | None = None,
        shows_reasoning: bool = False,
    ) -> None:
        self._client, self._is_text, self._shows_reasoning = client, is_text, shows_reasoning
        self.parser = Parser(client.module, name, running)  # of its structure, if the function returns one
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Event()
        self._ticks = self._ticks_read = 0  # events that BAML has reported, and how many there were at the last look
        self._waits_for_tick = False
        self._is_behind = False  # there are events that the last look left
        self._is_cut = False  # there is more than is read
        self._answers: dict[str, Answer] = {}  # by the id of the request: a client in baml_src may have fallbacks
        self._call: Any = None  # the one that gave the answer
        self._answer: Answer | None = None
        self._is_superseded = False  # BAML has begun another call since
        self._whole_at: float | None = None  # on the loop's clock: since when the answer is whole and does not grow
        self._said = 0
        self.held = 0  # bytes that are kept of this reply
        self._text_held = 0  # bytes
        self._waiter: asyncio.Future[None] | None = None
        self._controller = AbortController()  # kept to the end: baml-py aborts the call when it is collected
        self._collector = Collector(name)
        runtime = unparsed.runtime
        context = runtime.create_context_manager()
        variables = {**os.environ, **env}
        collectors, on_tick = [self._collector], self._on_tick().__next__
        registry = None
        if model is not None:
            registry = ClientRegistry()
            registry.set_primary(model)
        stream = runtime.stream_function(  # type: ignore[call-arg]  # the stub of 0.226.3 lacks the last parameter
            unparsed.names[name],
            args,
            None,
            context,
            None,
            registry,
            collectors,
            variables,
            {},
            on_tick,
            self._controller,
        )
        self.done: asyncio.Future[Any] = asyncio.ensure_future(stream.done(context))
        running.begin(self)
        self.done.add_done_callback(self._on_done)

    def _on_tick(self) -> Iterator[None]:
        # Runs on a thread of baml-py and must not raise into it.
        while True:
            self._ticks += 1
            if self._ticks == 1 or self._waits_for_tick:
                self._waits_for_tick = False
                with suppress(RuntimeError):  # the event loop has ended, and with it every reader
                    self._loop.call_soon_threadsafe(self._on_news)
            yield

    def _on_news(self) -> None:
        self._begun.set()
        self._wake()

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        self._on_news()
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

    async def _wait_for_tick(self) -> None:
        """Wait until BAML reports an event, or the call is done."""
        self._waiter = self._loop.create_future()
        self._waits_for_tick = True
        if self._ticks == self._ticks_read and not self.done.done():
            await self._waiter
        self._waits_for_tick = False

    async def partials(self) -> AsyncGenerator[Any, None]:
        """Yield the newest partial result whenever something came from the provider; end when the answer ends.

        None means that there is nothing new to show: the model is thinking, or its text cannot be parsed yet. There is
        no timeout here: the client's own (baml_src/clients.baml) and the turn's apply. Raises BadOutput when there is
        more than can be parsed.
        """
        # Do not read the collector before the first event: it may know of a call whose start is not stored yet. baml-py
        # then panics, and every later call of the process fails.
        await self._begun.wait()
        shown = ""
        while not self.done.done():
            async with self._running.reading() as started:
                is_alive = self._ticks != self._ticks_read
                is_alive = self._read() or is_alive
                if self._is_over():
                    return
                value = None
                if self._answer is not None and is_alive and (text := self._answer.text) != shown:
                    shown = text
                    value = text if self._is_text else self.parser.partial(text)
                pause = min(max(READ_SECONDS, (time.thread_time() - started) / self._running.share), READ_LONGEST)
            if is_alive:
                yield value
            await self._wait(pause)
            if not (is_alive or self._is_behind or self._whole_at is not None):
                await self._wait_for_tick()

    @property
    def has_begun(self) -> bool:
        """Whether the model has written a word or a thought, as far as this can be told."""
        return self._begun.is_set() if self._answer is None else self._answer.has_begun

    def take_reasoning(self) -> str:
        """What the model has thought since the last time; empty unless it is to be shown."""
        return "" if self._answer is None else self._answer.take_thoughts()

    @property
    def thought(self) -> int:
        """How many characters of reasoning there are so far, shown or not."""
        return 0 if self._answer is None else self._answer.thought

    @property
    def usage(self) -> Usage:
        """What the provider has reported so far."""
        return Usage() if self._answer is None else self._answer.usage

    async def end(self) -> Ended:
        """Wait until the answer has ended, unless `partials` found its end, and return all of it."""
        if not self._is_over():
            await asyncio.wait([self.done])
        while self._begun.is_set() and not self._is_cut:
            async with self._running.reading():
                self._read()
            if not self._is_behind:
                break
            await self._wait(READ_SECONDS)
        response = Response()
        if self._call is not None and (answered := self._call.http_response) is not None:
            headers = {name.lower(): str(value) for name, value in answered.headers.items()}
            body = answered.body.text()
            is_answer = answered.status < 300 and self._call.provider in READABLE and self._answer is None
            response = Response(body[:ERROR_CHARACTERS], headers)
            if is_answer:
                self._answer = self._new_answer()  # the client does not stream: the whole answer is one body
                if len(body) > BODY_BYTES:
                    self._cut(f"its body is longer than {BODY_BYTES:,} bytes")
                else:
                    read_event(self._answer, body)
        ended = Ended(self._answer, _usage(self._answer, self._call), response=response)
        if self._is_cut or not self.done.done():
            return ended
        try:
            result = self.done.result()
            return ended if self._answer is not None else replace(ended, result=self._cast(result))
        except BamlError as error:
            return replace(ended, error=error)

    def abort(self) -> None:
        """Close the provider's connection at once, without waiting for the call to end."""
        if not self.done.done():
            self._controller.abort()

    async def close(self) -> None:
        """Abort the call and wait for it to end, at most `ABORT_SECONDS`."""
        self.abort()
        if not self.done.done():
            await asyncio.wait([self.done], timeout=ABORT_SECONDS)
        self._running.end(self)

    def _cut(self, problem: str) -> None:
        """Read no more. What was said of a text stays; a structure would not be whole."""
        if not self._is_text:
            raise bad_output(problem)
        self._is_cut = True
        if self._answer is not None:
            self._answer.cut()

    def _bound(self) -> None:
        """End a reply that is too long, or the largest if all together hold too much. Raises BadOutput."""
        answer = self._answer
        if answer is None or answer.is_whole:
            return
        size = sys.getsizeof(answer.raw)  # up to four bytes for each character
        self._running.hold(self, TEXT_COPIES * max(0, size - self._text_held))
        self._text_held = max(self._text_held, size)
        unread = EVENT_BYTES * (self._ticks - sum(answer.events for answer in self._answers.values()))
        if self.held + unread > HELD_BYTES:
            self._cut(f"its events take more than {HELD_BYTES >> 20} MiB")
        elif self._running.largest is self:
            self._cut(f"it is the largest of {self._running.count} replies that take {HELD_BY_ALL >> 20} MiB")
        elif len(answer.raw) > LONGEST_RAW or (self._is_text and is_too_large(answer.text)):
            self._cut("it is too long")

    def _new_answer(self) -> Answer:
        return Answer(keeps_thoughts=self._shows_reasoning)

    def _cast(self, result: Any) -> Any:
        client = self._client
        return result.cast_to(client.types, client.types, client.partial_types, False, client.runtime)

    def _read(self) -> bool:
        """Read the events since the last time, for at most READ_SLICE; True if there were any.

        The answer is that of the call that began last, whatever their order in the collector (baml #2441). But if BAML
        asked again although an answer was whole (it could not read an event after it), the first whole one counts.
        """
        self._ticks_read = self._ticks
        self._is_behind = False
        until = time.perf_counter() + READ_SLICE
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
                    answer = self._answers[request_id] = self._new_answer()
                held = 0
                for event in events[answer.events :]:
                    text = event.text
                    if len(text) <= LONGEST_EVENT:
                        read_event(answer, text)
                    else:
                        answer.skip(f"an event is longer than {LONGEST_EVENT:,} characters")
                    held += EVENT_BYTES + 2 * len(text)
                    is_alive = True
                    if time.perf_counter() > until:
                        self._is_behind = answer.events < len(events)
                        break
                self._running.hold(self, held)
            is_whole = answer is not None and answer.is_whole
            order = (is_whole, -began if is_whole else began, answer is not None)
            if order > best:
                best, best_began, self._call, self._answer = order, began, call, answer
        self._is_superseded = best_began < newest
        self._bound()
        return is_alive

    def _is_over(self) -> bool:
        """Whether the answer is whole although the call goes on: the provider did not close it, or BAML asks again.

        Or it is not whole, but more of it is not read.
        """
        if self._is_cut:
            return True
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
    if len(body) > MOST_OF_REQUEST:  # to read its attachments takes too long
        return None
    try:
        request = json.loads(body)
    except ValueError:
        return None
    model = request.get("model") if isinstance(request, dict) else None
    return model if isinstance(model, str) else None
