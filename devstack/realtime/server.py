"""The Realtime server: wires up the services and serves the routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from devstack.pool import Pool
from devstack.realtime.access import AccessUnavailable, Authorization, Credential, TokenRefused, Tokens
from devstack.realtime.broadcast import MESSAGES_PUBLICATION, TOPIC_PREFIX, Topics, make_publication
from devstack.realtime.changes import Changes
from devstack.realtime.limits import NO_LIMITS, Clock, Limits, Rate
from devstack.realtime.partitions import keep_partitions, make_partitions
from devstack.realtime.presence import Presence
from devstack.realtime.protocol import (
    MAX_PAYLOAD_BYTES,
    Fanout,
    MalformedFrame,
    UserBroadcast,
    Vsn,
    dump,
    event_fanout,
    load,
    user_broadcast_fanout,
)
from devstack.realtime.services import Services
from devstack.realtime.socket import Socket
from devstack.realtime.wal import ReplicationStream

logger = logging.getLogger(__name__)

SCHEMA_SQL = Path(__file__).with_name("schema.sql").read_text()
STOP_SECONDS = 3.0
MAX_BODY_BYTES = 16 * 1024 * 1024


class Realtime:
    """Supabase Realtime for one database.

    `dsn` is a libpq URL for the superuser. `api_keys` maps opaque keys to roles; JWTs signed with `jwt_secret` are
    accepted as keys too. `polling_delay` is (busy, idle), the seconds between rounds of postgres_changes, with the
    hosted server's polling interval as the default; (0, 0) delivers changes immediately. `denied_delay` (seconds) is
    the back-off before a rejected join gets its reply; the hosted server's other back-offs are scaled with it. A client
    that sends nothing for `idle_seconds` is disconnected. `clock` returns the seconds that rates are measured with.
    """

    def __init__(
        self,
        *,
        dsn: str,
        jwt_secret: str,
        api_keys: Mapping[str, str],
        polling_delay: tuple[float, float] = (0.1, 0.5),
        denied_delay: float = 5.0,
        idle_seconds: float = 65.0,
        limits: Limits = NO_LIMITS,
        clock: Clock = time.monotonic,
    ) -> None:
        pool = Pool(dsn)
        topics = Topics(Rate(limits.events_per_second, clock), Rate(limits.presence_per_second, clock))
        self._services = Services(
            tokens=Tokens(jwt_secret, api_keys),
            authorization=Authorization(pool),
            topics=topics,
            presence=Presence(topics),
            changes=Changes(pool, dsn, polling_delay),
            messages=ReplicationStream(dsn, MESSAGES_PUBLICATION, on_change=topics.send_inserted),
            pool=pool,
            joins=Rate(limits.joins_per_second, clock),
            limits=limits,
            clients=set(),
            denied_delay=denied_delay,
            idle_seconds=idle_seconds,
        )
        self._sockets: set[Socket] = set()
        self._running = False
        self._partitions: asyncio.Task[None] | None = None
        self._failure = ""
        self._failed = asyncio.Event()

    @property
    def events(self) -> int:
        """Events so far, as the hosted service counts them for its quota: sends, deliveries and database events."""
        return self._services.topics.events.total()

    @property
    def events_by_topic(self) -> Mapping[str, int]:
        """The same, by the topic without its last part (`session` for `session:<id>`), and of `postgres_changes`."""
        return self._services.topics.events

    @property
    def private_only(self) -> bool:
        """Whether joins of public channels are refused, as after "Allow public access" is turned off."""
        return self._services.private_only

    @private_only.setter
    def private_only(self, value: bool) -> None:
        self._services.private_only = value

    async def start(self) -> None:
        """Connect to Postgres and start serving, for the first time or after `stop`; return once changes are streamed.

        As on the hosted service, clients are served before that: Postgres creates a replication slot only when all open
        write transactions have ended, and what is sent until then is lost. Raises psycopg.Error, ReplicationLost or
        OSError (including TimeoutError).
        """
        services = self._services
        services.pool.open()
        try:
            await services.pool.run(make_partitions)
            await services.pool.run(make_publication)
            self._running = True
            await services.messages.start()
            await services.changes.start()
        except BaseException:
            await self.stop()
            raise
        self._partitions = asyncio.create_task(keep_partitions(services.pool), name="partitions")
        for task in (self._partitions, services.messages.task, *services.changes.tasks):
            if task is not None:
                task.add_done_callback(self._task_ended)

    async def ended(self) -> str:
        """Wait until a background task fails; return which one and why, in one line."""
        await self._failed.wait()
        return self._failure

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = f"Realtime exited unexpectedly: {task.get_name()}: {task.exception()!r}"
            self._failed.set()

    async def stop(self) -> None:
        """Close all sockets (code 1012) and stop all background work, within 5 s."""
        self._running = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(socket.close(1012) for socket in self._sockets))
        if self._partitions is not None:
            self._partitions.cancel()
            await asyncio.wait({self._partitions})
            self._partitions = None
        await self._services.changes.stop()
        await self._services.messages.stop()
        await self._services.pool.close()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, with the paths of the hosted service."""
        return [
            web.get("/realtime/v1/websocket", self._serve),
            web.get("/realtime/v1/api/ping", self._ping),
            web.post("/realtime/v1/api/broadcast", self._post_batch),
            web.post("/realtime/v1/api/broadcast/{topic}/events/{event}", self._post_one),
            web.route("*", "/realtime/v1/{tail:.*}", self._unknown),
        ]

    # -- WebSocket

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self._running:
            return web.Response(status=503)
        headers = request.headers
        key = request.query.get("apikey") or headers.get("x-api-key") or headers.get("apikey")
        try:
            if not key:
                raise TokenRefused("Unauthorized", "API key is missing")
            credential = self._services.tokens.verify(key)
        except TokenRefused as error:
            await asyncio.sleep(self._services.denied_delay * 0.4)  # 2 s on the hosted server
            text = "Token has expired" if error.text.startswith("Token has expired") else error.text
            return _json({"error": text}, 401)
        vsn = Vsn.parse(request.query.get("vsn"))
        if vsn is None:
            return web.Response(status=403)
        socket = Socket(self._services, vsn, credential, _policy_headers(request))
        self._sockets.add(socket)
        try:
            return await socket.serve(request)
        finally:
            self._sockets.discard(socket)

    # -- HTTP

    async def _ping(self, request: web.Request) -> web.Response:
        return _json({"message": "Success"})

    async def _unknown(self, request: web.Request) -> web.Response:
        return web.Response(status=404, text="Not Found", content_type="text/html")

    async def _post_batch(self, request: web.Request) -> web.Response:
        credential = self._authorized(request)
        if credential is None:
            return _json({"message": "Unauthorized"}, 401)
        try:
            body = load(await _body(request))
        except MalformedFrame:
            return web.Response(status=400, text="Bad Request", content_type="text/html")
        messages = body.get("messages") if isinstance(body, dict) else None
        if messages is None or messages == []:
            return _json({"errors": {"messages": ["can't be blank"]}}, 422)
        if not isinstance(messages, list):
            return _json({"errors": {"messages": ["is invalid"]}}, 422)
        errors = [_errors(message) for message in messages]
        if any(errors):
            return _json({"errors": {"messages": errors}}, 422)
        if (refused := self._too_many(len(messages))) is not None:
            return refused
        public = [message for message in messages if not _is_private(message)]
        private: dict[str, list[dict[str, Any]]] = {}
        for message in messages:
            if _is_private(message):
                private.setdefault(message["topic"], []).append(message)
        for message in public:
            self._services.topics.send(message["topic"], False, _batched(message))
        for topic, group in private.items():
            if await self._may_write(topic, credential, request):
                for message in group:
                    self._services.topics.send(topic, True, _batched(message))
        return web.Response(status=202)

    async def _post_one(self, request: web.Request) -> web.Response:
        credential = self._authorized(request)
        if credential is None:
            return _json({"message": "Unauthorized"}, 401)
        topic, event = request.match_info["topic"], request.match_info["event"]
        private = request.query.get("private", "").lower() == "true"
        body = await _body(request)
        is_json = request.content_type == "application/json"
        if is_json:
            try:
                body = dump(load(body)).encode()
            except MalformedFrame:
                return web.Response(status=400, text="Bad Request", content_type="text/html")
        elif request.content_type != "application/octet-stream":
            return _json({"message": "Unsupported Media Type"}, 415)
        if len(body) > MAX_PAYLOAD_BYTES:
            return _json({"errors": {"payload": ["Payload size exceeds tenant limit"]}}, 422)
        if (refused := self._too_many()) is not None:
            return refused
        if not private or await self._may_write(topic, credential, request):
            fanout = user_broadcast_fanout(TOPIC_PREFIX + topic, UserBroadcast(event, body, is_json), None)
            self._services.topics.send(topic, private, fanout)
        return web.Response(status=202)

    def _too_many(self, messages: int = 0) -> web.Response | None:
        """Return an error response if the rate limit would be exceeded. `messages` is the size of a batch."""
        limit, rate = self._services.limits.events_per_second, self._services.topics.rate
        if rate.is_exceeded():
            return _json({"message": "You have exceeded your rate limit"}, 429)
        if limit is not None and messages + rate.average > limit:
            return _json({"message": "Too many messages to broadcast, please reduce the batch size"}, 429)
        return None

    def _authorized(self, request: web.Request) -> Credential | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key = token if scheme.lower() == "bearer" else ""
        try:
            return self._services.tokens.verify(key or request.headers.get("apikey", ""))
        except TokenRefused:
            return None

    async def _may_write(self, topic: str, credential: Credential, request: web.Request) -> bool:
        try:
            return await self._services.authorization.write(topic, credential, _policy_headers(request), "broadcast")
        except AccessUnavailable as error:
            logger.warning("dropped a private broadcast: %s", error)
            return False


