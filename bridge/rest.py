"""The project's REST API: calls of its functions on one kept session, and supabase-py's client for the rest.

A worker calls functions all the time. Through supabase-py 2.34.1 a call takes 1.2 ms of CPU, nearly all of it in httpx;
through aiohttp it takes 0.2 ms. So supabase-py makes the address and the headers of these calls, and not the calls. It
does what is rare: Auth, and what a user reads and writes (`bridge.account`).
"""

import asyncio
import base64
import importlib
import io
import logging
import random
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import aiohttp
import httpx
from postgrest.exceptions import APIError
from pydantic_core import from_json, to_json
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from bridge.errors import StoreError, StoreRefused, StoreUnavailable
from bridge.settings import Settings
from bridge.surroundings import proxy_for

log = logging.getLogger(__name__)

# The functions end themselves after 6 s (statement_timeout): after this, no answer will come.
CALL_SECONDS = 9.0
CONNECT_SECONDS = 5.0
KEPT_SECONDS = 60.0  # how long an idle connection is kept
MOST_CONNECTIONS = 16
TRIES = 3
HEADER_BYTES = 65_536  # of one header of an answer: proxies add long ones

# SQLSTATE classes of errors that pass: connection, unsupported (poolers), read-only, rollback, resources, operator,
# system.
_TRANSIENT_SQLSTATE = re.compile(r"(?:08|0A|25|40|53|55|57|58|XX)[0-9A-Z]{3}")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_LOST: tuple[type[Exception], ...] = (StoreUnavailable, OSError, httpx.HTTPError, aiohttp.ClientError)
_TRANSIENT_STATUS = frozenset({408, 425, 429, *range(500, 600)})
# The HTTP status of the current request: APIError has none (supabase 2.34.1), and the body of a gateway has no code.
_status: ContextVar[int] = ContextVar("status", default=0)

Answer = TypeVar("Answer")


class Rpc:
    """Calls of the project's functions. Create it on the event loop, and `close` it."""

    def __init__(self, client: AsyncClient) -> None:
        connector, through, self._lost = _route(str(client.rest_url))
        self._url = client.rest_url / "rpc"
        # not those of the session, which aiohttp 3.14 sends to a proxy too: with the key, before the tunnel is secret
        headers = {**client.postgrest.headers, "content-type": "application/json", **through.pop("headers", {})}
        self._options: dict[str, Any] = {"headers": headers, "allow_redirects": False, **through}
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # `call` limits the whole
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(self, function: str, arguments: dict[str, Any], seconds: float = CALL_SECONDS) -> Any:
        """Call a function that can be called again, up to TRIES times, and return its answer. Raises StoreError."""
        # pydantic's JSON is exact where orjson's is not: integers beyond 64 bits, which a user's data may have
        post = partial(self._post, function, to_json(arguments))
        answer = await repeated(function, post, seconds, self._lost)
        try:
            return from_json(answer) if answer else None
        except ValueError as error:
            raise unexpected(function) from error

    async def _post(self, function: str, body: bytes) -> bytes:
        content = io.BytesIO(body)  # of bytes, aiohttp warns if there are many
        async with self._session.post(self._url / function, data=content, **self._options) as response:
            answer = await response.read()
        if 200 <= response.status < 300:
            return answer
        code, message = _read_error(answer)
        raise refusal(function, code, message or response.reason, response.status)


async def connect(settings: Settings) -> tuple[AsyncClient, httpx.AsyncClient]:
    """A client of the project with the secret key, and its connections, to be closed. Nothing is sent yet."""
    # HTTP/1.1: multiplexing costs more CPU than it saves with a handful of calls a second
    timeout = httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
    http = httpx.AsyncClient(
        timeout=timeout,
        limits=limits,
        event_hooks={"response": [_note_status]},
        verify=httpx.create_ssl_context(),
        proxy=proxy_for(settings.supabase_url),
        trust_env=False,  # it would read NO_PROXY in a way of its own
    )
    options = AsyncClientOptions(
        httpx_client=http, auto_refresh_token=False, persist_session=False, postgrest_client_retry=False
    )
    return await acreate_client(settings.supabase_url, settings.supabase_key, options), http


