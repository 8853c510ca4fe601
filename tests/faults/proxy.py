"""A proxy between a worker and Supabase that breaks REST calls by name, and Realtime by connection, topic and event.

REST calls and Realtime's WebSocket share one port, as in a real project. All faults are off until a test turns them
on; `calm` turns them off. What a fault did to a connection is permanent: a swallowed one stays swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict
from yarl import URL

from tests.faults.tcp_proxy import reset

GATEWAY_PAGE = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>cloud</body></html>"
HEARTBEAT_TOPIC = "phoenix"
STORAGE_PATH = "/storage/v1/object/"
_HOP_BY_HOP = frozenset(
    ("host", "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer")
)
_CLOSED = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
Frame = dict[str, Any]
Direction = Literal["up", "down", "both"]


@dataclass(slots=True)
class Rest:
    """Faults of REST calls. `only` limits them to calls of that name, or to all of Storage with "storage"."""

    status: int | None = None  # respond with this status and a gateway's page
    says: Mapping[str, Any] | None = None  # … or this body
    hangs: bool = False  # never respond
    swallows: bool = False  # never respond, after the server has done the work
    resets: bool = False  # reset the connection before the call reaches the server
    largest: int | None = None  # respond with 413 to a longer body, in bytes
    only: str | None = None
    about: str = ""  # only calls with this in their body
    # by name: how many responses to drop after the server has done the work (an empty claim did none)
    lose: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Realtime:
    """Faults of Realtime connections, open and new, while they are on."""

    status: int | None = None  # respond to every handshake with this status
    resets: bool = False  # reset every handshake
    hangs: bool = False  # never respond to a handshake
    swallows_new: bool = False  # open new connections, and let nothing through
    deaf: bool = False  # respond to nothing but pings: the server's process lives, its application does not
    drops_heartbeats: bool = False
    denies: str | None = None  # refuse joins of topics with this prefix
    loses: Callable[[Frame], bool] | None = None  # drop the server's frames for which it returns True


class Socket:
    """One Realtime connection through the proxy. `up` and `down` are set while frames get through that way."""

    def __init__(self, near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse, request: web.Request) -> None:
        self.near, self.far = near, far
        self.topics: dict[str, str | None] = {}  # joined, each with its join's ref
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.up.set()
        self.down.set()
        self._request = request

    def swallow(self, way: Direction = "both") -> None:
        """Let nothing through any more, not even pings."""
        if way != "down":
            self.up.clear()
        if way != "up":
            self.down.clear()

    def reset(self) -> None:
        """Cut the connection with RST."""
        reset(self._request.transport)

    async def close(self, code: int) -> None:
        """Close the connection as the server would with this code."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                await self.near.close(code=code)

    async def forge(self, topic: str, event: str, payload: Frame, ref: str | None = None) -> None:
        """Send the client a frame in the server's name."""
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        with contextlib.suppress(ConnectionError):
            await self.near.send_str(json.dumps(frame))


