"""A proxy between a worker and Supabase that cuts: REST calls by name, Realtime by connection, topic and event.

REST calls and the WebSocket of Realtime share one port, as at a real project. Nothing is on unless a test says so;
`calm` ends every fault. What a fault did to a connection stays with it: one that was swallowed is swallowed for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from tests.faults.wire import reset

GATEWAY_PAGE = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>cloud</body></html>"
HEARTBEAT_TOPIC = "phoenix"
_NOT_PASSED_ON = frozenset(
    ("host", "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer")
)
Frame = dict[str, Any]


@dataclass(slots=True)
class Rest:
    """Faults of REST calls. `only` limits them to calls of that name (the last part of the path)."""

    status: int | None = None  # answered with this, and a gateway's page
    hangs: bool = False  # never answered
    resets: bool = False  # cut before the server hears of it
    largest: int | None = None  # a longer body, in bytes, is answered with 413
    only: str | None = None
    # by name: how many answers are thrown away after the server has done the work (a claim that found none did none)
    lose: Counter[str] = field(default_factory=Counter)

    def hits(self, name: str) -> bool:
        return self.only in (None, name)


@dataclass(slots=True)
class Realtime:
    """Faults of Realtime connections, old and new, while they are on."""

    status: int | None = None  # every handshake is answered with this
    resets: bool = False  # every handshake is reset
    hangs: bool = False  # no handshake is answered
    swallows_new: bool = False  # a new connection is opened, then nothing gets through
    deaf: bool = False  # nothing but pings is answered: the server's process is there, its application is not
    drops_heartbeats: bool = False
    denies: str | None = None  # joins of topics that begin so are refused
    # frames from the server that get lost: returns True for those
    loses: Callable[[Frame], bool] | None = None


class Gate:
    """Open or shut; whoever passes waits while it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        await self._open.wait()


