"""One call of a BAML function: its partial results, its result, and what the provider reported.

The stream that baml-py 0.226.3 offers (`async for`) starts a thread for each call and polls. Leaving it early blocks
the event loop for five seconds while the provider keeps generating. So a call is driven one level lower, through the
private API that the generated client itself uses: `create_async_stream`, `on_event`, `done`, `cast_to`.
tests/integration/bridge/baml/test_pin.py fails when an upgrade changes any of it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

from baml_py import Collector
from baml_py.baml_py import AbortController

from bridge.baml.provider import Report, added_text, events, read_report

# Share of one core for parsing the structured partials of one stream. Each parse covers the whole text so far.
PARSE_SHARE = 0.04
# Shortest pause between two structured partials, in seconds. BAML sends text at the same pace.
PARSE_SECONDS = 0.05
# Longest pause, in seconds, so that a long reply keeps showing signs of life.
PARSE_LONGEST = 5.0
# How long an aborted call may take to end, in seconds. It takes about 0.001.
ABORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Client:
    """The parts of a generated client that the bridge needs. `sources` are the BAML files it was generated from."""

    functions: Any
    types: ModuleType
    partial_types: ModuleType
    manager: Any
    runtime: Any
    sources: Mapping[str, str]

    @classmethod
    def from_module(cls, module: ModuleType) -> Self:
        """Take the parts from the package `baml_client`, or from one generated under another name."""
        runtime = importlib.import_module(f"{module.__name__}.runtime")
        return cls(
            functions=module.b,
            types=module.types,
            partial_types=module.stream_types,
            manager=runtime.DoNotUseDirectlyCallManager,
            runtime=runtime.__runtime__,
            sources=_sources(module),
        )

    def methods(self) -> dict[str, Callable[..., Any]]:
        """Return the method of every BAML function, by name."""
        found = inspect.getmembers(type(self.functions), inspect.iscoroutinefunction)
        return {name: method for name, method in found if not name.startswith("_")}


def _sources(module: ModuleType) -> Mapping[str, str]:
    try:
        files: Mapping[str, str] = importlib.import_module(f"{module.__name__}.inlinedbaml").get_baml_files()
    except (ImportError, AttributeError):
        return {}  # not as baml-cli 0.226.3 writes it
    return files


def _ignore(_: Any) -> None:
    """Replace a callback. After `on_event(None)`, baml-py would complain on stderr at every event."""


class Call:
    """A running call. Create it on the event loop, and always `close` it: that ends the provider's connection.

    `text` means that the function returns a string. BAML then sends partials by itself, every 50 ms. For any other
    type it would parse the whole text for each of them, at any cost; those are parsed here instead, at a pace that
    their own cost limits. Raises what baml-py raises if the call cannot begin.
    """

    def __init__(
        self, client: Client, name: str, arguments: dict[str, Any], *, text: bool, env: Mapping[str, str]
    ) -> None:
        self._client, self._name, self._text = client, name, text
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._newest: Any = None
        self._closed = False
        self._raw = _RawText()
        self._controller = AbortController()  # kept to the end: baml-py aborts the call when it is collected
        self._collector = Collector(name)
        self._first_event = _FirstEvent()
        options = {"abort_controller": self._controller, "collector": self._collector, "env": dict(env)}
        if not text:
            options["on_tick"] = self._first_event
        context, self._stream = client.manager(options).create_async_stream(function_name=name, args=arguments)
        if text:
            self._stream.on_event(self._on_event)
        self.done: asyncio.Future[Any] = asyncio.ensure_future(self._stream.done(context))
        self.done.add_done_callback(self._on_done)

    def _on_event(self, result: Any) -> None:
        # Runs on a thread of baml-py and must not raise into it. Only the newest result counts.
        self._newest = result
        if not self._closed:
            try:
                self._loop.call_soon_threadsafe(self._changed.set)
            except RuntimeError:
                self._closed = True  # the event loop has ended, and with it every reader

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        self._changed.set()
        if not future.cancelled():
            future.exception()  # marks it as retrieved, or asyncio logs it when no reader is left

    def partials(self) -> AsyncGenerator[Any, None]:
        """Yield the newest partial result each time there is one and the reader asks; end when the call ends.

        None is a sign of life: the model is writing, but it is thinking, or its text cannot be parsed yet.
        There is no timeout here: the client's own (baml_src/clients.baml) and the turn's apply.
        """
        return self._text_partials() if self._text else self._structured_partials()

    async def _text_partials(self) -> AsyncGenerator[Any, None]:
        while not self.done.done():
            await self._changed.wait()
            self._changed.clear()
            newest, self._newest = self._newest, None
            if newest is not None and newest.is_ok():
                yield self._cast(newest, partial=True)

    async def _structured_partials(self) -> AsyncGenerator[Any, None]:
        pause = PARSE_SECONDS
        while True:
            await asyncio.wait([self.done], timeout=pause)
            if self.done.done():
                return
            started = time.thread_time()  # CPU time: time that the machine spent elsewhere is no cost of the parse
            known = len(self._raw.text)
            alive = self._first_event.seen and self._read_events()
            value = self._parse() if len(self._raw.text) != known else None
            pause = min(max(PARSE_SECONDS, (time.thread_time() - started) / PARSE_SHARE), PARSE_LONGEST)
            if alive:
                yield value

    async def result(self) -> Any:
        """Wait for the end and return the result. Raises what baml-py raises."""
        await asyncio.wait([self.done])
        return self._cast(self.done.result(), partial=False)

    def abort(self) -> None:
        """Close the provider's connection at once, without waiting for the call to end."""
        self._closed = True
        if self._text:
            self._stream.on_event(_ignore)  # the stream would keep this object alive
        if not self.done.done():
            self._controller.abort()

    async def close(self) -> None:
        """Abort the call and wait for it to end, at most `ABORT_SECONDS`."""
        self.abort()
        if not self.done.done():
            await asyncio.wait([self.done], timeout=ABORT_SECONDS)

    def report(self) -> Report:
        """Return what the provider has reported so far."""
        call = self._last_call()
        return Report() if call is None else read_report(call)

    def _cast(self, result: Any, *, partial: bool) -> Any:
        client = self._client
        return result.cast_to(client.types, client.types, client.partial_types, partial, client.runtime)

    def _read_events(self) -> bool:
        """Read the events since the last time; True if there were any."""
        call = self._last_call()
        return call is not None and self._raw.extend(call.client_name, events(call))

    def _parse(self) -> Any:
        """Parse the text so far; None if it cannot be parsed yet, as is common for half a structure."""
        try:
            return getattr(self._client.functions.parse_stream, self._name)(self._raw.text)
        except Exception:
            return None  # if the whole text cannot be parsed either, `result` raises

    def _last_call(self) -> Any:
        log = self._collector.last
        calls = log.calls if log else None
        return calls[-1] if calls else None


class _FirstEvent:
    """Notes that the provider has sent an event; baml-py calls it for each, on a thread of its own.

    Do not read the collector before the first event: it may know of a call whose start is not stored yet. baml-py
    then panics, and every later call of the process fails.
    """

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, *_: Any) -> None:
        self.seen = True


class _RawText:
    """The raw text of a stream, read from the provider's events as they arrive."""

    def __init__(self) -> None:
        self.text = ""
        self._seen = 0
        self._client = ""

    def extend(self, client: str, so_far: Sequence[Any]) -> bool:
        """Read the events that are new since the last time; True if there were any, with or without text.

        Another client, or fewer events than before, means a new call: a client in `baml_src` may have fallbacks.
        """
        if client != self._client or len(so_far) < self._seen:
            self.text, self._seen, self._client = "", 0, client
        new = so_far[self._seen :]
        self.text += "".join(added_text(event.text) for event in new)
        self._seen = len(so_far)
        return bool(new)