class Proxy:
    """The proxy, as an async context manager. Use `url` in the place of SUPABASE_URL."""

    def __init__(self, target: str) -> None:
        self.rest = Rest()
        self.realtime = Realtime()
        self.sockets: set[Socket] = set()
        self.calls: Counter[str] = Counter()  # REST calls received, by name
        self.lost: Counter[str] = Counter()  # responses dropped, by name
        self.held: Counter[str] = Counter()  # REST calls that are never answered, by name
        self.handshakes = 0
        self.port = 0
        self._target = target.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._track])
        app.router.add_get("/realtime/v1/websocket", self._websocket)
        app.router.add_route("*", "/{tail:.*}", self._call)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        self._site: web.TCPSite | None = None
        self._requests: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        # Idle connections to the server are dropped before it closes them, which would look like a fault.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=5),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=60),
        )
        await self._runner.setup()
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in tuple(self._requests):
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        await self._runner.cleanup()
        assert self._session is not None
        await self._session.close()

    async def listen(self) -> None:
        """Accept connections, always on the same port."""
        if self._site is None:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
            await self._site.start()
            self.port = self._runner.addresses[0][1]

    async def refuse(self) -> None:
        """Refuse new connections. Open ones stay."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def calm(self) -> None:
        """Turn every fault off."""
        self.rest, self.realtime = Rest(), Realtime()
        await self.listen()

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            return await handler(request)
        finally:
            self._requests.discard(task)

    # -- REST

    async def _call(self, request: web.Request) -> web.StreamResponse:
        name = _name(request)
        self.calls[name] += 1
        rest = self.rest
        is_meant = rest.only in (None, name, name.partition(".")[0])
        if is_meant and rest.about:
            is_meant = rest.about in await request.text()
        if is_meant:
            if rest.hangs:
                self.held[name] += 1
                await asyncio.Event().wait()  # until the client leaves, or the proxy stops
            if rest.resets:
                return self._cut(request)
            too_large = rest.largest is not None and len(await request.read()) > rest.largest
            if (status := 413 if too_large else rest.status) is not None:
                if rest.says is not None:
                    return web.json_response(rest.says, status=status)
                return web.Response(status=status, text=GATEWAY_PAGE.format(status), content_type="text/html")
        status, headers, body = await self._forward(request)
        if is_meant and rest.swallows:
            self.held[name] += 1
            await asyncio.Event().wait()
        if self.rest.lose[name] > 0 and not (name == "bridge_claim" and json.loads(body).get("jobs") == []):
            self.rest.lose[name] -= 1
            self.lost[name] += 1
            return self._cut(request)
        return web.Response(status=status, headers=headers, body=body)

    async def _forward(self, request: web.Request) -> tuple[int, CIMultiDict[str], bytes]:
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                URL(self._target + request.raw_path, encoded=True),
                headers=_end_to_end(request.headers),
                data=await request.read() or None,
                allow_redirects=False,
            ) as response:
                return response.status, _end_to_end(response.headers), await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return 502, CIMultiDict({"Content-Type": "text/html"}), GATEWAY_PAGE.format(502).encode()

    def _cut(self, request: web.Request) -> web.Response:
        reset(request.transport)
        return web.Response(status=499)  # it reaches no client

    # -- Realtime

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
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
            url = URL(self._target + request.raw_path, encoded=True)
            far = await self._session.ws_connect(url, autoping=False, max_msg_size=0)
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502, text=GATEWAY_PAGE.format(502))
        near = web.WebSocketResponse(autoping=False, timeout=0.5, max_msg_size=0)
        await near.prepare(request)
        socket = Socket(near, far, request)
        if self.realtime.swallows_new:
            socket.swallow()
        self.sockets.add(socket)
        pumps = [asyncio.create_task(self._pump_up(socket)), asyncio.create_task(self._pump_down(socket))]
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

    async def _pump_up(self, socket: Socket) -> None:
        async def drops(frame: Frame) -> bool:
            return await self._is_refused(socket, frame)

        await self._pump(socket.near, socket.far, socket.up, drops)

    async def _pump_down(self, socket: Socket) -> None:
        async def drops(frame: Frame) -> bool:
            return self.realtime.loses is not None and self.realtime.loses(frame)

        if (closed := await self._pump(socket.far, socket.near, socket.down, drops)) is not None:
            await socket.close(closed.data if closed.type is WSMsgType.CLOSE else 1006)

    async def _pump(
        self,
        source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        is_open: asyncio.Event,
        drops: Callable[[Frame], Awaitable[bool]],
    ) -> aiohttp.WSMessage | None:
        """Pass frames on until `source` closes: then return its last message. None: `sink` is broken."""
        with contextlib.suppress(ConnectionError):
            while True:
                await is_open.wait()
                message = await source.receive()
                await is_open.wait()
                if message.type in _CLOSED:
                    return message
                if message.type is WSMsgType.PING:
                    await source.pong(message.data)  # TCP works, whatever the fault
                elif message.type is WSMsgType.TEXT and not self.realtime.deaf:
                    if not await drops(json.loads(message.data)):
                        await sink.send_str(message.data)
                elif message.type is WSMsgType.BINARY and not self.realtime.deaf:
                    await sink.send_bytes(message.data)
        return None

    async def _is_refused(self, socket: Socket, frame: Frame) -> bool:
        faults, topic, event = self.realtime, frame["topic"], frame["event"]
        if topic == HEARTBEAT_TOPIC:
            return faults.drops_heartbeats
        if event == "phx_join":
            if faults.denies is not None and topic.startswith(f"realtime:{faults.denies}"):
                reason = "Unauthorized: You do not have permissions to read from this Channel topic: "
                payload = {"status": "error", "response": {"reason": reason + topic.removeprefix("realtime:")}}
                await socket.forge(topic, "phx_reply", payload, frame["ref"])
                return True
            socket.topics[topic] = frame["ref"]
        elif event == "phx_leave":
            socket.topics.pop(topic, None)
        return False

    # -- faults of open connections

    def of(self, topic: str) -> list[Socket]:
        """The connections with a joined topic of this prefix; all of them if it is empty."""
        return [s for s in self.sockets if not topic or any(t.startswith(f"realtime:{topic}") for t in s.topics)]

    async def close_sockets(self, code: int, topic: str = "") -> None:
        await asyncio.gather(*(socket.close(code) for socket in self.of(topic)))

    async def reset_sockets(self) -> None:
        for socket in tuple(self.sockets):
            socket.reset()

    async def swallow_sockets(self, way: Direction = "both") -> None:
        for socket in self.sockets:
            socket.swallow(way)

    async def end_topics(self, topic: str, event: str) -> None:
        """End the channels with this prefix as the server does.

        `event` is phx_close, phx_error (it crashed), system (an error of postgres_changes) or expiry (of the token).
        """
        for socket in self.of(topic):
            for name, ref in tuple(socket.topics.items()):
                if not name.startswith(f"realtime:{topic}"):
                    continue
                payload = {"status": "error", "channel": name.removeprefix("realtime:")}
                match event:
                    case "system":
                        text = "Subscribing to PostgreSQL failed"
                        payload |= {"extension": "postgres_changes", "message": text}
                        await socket.forge(name, "system", payload)
                    case "expiry":
                        payload |= {"extension": "system", "message": "Token has expired 0 seconds ago"}
                        await socket.forge(name, "system", payload)
                        await socket.forge(name, "phx_close", {}, ref)
                    case _:
                        await socket.forge(name, event, {}, ref)


def _name(request: web.Request) -> str:
    """The last part of a path; of a call of Storage, "storage." and what it does."""
    path = request.path
    if not path.startswith(STORAGE_PATH):
        return path.rpartition("/")[2]
    first = path.removeprefix(STORAGE_PATH).partition("/")[0]
    match request.method, first:
        case "POST", "list" | "sign":
            return f"storage.{first}"
        case "GET", _:
            return "storage.fetch"
        case "DELETE", _:
            return "storage.remove"
    return "storage.upload"


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)
