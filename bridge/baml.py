"""One call of a BAML function: its partial results as they come, its end, its cost, and what went wrong.

The stream that baml-py 0.226.3 offers (`async for`) starts a thread for each call, polls, and when it is left early it
blocks the event loop for five seconds while the provider goes on. So the call is driven one level below, by what the
generated client itself uses: `create_async_stream`, `on_event`, `done`, `cast_to`; `test_baml_pin.py`
fails when an upgrade changes any of it. Nothing else in the bridge knows of these.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

from baml_py import Collector
from baml_py.baml_py import AbortController

from bridge.provider import Report, added_text, events, read_report

# The share of a core that parsing one stream's structured partials may take: each parse is of the whole text so far.
PARSE_SHARE = 0.04
# The shortest time between two structured partials, in seconds; BAML's own pace for text is the same.
PARSE_SECONDS = 0.05
PARSE_LONGEST = 5.0  # and the longest, so that a reply that takes long shows that it lives
# How long an aborted call may take to end, in seconds. It takes about 0.001.
ABORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Client:
    """A generated client: the parts of it that a call needs."""

    functions: Any
    types: ModuleType
    partial_types: ModuleType
    manager: Any
    runtime: Any

    @classmethod
    def of(cls, module: ModuleType) -> Self:
        """Take the parts from the package `baml_client`, or one generated under another name."""
        runtime = importlib.import_module(f"{module.__name__}.runtime")
        return cls(
            functions=module.b,
            types=module.types,
            partial_types=module.stream_types,
            manager=runtime.DoNotUseDirectlyCallManager,
            runtime=runtime.__runtime__,
        )


def _ignore(_: Any) -> None:
    """Stand in for a callback. `on_event(None)` would make baml-py complain on stderr at every later event."""


class Call:
    """A call under way. Made on the event loop; `close` it in any case: it ends the provider's connection.

    `text` says that the function gives a string: its partials come from BAML by themselves, every 50 ms. Those of any
    other type would cost BAML a parse of everything each time, whatever that takes; here they are parsed at a pace
    bounded by their own cost. Raises what baml-py raises if the call cannot even begin.
    """

    def __init__(
        self, client: Client, name: str, arguments: dict[str, Any], *, text: bool, env: Mapping[str, str]
    ) -> None:
        self._client, self._name, self._text = client, name, text
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._newest: Any = None
        self._closed = False
        self._tail = _Tail()
        self._controller = AbortController()  # held to the end: letting it go aborts the call
        self._collector = Collector(name)
        self._heard = _Heard()
        options = {"abort_controller": self._controller, "collector": self._collector, "env": dict(env)}
        if not text:
            options["on_tick"] = self._heard
        context, self._stream = client.manager(options).create_async_stream(function_name=name, args=arguments)
        if text:
            self._stream.on_event(self._on_event)
        self.done: asyncio.Future[Any] = asyncio.ensure_future(self._stream.done(context))
        self.done.add_done_callback(self._on_done)

    def _on_event(self, result: Any) -> None:
        # On a thread of baml-py's. Only the newest counts, and nothing may be raised into it.
        self._newest = result
        if not self._closed:
            try:
                self._loop.call_soon_threadsafe(self._changed.set)
            except RuntimeError:
                self._closed = True  # the loop is gone; nobody waits any more

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        self._changed.set()
        if not future.cancelled():
            future.exception()  # so that one nobody asks for any more is not reported as lost

    async def partials(self) -> AsyncGenerator[Any, None]:
        """Give the newest partial result whenever there is one and it is asked for; end when the call does.

        None is a sign of life: the model writes, but it thinks, or what it wrote cannot be read yet.
        There is no timeout here: the client's own (baml_src/clients.baml) and the turn's bound it.
        """
        if self._text:
            while not self.done.done():
                await self._changed.wait()
                self._changed.clear()
                newest, self._newest = self._newest, None
                if newest is not None and newest.is_ok():
                    yield self._cast(newest, partial=True)
            return
        pause = PARSE_SECONDS
        while True:
            await asyncio.wait([self.done], timeout=pause)
            if self.done.done():
                return
            begun = time.thread_time()  # what it cost, and not how long the machine had something else to do
            known = len(self._tail.text)
            alive = self._heard.anything and self._read()
            value = self._parse() if len(self._tail.text) != known else None
            pause = min(max(PARSE_SECONDS, (time.thread_time() - begun) / PARSE_SHARE), PARSE_LONGEST)
            if alive:
                yield value

    async def result(self) -> Any:
        """Wait for the end and give the result. Raises what baml-py raises."""
        await asyncio.wait([self.done])
        return self._cast(self.done.result(), partial=False)

    def abort(self) -> None:
        """Close the provider's connection, at once and without waiting."""
        self._closed = True
        if self._text:
            self._stream.on_event(_ignore)  # frees this object too: the stream would hold on to it
        if not self.done.done():
            self._controller.abort()

    async def close(self) -> None:
        """Abort, and wait until nothing is pending."""
        self.abort()
        if not self.done.done():
            await asyncio.wait([self.done], timeout=ABORT_SECONDS)

    def report(self) -> Report:
        """Give what is known of the provider's side so far."""
        call = self._last_call()
        return Report() if call is None else read_report(call)

    def _cast(self, result: Any, *, partial: bool) -> Any:
        client = self._client
        return result.cast_to(client.types, client.types, client.partial_types, partial, client.runtime)

    def _read(self) -> bool:
        """Take in what came since the last time; True if there was anything."""
        call = self._last_call()
        return call is not None and self._tail.grow(call.client_name, events(call))

    def _parse(self) -> Any:
        """Parse the text so far; None if it makes no sense yet, which half a structure often does not."""
        try:
            return getattr(self._client.functions.parse_stream, self._name)(self._tail.text)
        except Exception:
            return None  # the result will make sense, or its failure tells

    def _last_call(self) -> Any:
        log = self._collector.last
        calls = log.calls if log else None
        return calls[-1] if calls else None


class _Heard:
    """Notes that the provider sent an event; called for each, from a thread of baml-py's.

    Until the first one the collector must not be asked: it may know of a call whose beginning is not yet stored, and
    then baml-py panics, which spoils every call of the process.
    """

    def __init__(self) -> None:
        self.anything = False

    def __call__(self, *_: Any) -> None:
        self.anything = True


class _Tail:
    """The raw text of a stream, read from the provider's events as they pile up."""

    def __init__(self) -> None:
        self.text = ""
        self._seen = 0
        self._client = ""

    def grow(self, client: str, so_far: Sequence[Any]) -> bool:
        """Take in the events not yet seen; True if there were some, with text in them or not.

        Another client, or fewer events than before, is a new call: a client in `baml_src` may have fallbacks.
        """
        if client != self._client or len(so_far) < self._seen:
            self.text, self._seen, self._client = "", 0, client
        new = so_far[self._seen :]
        self.text += "".join(added_text(event.text) for event in new)
        self._seen = len(so_far)
        return bool(new)
