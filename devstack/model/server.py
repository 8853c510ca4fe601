"""The demo model's HTTP server: OpenAI's chat completions, streaming or not, with a record of the requests."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web

from .replies import Prompt, answer
from .script import Script, read_script

NAME = "demo-model"
_TOKEN = re.compile(r"\s*\S{1,8}|\s+$")

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
        exchange = Exchange(body, prompt, f"{peer}")
        self.requests.append(exchange)
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
        script = (read_script(prompt.last) if prompt.kind != "title" else None) or Script()
        if script.times is not None:
            self._seen[script.source] += 1
            if self._seen[script.source] > script.times:
                script = script.without_fault()
        if script.error is not None:
            exchange.end("refused")
            return _error(script.error, "error requested by a directive", script.retry_after)
        tokens = _tokens(script, prompt)
        usage = {
            "prompt_tokens": prompt.tokens,
            "completion_tokens": len(tokens),
            "total_tokens": prompt.tokens + len(tokens),
            "prompt_tokens_details": {"cached_tokens": prompt.tokens // 2},
        }
        if not exchange.body.get("stream"):
            await asyncio.sleep(self._first if script.first is None else script.first)
            return web.json_response(_whole("".join(tokens), script, usage))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await self._stream(request, response, exchange, script, tokens)
        if exchange.ended_at is not None:
            return response
        await response.write(_event(_chunk({}, script.finish)))
        if not script.no_usage and (exchange.body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event({**_chunk({}, None), "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        exchange: Exchange,
        script: Script,
        tokens: list[str],
    ) -> None:
        """Write the tokens at the requested pace, up to the failure that the script asks for."""
        delay = self._delay if script.delay is None else script.delay
        # Scheduled by absolute time, so that the duration of each write does not slow the pace.
        due = time.monotonic() + (self._first if script.first is None else script.first)
        for count, token in enumerate([*tokens, None]):
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
            role = {} if count else {"role": "assistant"}
            await response.write(_event(_chunk({**role, "content": token}, None)))
            exchange.sent += 1
            await self._notify()


def _tokens(script: Script, prompt: Prompt) -> list[str]:
    if script.echo:
        text = _structured(prompt, prompt.last)
    elif script.json is not None:
        text = script.json if isinstance(script.json, str) else json.dumps(script.json)
    elif script.text is not None:
        text = _structured(prompt, script.text)
    elif script.tokens is not None:
        return _filler(script.tokens, structured=prompt.kind == "code")
    else:
        text = answer(prompt)
    return _TOKEN.findall(text)


def _structured(prompt: Prompt, text: str) -> str:
    """Return the text, wrapped as `reply` in the structure that the prompt asks for, if any."""
    rest = {"code": "files", "compare": "options"}.get(prompt.kind)
    return text if rest is None else json.dumps({"reply": text, rest: []})


def _filler(count: int, *, structured: bool) -> list[str]:
    words = [f"word{n % 100:02d} " for n in range(count)]
    if not structured or count < 4:
        return words
    reply = max(1, count // 4)
    head, middle = '{"reply": "', '", "files": [{"path": "filler.txt", "content": "'
    tail = '", "language": "text"}]}'
    return [head + words[0], *words[1:reply], middle + words[reply], *words[reply + 1 : -1], words[-1] + tail]


def _chunk(delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": NAME,
        "choices": [choice],
    }


def _whole(text: str, script: Script, usage: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": script.finish}
    counts = {} if script.no_usage else {"usage": dict(usage)}
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": 0,
        "model": NAME,
        "choices": [choice],
        **counts,
    }


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _error(status: int, message: str, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    error = {"message": message, "type": "demo_error", "code": str(status)}
    return web.json_response({"error": error}, status=status, headers=headers)