async def _body(request: web.Request) -> bytes:
    """Read the body regardless of the application's size limit. Raises web.HTTPRequestEntityTooLarge."""
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY_BYTES, actual_size=size)
        parts.append(part)
    return b"".join(parts)


def _policy_headers(request: web.Request) -> dict[str, str]:
    """Return the headers that policies may read in `request.headers`."""
    return {name.lower(): value for name, value in request.headers.items() if name.lower().startswith("x-")}


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, text=dump(value), content_type="application/json")


def _is_private(message: Mapping[str, Any]) -> bool:
    return str(message.get("private")).lower() in ("true", "1")


def _errors(message: Any) -> dict[str, list[str]]:
    if not isinstance(message, dict):
        return {"message": ["is invalid"]}
    errors: dict[str, list[str]] = {}
    for name, type_ in (("topic", str), ("event", str), ("payload", dict)):
        value = message.get(name)
        if value is None or value == "":
            errors[name] = ["can't be blank"]
        elif not isinstance(value, type_):
            errors[name] = ["is invalid"]
    if not errors and len(dump(message["payload"]).encode()) > MAX_PAYLOAD_BYTES:
        errors["payload"] = ["Payload size exceeds tenant limit"]
    return errors


def _batched(message: Mapping[str, Any]) -> Fanout:
    payload: dict[str, Any] = {"event": message["event"], "payload": message["payload"], "type": "broadcast"}
    if message.get("id"):
        payload["meta"] = {"id": message["id"]}
    return event_fanout(TOPIC_PREFIX + message["topic"], "broadcast", dump(payload))
