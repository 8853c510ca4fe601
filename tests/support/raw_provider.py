"""A provider that sends exactly what a test gives it, at any path: events, or an HTTP error."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Refusal:
    """An HTTP response instead of a stream."""

    status: int
    body: str = "{}"


@dataclass(frozen=True)
class Moved:
    """Another provider gives the answer."""

    url: str


@dataclass(frozen=True)
class Sent:
    """Events to send, perhaps without an end; those that begin with a colon are comments.

    `is_cut`: break the connection after them; `stays_open`: keep it open.

    `at_once`: send them and the end of the stream together. `frames` are those of Bedrock (`frame`).
    """

    events: Iterable[str] | AsyncIterable[str] = ()
    is_cut: bool = False
    stays_open: bool = False
    at_once: bool = False
    frames: Sequence[bytes] | None = None


def frame(name: str, payload: Mapping[str, Any], kind: str = "event") -> bytes:
    """Encode an event of Amazon's event streams: lengths and checksums around headers and JSON."""
    headers = b""
    values = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    for key, value in values.items():
        headers += bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    head = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    head += struct.pack(">I", zlib.crc32(head))
    return head + headers + body + struct.pack(">I", zlib.crc32(head + headers + body))


@dataclass
class RawProvider:
    """The answers still to give (the last one again and again), and the bodies of the requests so far.

    `answers_to` has those of requests with a certain text in them. If `choose` is set, it gives every answer.
    """

    url: str = ""
    answers: list[Sent | Refusal] = field(default_factory=list)
    answers_to: dict[str, list[Sent | Refusal]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    choose: Callable[[str], Sent | Refusal | Moved] | None = None
    open: int = 0  # connections on which an answer is being given

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        answer: Sent | Refusal | Moved
        if self.choose is not None:
            answer = self.choose(body)
        else:
            self.requests.append(body)
            answers = next((answers for text, answers in self.answers_to.items() if text in body), self.answers)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Moved):
            raise web.HTTPTemporaryRedirect(answer.url + request.path.removeprefix("/v1"))
        if isinstance(answer, Refusal):
            return web.Response(status=answer.status, text=answer.body, content_type="application/json")
        kind = "text/event-stream" if answer.frames is None else "application/vnd.amazon.eventstream"
        if answer.at_once:
            assert isinstance(answer.events, Iterable)
            written = "".join(map(_written, answer.events))
            return web.Response(body=written.encode("utf-8", "surrogatepass"), headers={"Content-Type": kind})
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        self.open += 1
        try:
            await self._send(answer, request, response)
        except ConnectionResetError:
            pass
        finally:
            self.open -= 1
        return response

    async def _send(self, answer: Sent, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(answer.events, Iterable):
            for number, event in enumerate(answer.events):
                await response.write(_written(event).encode("utf-8", "surrogatepass"))
                if number % 100 == 99:
                    await asyncio.sleep(0)  # `write` only waits when the client is slow
        else:
            async for event in answer.events:
                await response.write(_written(event).encode("utf-8", "surrogatepass"))
        for frame in answer.frames or ():
            await response.write(frame)
        if answer.is_cut and request.transport is not None:
            await asyncio.sleep(0.02)  # what was written has to leave first
            request.transport.abort()
        if answer.stays_open:
            await asyncio.Event().wait()  # until the client disconnects


def _written(event: str) -> str:
    return f"{event}\n\n" if event.startswith(":") else f"data: {event}\n\n"


@asynccontextmanager
async def raw_provider() -> AsyncIterator[RawProvider]:
    """Serve on a free port of 127.0.0.1."""
    provider = RawProvider()
    app = web.Application()
    app.router.add_post("/{path:.*}", provider.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield provider
    finally:
        await runner.cleanup()