class Socket:
    """One Realtime connection through the proxy."""

    def __init__(self, near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse, request: web.Request) -> None:
        self.near, self.far = near, far
        self.topics: dict[str, str | None] = {}  # joined, with the join's ref
        self.up, self.down = Gate(), Gate()
        self._request = request

    def swallow(self, way: Literal["up", "down", "both"] = "both") -> None:
        """Let nothing through any more, pings included."""
        if way != "down":
            self.up.shut()
        if way != "up":
            self.down.shut()

    def reset(self) -> None:
        """Cut it with RST."""
        reset(self._request.transport)

    async def close(self, code: int) -> None:
        """Close it properly, as the server would with this code."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                await self.near.close(code=code)

    async def say(self, topic: str, event: str, payload: Frame, ref: str | None = None) -> None:
        """Send the client what the server did not say."""
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        with contextlib.suppress(ConnectionError):
            await self.near.send_str(json.dumps(frame))


class Proxy:
    """The proxy, as an async context manager. `url` takes the place of SUPABASE_URL."""

    def __init__(self, target: str) -> None:
        self.rest = Rest()
        self.realtime = Realtime()
        self.sockets: set[Socket] = set()
        self.calls: Counter[str] = Counter()  # REST calls that came, by name
        self.lost: Counter[str] = Counter()  # answers thrown away, by name
        self.handshakes = 0
        self.port = 0
        self._target = target.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/realtime/v1/websocket", self._websocket)
        app.router.add_route("*", "/{tail:.*}", self._call)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        self._site: web.TCPSite | None = None
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        # No connection to the server is kept, so that one the server closed is never mistaken for a fault.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60)
        )
        await self._runner.setup()
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._runner.cleanup()
        assert self._session is not None
        await self._session.close()

    async def listen(self) -> None:
        """Take connections (again, on the same port)."""
        if self._site is None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
            await self._site.start()
            self.port = self._runner.addresses[0][1]

    async def refuse(self) -> None:
        """Refuse new connections: nobody listens. Those that are there stay."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def calm(self) -> None:
        """End every fault."""
        self.rest, self.realtime = Rest(), Realtime()
        await self.listen()

    # -- REST

    async def _call(self, request: web.Request) -> web.StreamResponse:
        with self._owned():
            name = request.path.rpartition("/")[2]
            self.calls[name] += 1
            rest = self.rest
            if rest.hits(name):
                if rest.hangs:
                    await asyncio.Event().wait()  # until the client leaves, or the proxy stops
                if rest.resets:
                    return self._cut(request)
                too_large = rest.largest is not None and len(await request.read()) > rest.largest
                if (status := 413 if too_large else rest.status) is not None:
                    page = GATEWAY_PAGE.format(status)
                    return web.Response(status=status, text=page, content_type="text/html")
            body = await request.read()
            status, headers, answer = await self._ask(request, body)
            if self.rest.lose[name] > 0 and not (name == "bridge_claim" and json.loads(answer).get("jobs") == []):
                self.rest.lose[name] -= 1
                self.lost[name] += 1
                return self._cut(request)
            return web.Response(status=status, headers=headers, body=answer)

    async def _ask(self, request: web.Request, body: bytes) -> tuple[int, CIMultiDict[str], bytes]:
        assert self._session is not None
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON)
        url = URL(self._target + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False
            ) as answer:
                own = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in _NOT_PASSED_ON)
                return answer.status, own, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return 502, CIMultiDict({"Content-Type": "text/html"}), GATEWAY_PAGE.format(502).encode()

    def _cut(self, request: web.Request) -> web.Response:
        reset(request.transport)
        return web.Response(status=499)  # nobody reads it

    @contextlib.contextmanager
    def _owned(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            yield
        finally:
            self._running.discard(task)

    # -- Realtime

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        with self._owned():
            self.handshakes += 1
            faults = self.realtime
            if faults.hangs:
                await asyncio.Event().wait()
            if faults.resets:
                return self._cut(request)
            if faults.status is not None:
                return web.Response(status=faults.status, text=GATEWAY_PAGE.format(faults.status))
            assert self._session is not None
            try:
                far = await self._session.ws_connect(
                    URL(self._target + request.raw_path, encoded=True), autoping=False, max_msg_size=0
                )
            except (aiohttp.ClientError, TimeoutError):
                return web.Response(status=502, text=GATEWAY_PAGE.format(502))
            near = web.WebSocketResponse(autoping=False, timeout=0.5, max_msg_size=0)
            await near.prepare(request)
            socket = Socket(near, far, request)
            if self.realtime.swallows_new:
                socket.swallow()
            self.sockets.add(socket)
            pumps = [asyncio.create_task(self._up(socket)), asyncio.create_task(self._down(socket))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.sockets.discard(socket)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(1):
                        await far.close()
            return near

    async def _up(self, socket: Socket) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await socket.up.passed()
                message = await socket.near.receive()
                if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                    return
                await socket.up.passed()
                if message.type is WSMsgType.PING:
                    await socket.near.pong(message.data)  # the server's end of TCP is alive
                elif message.type is WSMsgType.TEXT and not self.realtime.deaf:
                    frame = json.loads(message.data)
                    if not await self._is_refused(socket, frame):
                        await socket.far.send_str(message.data)
                elif message.type is WSMsgType.BINARY and not self.realtime.deaf:
                    await socket.far.send_bytes(message.data)

    async def _is_refused(self, socket: Socket, frame: Frame) -> bool:
        faults, topic, event = self.realtime, frame["topic"], frame["event"]
        if topic == HEARTBEAT_TOPIC:
            return faults.drops_heartbeats
        if event == "phx_join":
            if faults.denies is not None and topic.startswith(f"realtime:{faults.denies}"):
                reason = "Unauthorized: You do not have permissions to read from this Channel topic: "
                answer = {"status": "error", "response": {"reason": reason + topic.removeprefix("realtime:")}}
                await socket.say(topic, "phx_reply", answer, frame["ref"])
                return True
            socket.topics[topic] = frame["ref"]
        elif event == "phx_leave":
            socket.topics.pop(topic, None)
        return False

    async def _down(self, socket: Socket) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await socket.down.passed()
                message = await socket.far.receive()
                await socket.down.passed()
                if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                    await socket.close(message.data if message.type is WSMsgType.CLOSE else 1006)
                    return
                if message.type is WSMsgType.PING:
                    await socket.far.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    loses = self.realtime.loses
                    if not self.realtime.deaf and (loses is None or not loses(json.loads(message.data))):
                        await socket.near.send_str(message.data)
                elif message.type is WSMsgType.BINARY and not self.realtime.deaf:
                    await socket.near.send_bytes(message.data)

    # -- what tests do to the connections that are there

    def of(self, topic: str) -> list[Socket]:
        """The connections on which a topic that begins so is joined; all of them for an empty one."""
        return [s for s in self.sockets if not topic or any(t.startswith(f"realtime:{topic}") for t in s.topics)]

    async def close_sockets(self, code: int, topic: str = "") -> None:
        await asyncio.gather(*(socket.close(code) for socket in self.of(topic)))

    def reset_sockets(self, topic: str = "") -> None:
        for socket in self.of(topic):
            socket.reset()

    def swallow_sockets(self, topic: str = "", way: Literal["up", "down", "both"] = "both") -> None:
        for socket in self.of(topic):
            socket.swallow(way)

    async def end_topics(self, topic: str, event: Literal["phx_close", "phx_error", "system", "expiry"]) -> None:
        """End the channels whose topic begins so, as the server does: closed, crashed, in error, token expired."""
        for socket in self.of(topic):
            for name, ref in tuple(socket.topics.items()):
                if not name.startswith(f"realtime:{topic}"):
                    continue
                if event in ("system", "expiry"):
                    extension = "postgres_changes" if event == "system" else "system"
                    text = (
                        "Subscribing to PostgreSQL failed" if event == "system" else "Token has expired 0 seconds ago"
                    )
                    channel = name.removeprefix("realtime:")
                    payload = {"status": "error", "extension": extension, "message": text, "channel": channel}
                    await socket.say(name, "system", payload)
                if event != "system":
                    await socket.say(name, "phx_error" if event == "phx_error" else "phx_close", {}, ref)
