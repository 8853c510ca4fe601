"""One call of a BAML function: its partial results, its result, and what the provider reported.

The stream that baml-py 0.226.3 offers (`async for`) starts a thread for each call and polls. Leaving it early blocks
the event loop for five seconds while the provider keeps generating. So a call is driven one level lower, through the
private API that the generated client itself uses: `create_async_stream`, `on_event`, `done`, `cast_to`.
tests/integration/bridge/baml/test_pin.py fails when an upgrade changes any of it.
"""

import asyncio
import importlib
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

from baml_py import Collector
from baml_py.baml_py import AbortController

from bridge.baml.provider import Report, added_text, events, read_report

PARSE_SHARE = 0.04  # share of one core for parsing the partials of one stream; each parse covers the whole text so far
PARSE_SECONDS = 0.05  # shortest pause between two structured partials; BAML sends text at the same pace
PARSE_LONGEST = 5.0  # longest pause, in seconds, so that a long reply keeps showing signs of life
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


class Call:
    """A running call. Create it on the event loop, and always `close` it: that ends the provider's connection.

    `text` means that the function returns a string. BAML then sends partials by itself, every 50 ms. For any other
    type it would parse the whole text for each of them, at any cost; those are parsed here instead, at a pace that
    their own cost limits. Raises what baml-py raises if the call cannot begin.
    """

    def __init__(self, client: Client, name: str, args: dict[str, Any], *, text: bool, env: Mapping[str, str]) -> None:
        self._client, self._name, self._text = client, name, text
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._newest: Any = None
        # Of a structured stream: the raw text, the client in `baml_src` that it comes from, how many events were read.
        self._raw, self._raw_client, self._events_read = "", "", 0
        self._controller = AbortController()  # kept to the end: baml-py aborts the call when it is collected
        self._collector = Collector(name)
        options = {"abort_controller": self._controller, "collector": self._collector, "env": dict(env)}
        # Do not read the collector before the first event: it may know of a call whose start is not stored yet. baml-py
        # then panics, and every later call of the process fails.
        begun = self._begun = threading.Event()
        if not text:
            options["on_tick"] = lambda *_: begun.set()  # for each event, on a thread of baml-py
        context, self._stream = client.manager(options).create_async_stream(function_name=name, args=args)
        if text:
            self._stream.on_event(self._on_event)
        self.done: asyncio.Future[Any] = asyncio.ensure_future(self._stream.done(context))
        self.done.add_done_callback(self._on_done)

    def _on_event(self, result: Any) -> None:
        # Runs on a thread of baml-py and must not raise into it. Only the newest result counts.
        self._newest = result
        with suppress(RuntimeError):  # the event loop has ended, and with it every reader
            self._loop.call_soon_threadsafe(self._changed.set)

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
            known = len(self._raw)
            alive = self._begun.is_set() and self._read_events()
            value = self._parse() if len(self._raw) != known else None
            pause = min(max(PARSE_SECONDS, (time.thread_time() - started) / PARSE_SHARE), PARSE_LONGEST)
            if alive:
                yield value

    async def result(self) -> Any:
        """Wait for the end and return the result. Raises what baml-py raises."""
        await asyncio.wait([self.done])
        return self._cast(self.done.result(), partial=False)

    def abort(self) -> None:
        """Close the provider's connection at once, without waiting for the call to end."""
        if self._text:
            # The stream would keep this object alive. With None, baml-py would complain on stderr at every event.
            self._stream.on_event(lambda _: None)
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
        """Add the events since the last time to the raw text; True if there were any, with or without text.

        Another client, or fewer events than before, means a new call: a client in `baml_src` may have fallbacks.
        """
        if (call := self._last_call()) is None:
            return False
        so_far = events(call)
        if call.client_name != self._raw_client or len(so_far) < self._events_read:
            self._raw, self._raw_client, self._events_read = "", call.client_name, 0
        new = so_far[self._events_read :]
        self._raw += "".join(added_text(event.text) for event in new)
        self._events_read = len(so_far)
        return bool(new)

    def _parse(self) -> Any:
        """Parse the text so far; None if it cannot be parsed yet, as is common for half a structure."""
        try:
            return getattr(self._client.functions.parse_stream, self._name)(self._raw)
        except Exception:
            return None  # if the whole text cannot be parsed either, `result` raises

    def _last_call(self) -> Any:
        log = self._collector.last
        calls = log.calls if log else None
        return calls[-1] if calls else None
