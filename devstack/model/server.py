"""The demo model's HTTP server: OpenAI's chat completions, streaming or not, with a record of the requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

from .prompt import Prompt
from .replies import with_text
from .script import Script
from .steps import Player
from .writing import NAME, Writing, chunk

KEEP_BYTES = 256 * 2**20  # of the bodies that are remembered

Outcome = Literal["open", "complete", "refused", "cut", "dropped"]


@dataclass(eq=False, slots=True)
class Exchange:
    """A request and its outcome. Times are `time.monotonic()`.

    `outcome` is `complete`, `refused` (an error status), `cut` (by the server, following its script) or `dropped` (the
    client closed the connection). `ended` is set once the outcome is known.
    """

    body: Mapping[str, Any]
    prompt: Prompt
    connection: str
    started_at: float = field(default_factory=time.monotonic)
    sent: int = 0
    outcome: Outcome = "open"
    ended_at: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    size: int = 0  # bytes of the body
    permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # to continue after a `hold`

    def end(self, outcome: Outcome) -> None:
        """Record the outcome; only the first call counts."""
        if self.ended_at is None:
            self.outcome, self.ended_at = outcome, time.monotonic()
            self.ended.set()


class ModelServer:
    """An OpenAI-compatible server on 127.0.0.1, as an async context manager.

    `first` and `delay` are the default seconds before the first token and between tokens; `port` 0 picks a free port;
    `keep` is the number of requests to remember. Raises OSError on entry if the port is taken.
    """

    def __init__(self, *, port: int = 0, first: float = 0.0, delay: float = 0.0, keep: int = 1000) -> None:
        self.requests: deque[Exchange] = deque(maxlen=keep)
        self.open = 0
        self._port, self._first, self._delay = port, first, delay
        self._player = Player()
        self._seen: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[Any]] = set()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/requests", self._requests)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)

    @property
    def url(self) -> str:
        """The base URL, `http://127.0.0.1:<port>/v1`."""
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self._runner.cleanup()

    async def until(self, reached: Callable[[ModelServer], bool], *, within: float = 5.0) -> None:
        """Wait until `reached(self)` is true, checking at each request, token and end. Raises TimeoutError."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    def let_go(self, times: int = 1) -> None:
        """Let every open reply with a `hold` continue past `times` holds, including ones it has not reached yet."""
        for exchange in self.requests:
            if exchange.outcome == "open":
                for _ in range(times):
                    exchange.permits.release()

    def _keep(self, exchange: Exchange) -> None:
        """Remember a request, and forget the oldest ones: attachments make bodies of 14 MB."""
        self.requests.append(exchange)
        held = sum(kept.size for kept in self.requests)
        while held > KEEP_BYTES and len(self.requests) > 1:
            held -= self.requests.popleft().size

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def _requests(self, request: web.Request) -> web.Response:
        """Return the recent requests, for tests that run the server in another process."""
        return web.json_response([{"body": dict(e.body), "outcome": e.outcome, "sent": e.sent} for e in self.requests])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            prompt = Prompt.read(body)
        except (ValueError, TypeError, KeyError, AttributeError):
            return _error(400, "the request body is not a chat completion request")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        exchange = Exchange(body, prompt, f"{peer}", size=request.content_length or 0)
        self._keep(exchange)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            await self._notify()
            return await self._answer(request, exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.end("dropped")
            raise
        finally:
            self._tasks.discard(task)
            self.open -= 1
            exchange.end("complete")
            await self._notify()

    async def _answer(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        prompt = exchange.prompt
        # A title prompt quotes the question with its directive, which does not apply to the title.
        step = self._player.step(prompt) if prompt.kind != "title" else None
        script = Script() if step is None else step.script
        if step is not None and step.problem is not None:
            if prompt.wanted is not None and with_text(prompt, "") == "":  # there is no place for a sentence
                exchange.end("refused")
                return _error(400, step.problem)
            script = Script(text=step.problem)
        if step is not None and script.times is not None:
            self._seen[step.key] += 1
            if self._seen[step.key] > script.times:
                script = script.without_fault()
        if script.error is not None:
            exchange.end("refused")
            return _error(script.error, "error requested by a directive", script.retry_after)
        writing = Writing(script, prompt)
        written = len(writing.thoughts) + len(writing.tokens)
        usage = {
            "prompt_tokens": prompt.tokens,
            "completion_tokens": written,
            "total_tokens": prompt.tokens + written,
            "prompt_tokens_details": {"cached_tokens": prompt.tokens // 2},
        }
        if not exchange.body.get("stream"):
            return await self._whole(request, exchange, writing, usage)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await self._stream(request, response, exchange, writing)
        if exchange.ended_at is not None:
            return response
        await response.write(_event(chunk({}, writing.finish)))
        if not script.no_usage and (exchange.body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event({**chunk({}, None), "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _whole(
        self, request: web.Request, exchange: Exchange, writing: Writing, usage: Mapping[str, Any]
    ) -> web.Response:
        """Answer at once, or fail as the script asks: where a stream would break off, there is no answer."""
        script = writing.script
        await asyncio.sleep((self._first if script.first is None else script.first) + writing.seconds)
        for _ in range(len(writing.tokens) // script.hold if script.hold else 0):
            await exchange.permits.acquire()
        most = len(writing.tokens)
        if script.stall is not None and script.stall <= most:
            await asyncio.Event().wait()  # until the client disconnects or the server stops
        if script.fail is not None and script.fail <= most:
            exchange.end("refused")
            return _error(503, "overloaded")
        for place in (script.cut, script.clean_cut):
            if place is not None and place <= most:
                exchange.end("cut")
                if request.transport is not None:
                    request.transport.abort()
        return web.json_response(writing.whole(usage))

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, exchange: Exchange, writing: Writing
    ) -> None:
        """Write the tokens at the requested pace, up to the failure that the script asks for."""
        script = writing.script
        delay = self._delay if script.delay is None else script.delay
        # Scheduled by absolute time, so that the duration of each write does not slow the pace.
        due = time.monotonic() + (self._first if script.first is None else script.first)
        for thought in writing.thoughts:
            await asyncio.sleep(due - time.monotonic())
            due += delay
            await response.write(_event(chunk({"reasoning_content": thought}, None)))
        for count, token in enumerate([*writing.tokens, None]):
            if count == script.cut:
                exchange.end("cut")
                if request.transport is not None:
                    request.transport.abort()
                return
            if count == script.clean_cut:
                exchange.end("cut")
                await response.write_eof()
                return
            if count == script.fail:
                exchange.end("cut")
                await response.write(_event({"error": {"message": "overloaded", "code": 503}}))
                await response.write_eof()
                return
            if count == script.stall:
                await asyncio.Event().wait()  # until the client disconnects or the server stops
            if token is None:
                return
            if script.hold and count and count % script.hold == 0:
                await exchange.permits.acquire()
                due = max(due, time.monotonic())  # resume the normal pace
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            due += delay
            await response.write(_event(chunk(writing.delta(count, token), None)))
            exchange.sent += 1
            await self._notify()


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _error(status: int, message: str, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    error = {"message": message, "type": "demo_error", "code": str(status)}
    return web.json_response({"error": error}, status=status, headers=headers)
