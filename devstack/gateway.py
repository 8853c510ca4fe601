"""The HTTP gateway: one port with the paths of the hosted service.

`/rest/v1` and `/auth/v1` are proxied to Lite, which rejects requests without a valid `apikey`;
`/realtime/v1` and `/storage/v1` are served in this process. The gateway answers CORS for all of them.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict
from yarl import URL

from devstack import DevstackError, PortInUse

HOST = "127.0.0.1"
_PROXY_SECONDS = 120.0  # per request; the statement timeouts are far shorter
_MAX_BODY_BYTES = 64 * 1024 * 1024
_BUFFERED_BODY_BYTES = 256 * 1024  # smaller bodies are buffered, larger ones streamed

# Hop-by-hop headers (RFC 9110, section 7.6.1) and those that the HTTP library sets itself.
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
    )
)
_METHODS = "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT"
_EXPOSED = (
    "Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Preference-Applied, Range-Unit"
)


class Gateway:
    """The front server. `lite_port` returns the port of Lite, or None while Lite is down."""

    def __init__(self, *, port: int, lite_port: Callable[[], int | None]) -> None:
        self.port = port
        self._lite_port = lite_port
        self._routes: tuple[web.AbstractRouteDef, ...] = ()
        self._socket: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{HOST}:{self.port}"

    def reserve(self) -> None:
        """Bind the port before anything else starts. Port 0 becomes a free one.

        Raises `PortInUse` if another program has it.
        """
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, self.port))
        except OSError as error:
            self._socket.close()
            self._socket = None
            if error.errno != errno.EADDRINUSE:
                raise DevstackError(f"port {self.port} cannot be used: {error.strerror}") from error
            raise PortInUse(
                f"port {self.port} is in use: stop the program that uses it, or choose another port with --port "
                "(make dev ARGS='--port 0')"
            ) from error
        self.port = int(self._socket.getsockname()[1])

    async def start(self, routes: Iterable[web.AbstractRouteDef] | None = None) -> None:
        """Listen, serving `routes` as well; without `routes`, those of the last start."""
        if routes is not None:
            self._routes = tuple(routes)
        if self._socket is None:
            self.reserve()
        app = web.Application(middlewares=(_preflight,), client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(_allow_every_origin)
        app.add_routes(self._routes)
        for prefix in ("/rest/v1", "/auth/v1"):
            app.router.add_route("*", prefix + "{tail:(/.*)?}", self._proxy)
        app.router.add_route("*", "/{tail:.*}", _unknown)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=_PROXY_SECONDS, connect=5),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        assert self._socket is not None
        await web.SockSite(self._runner, self._socket).start()
        self._socket = None  # the server owns it now

    async def stop(self) -> None:
        """Close the port and every connection; a second call does nothing."""
        runner, self._runner = self._runner, None
        session, self._session = self._session, None
        reserved, self._socket = self._socket, None
        if reserved is not None:
            reserved.close()
        if runner is not None:
            await runner.cleanup()
        if session is not None:
            await session.close()

    async def _proxy(self, request: web.Request) -> web.StreamResponse:
        port = self._lite_port()
        if port is None or self._session is None:
            return _unavailable()
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
        )
        body: bytes | aiohttp.StreamReader | None = None
        if request.can_read_body:
            small = (request.content_length or _BUFFERED_BODY_BYTES) < _BUFFERED_BODY_BYTES
            body = await request.read() if small else request.content
        target = f"http://{HOST}:{port}{request.raw_path}"
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                URL(target, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as upstream:
                length = upstream.content_length
                own = CIMultiDict(
                    (name, value) for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP
                )
                if length is not None or request.method == "HEAD" or upstream.status in (204, 304):
                    return web.Response(status=upstream.status, headers=own, body=await upstream.read() or None)
                response = web.StreamResponse(status=upstream.status, headers=own)
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError):
            if response is not None:  # headers are sent: all we can do is cut the response short
                raise
            return _unavailable()


@web.middleware
async def _preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer CORS preflight requests."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        wanted = request.headers.get("Access-Control-Request-Headers", "*")
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": wanted,
                "Access-Control-Max-Age": "3600",
                "Vary": "Access-Control-Request-Headers",
            },
        )
    return await handler(request)


async def _allow_every_origin(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers.setdefault("Access-Control-Expose-Headers", _EXPOSED)


async def _unknown(_: web.Request) -> web.Response:
    return web.json_response({"message": "no Route matched with those values"}, status=404)


def _unavailable() -> web.Response:
    return web.json_response({"message": "REST and Auth are not running; try again in a moment"}, status=503)