async def send(name: str, request: Any) -> Any:
    """Send a request of supabase-py that can be repeated, up to TRIES times, and return the data. Raises StoreError."""

    async def execute() -> Any:
        try:
            return (await request.execute()).data
        except APIError as error:
            raise refusal(name, error.code, error.message, _status.get()) from error

    return await repeated(name, execute)


def unexpected(name: str) -> StoreUnavailable:
    """The failure of a call whose answer is not the function's. A gateway may answer anything with HTTP 200."""
    return StoreUnavailable(f"{name}: unexpected response (a proxy's error page?)")


def unreachable(name: str, error: Exception) -> StoreUnavailable:
    """The failure of a call that had no answer."""
    return StoreUnavailable(f"{name}: {type(error).__name__} {error}".rstrip())


async def repeated(
    name: str,
    attempt: Callable[[], Awaitable[Answer]],
    seconds: float = CALL_SECONDS,
    lost: tuple[type[Exception], ...] = _LOST,
) -> Answer:
    """Make a call that can be repeated, up to TRIES times, each within so many seconds. Raises StoreError."""
    for number in range(1, TRIES + 1):
        try:
            async with asyncio.timeout(seconds):
                return await attempt()
        except lost as error:
            failure = error if isinstance(error, StoreUnavailable) else unreachable(name, error)
            if number == TRIES and failure is error:
                raise
            if number == TRIES:
                raise failure from error
            log.debug("%s; retrying", failure)
        await asyncio.sleep(random.uniform(0.5, 1) * 0.1 * 2**number)
    raise AssertionError("unreachable")


def _route(url: str) -> tuple[aiohttp.BaseConnector, dict[str, Any], tuple[type[Exception], ...]]:
    """The connections to a URL; what each request says of the proxy; and the errors that say that there is no way."""
    options: dict[str, Any] = {
        "ssl": httpx.create_ssl_context(),  # as for supabase-py: SSL_CERT_FILE, or the authorities of certifi
        "limit": MOST_CONNECTIONS,
        "keepalive_timeout": KEPT_SECONDS,
    }
    proxy = proxy_for(url)
    if proxy is None:
        return aiohttp.TCPConnector(**options), {}, _LOST
    if proxy.startswith("socks"):
        socks: Any = importlib.import_module("aiohttp_socks")  # `bridge.surroundings` has looked for it
        scheme, _, address = proxy.partition("://")
        connector = socks.ProxyConnector.from_url(f"{scheme.rstrip('ah')}://{address}", rdns=True, **options)
        return connector, {}, (*_LOST, socks.ProxyError)
    parsed = httpx.Proxy(proxy)
    through: dict[str, Any] = {"proxy": str(parsed.url)}
    if parsed.raw_auth is not None:  # aiohttp would send it in latin-1
        credentials = base64.b64encode(b":".join(parsed.raw_auth)).decode()
        which = "proxy_headers" if url.startswith("https:") else "headers"  # of a tunnel, or of the request itself
        through[which] = {"proxy-authorization": f"Basic {credentials}"}
    return aiohttp.TCPConnector(**options), through, _LOST


async def _note_status(response: httpx.Response) -> None:
    _status.set(response.status_code)


def _read_error(body: bytes) -> tuple[str | None, str | None]:
    """The code and the message in the body of an error; None where it has none."""
    try:
        error = from_json(body)
    except ValueError:
        return None, None
    code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
    return code if isinstance(code, str) else None, message if isinstance(message, str) else None


def refusal(name: str, code: str | None, message: str | None, status: int) -> StoreError:
    """The failure of a call that was answered with an error: whether it passes depends on its code, or the status."""
    text = f"{name}: {message or 'no message'} ({code or 'no code'}, HTTP {status})"
    if code and _SQLSTATE.fullmatch(code) and not code.startswith("PGRST"):
        is_transient = _TRANSIENT_SQLSTATE.fullmatch(code) is not None
    else:
        is_transient = status in _TRANSIENT_STATUS
    return (StoreUnavailable if is_transient else StoreRefused)(text, code=code or str(status))
