"""A channel: one topic joined on one socket. Behaviour and texts as recorded from Realtime v2.129.8."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from devstack.realtime.access import (
    AccessUnavailable,
    Authorization,
    Credential,
    Permission,
    TokenRefused,
    Tokens,
    check_expiry,
)
from devstack.realtime.binding import BindingRefused, binding_id, parse
from devstack.realtime.broadcast import TOPIC_PREFIX, Stored, Topics, stored
from devstack.realtime.changes import Changes
from devstack.realtime.joining import JoinConfig, JoinRefused, parse_join
from devstack.realtime.limits import Limits, Rate, Window
from devstack.realtime.pool import Pool
from devstack.realtime.presence import Presence
from devstack.realtime.protocol import (
    MAX_PAYLOAD_BYTES,
    Fanout,
    Message,
    Ref,
    UserBroadcast,
    Vsn,
    dump,
    event_fanout,
    push,
    raw_broadcast_fanout,
    reply,
    user_broadcast_fanout,
)
from devstack.realtime.wal import ReplicationStream

CONFIRM_SECONDS = 300.0
READY_SECONDS = 15.0
REPLICATION_READY = "Replication connection established"
PRESENCE_CALLS, PRESENCE_SECONDS = 5, 30.0


@dataclass(frozen=True, slots=True)
class Services:
    """What channels work with. `denied_delay` and `idle_seconds` (seconds) are explained at `Realtime`."""

    tokens: Tokens
    authorization: Authorization
    topics: Topics
    presence: Presence
    changes: Changes
    messages: ReplicationStream
    pool: Pool
    joins: Rate
    limits: Limits
    clients: set[Sink]
    denied_delay: float
    idle_seconds: float


class Sink(Protocol):
    """What a channel knows of its socket."""

    vsn: Vsn
    credential: Credential
    headers: Mapping[str, str]

    def send(self, frame: bytes) -> None:
        """Send one WebSocket frame."""

    def forget(self, channel: Channel) -> None:
        """The channel has ended itself."""


class Channel:
    """One topic joined on one socket."""

    def __init__(self, socket: Sink, services: Services, topic: str, join_ref: Ref) -> None:
        self.topic = topic
        self.join_ref = join_ref
        self.name = topic.removeprefix(TOPIC_PREFIX)
        self.private = False
        self.presence_key = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self._subscribing: asyncio.Task[None] | None = None
        self._socket = socket
        self._services = services
        self._config: JoinConfig
        self._credential = socket.credential
        self._timer: asyncio.TimerHandle | None = None
        self._readable = Permission(broadcast=True, presence=True)
        self._writable: dict[str, bool] = {}
        self._presence_calls = Window(PRESENCE_CALLS, PRESENCE_SECONDS)
        self._replayed: list[Stored] = []
        self._open = False
        self._handling = False
        self._exceeded = False
        self._presence_enabled = False

    async def join(self, payload: Any) -> dict[str, Any]:
        """Check and begin the channel; return what the join is answered with. Raises JoinRefused."""
        if not self.name:
            raise JoinRefused("TopicNameRequired: You must provide a topic name")
        self._config = config = parse_join(self.name, payload)
        self.private = config.private
        self.presence_key = config.presence_key
        self._presence_enabled = config.presence_enabled
        try:
            if config.token is None or config.token.startswith("sb_"):
                check_expiry(self._socket.credential)
            else:
                self._credential = self._services.tokens.verify(config.token)
            self._readable = await self._may_read(self._credential)
        except TokenRefused as error:
            raise JoinRefused(f"{error.code}: {error.text}") from error
        except AccessUnavailable as error:
            raise JoinRefused(f"UnableToConnectToProject: {error}") from error
        if not (self._readable.broadcast or self._readable.presence):
            raise JoinRefused(f"Unauthorized: {self._unreadable}")
        if config.replay is not None:
            self._replayed = await self._fetch_replayed(config.replay)
        self._open = True
        self._services.topics.join(self)
        self._arm()
        if config.bindings:
            self._subscribing = self._start(self._subscribe(0.0, self._services.changes.expect()))
        return config.response()

    def joined(self) -> None:
        """Send what follows the answer to the join."""
        for message in self._replayed:
            if (frame := message.frame(self._socket.vsn, self.topic, self.join_ref)) is not None:
                self._socket.send(frame)
        self._replayed = []
        if self._config.replication_ready:
            if self._services.messages.live.is_set():
                self._system("system", "ok", REPLICATION_READY)
            else:
                self._start(self._say_ready())
        if self._config.presence_enabled and self._readable.presence:
            self._push("presence_state", dump(self._services.presence.state(self)))

    def close(self) -> None:
        """End the channel without telling the client."""
        if not self._open:
            return
        self._open = False
        self._services.topics.leave(self)
        self._services.presence.untrack(self)
        self._services.changes.unsubscribe(self)
        if self._timer is not None:
            self._timer.cancel()
        for task in self.tasks:
            task.cancel()

    async def handle(self, message: Message) -> None:
        """Handle a message of the client on this channel; an unknown one is ignored."""
        self._handling = True
        match message.event:
            case "broadcast":
                await self._broadcast(message)
            case "presence":
                await self._presence(message)
            case "access_token" if isinstance(message.payload, Mapping):
                await self._renew(message.payload.get("access_token"))
        self._handling = False
        if self._exceeded:
            self.exceed()

    def deliver_broadcast(self, message: Fanout) -> None:
        """Send a broadcast to the client."""
        if self._readable.broadcast and (frame := message.frame(self._socket.vsn)) is not None:
            self._socket.send(frame)

    def deliver_presence(self, message: Fanout) -> None:
        """Send a presence message to the client."""
        if self._readable.presence and (frame := message.frame(self._socket.vsn)) is not None:
            self._socket.send(frame)

    def exceed(self) -> None:
        """End, because the project sent and got more than it may; what is being handled is answered first."""
        self._exceeded = True
        if self._open and not self._handling:
            self._shut_down("Too many messages per second")

    def deliver_change(self, action: str, data: str, ids: Sequence[int]) -> None:
        """Send a row change to the client."""
        if self._config.whole:
            event, payload = "postgres_changes", f'{{"data":{data},"ids":{dump(list(ids))}}}'
        else:
            event, payload = action, data
        self._services.topics.events += 1
        self._socket.send(push(self._socket.vsn, self.topic, event, payload))

    # -- tokens

    async def _may_read(self, credential: Credential) -> Permission:
        if not self.private:
            return Permission(broadcast=True, presence=True)
        return await self._services.authorization.read(
            self.name, credential, self._socket.headers, presence=self._config.presence_enabled
        )

    @property
    def _unreadable(self) -> str:
        return f"You do not have permissions to read from this Channel topic: {self.name}"

    async def _renew(self, token: Any) -> None:
        if not isinstance(token, str) or token.startswith("sb_") or token == self._credential.token:
            return None
        try:
            credential = self._services.tokens.verify(token)
            readable = await self._may_read(credential)
        except TokenRefused as error:
            return self._shut_down(error.pushed)
        except AccessUnavailable as error:
            return self._shut_down(str(error))
        if not (readable.broadcast or readable.presence):
            return self._shut_down(self._unreadable)
        if self._readable.broadcast and not readable.broadcast:
            return self._shut_down(f"You no longer have permission to read from this Channel topic: {self.name}")
        self._credential, self._readable, self._writable = credential, readable, {}
        self._arm()
        if self._config.bindings:
            if self._subscribing is not None:
                self._subscribing.cancel()
            # The hosted server takes up the new claims after 1 to 3 s.
            delay = self._services.denied_delay * random.uniform(0.2, 0.6)
            self._subscribing = self._start(self._subscribe(delay))
        return None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._credential.expires is not None:
            left = self._credential.expires - int(time.time())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(CONFIRM_SECONDS, max(0.0, left)), self._confirm)

    def _confirm(self) -> None:
        try:
            check_expiry(self._credential)
        except TokenRefused as error:
            self._shut_down(error.pushed)
        else:
            self._arm()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what ends with the channel at the latest."""
        task = asyncio.create_task(work, name=f"channel {self.topic}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _say_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._services.messages.live.wait()
        except TimeoutError:
            self._shut_down("Replication connection was not established in time")
        else:
            self._system("system", "ok", REPLICATION_READY)

    # -- postgres_changes

    async def _subscribe(self, delay: float, expected: Any = None) -> None:
        try:
            while True:
                if delay:
                    await asyncio.sleep(delay)
                try:
                    bindings = [(binding_id(params), parse(params)) for params in self._config.bindings]
                    await self._services.changes.subscribe(self, bindings, self._credential)
                except BindingRefused as error:
                    return self._system("postgres_changes", "error", str(error))
                except AccessUnavailable as error:
                    self._system("postgres_changes", "error", str(error))
                    delay = self._services.denied_delay * random.uniform(1.0, 2.0)
                else:
                    return self._system("postgres_changes", "ok", "Subscribed to PostgreSQL")
        finally:
            if expected is not None:
                expected()

    # -- broadcast and presence

    async def _may_write(self, extension: str) -> bool:
        if not self.private:
            return True
        if extension not in self._writable:
            try:
                self._writable[extension] = await self._services.authorization.write(
                    self.name, self._credential, self._socket.headers, extension
                )
            except AccessUnavailable:
                return False
        return self._writable[extension]

    async def _broadcast(self, message: Message) -> None:
        if not await self._may_write("broadcast"):
            return
        payload = message.payload
        if isinstance(payload, UserBroadcast):
            size, fanout = len(payload.body), user_broadcast_fanout(self.topic, payload, None)
        elif isinstance(payload, bytes):
            size, fanout = len(payload), raw_broadcast_fanout(self.topic, payload)
        else:
            text = dump(payload)
            size, fanout = len(text.encode()), event_fanout(self.topic, "broadcast", text)
        if size > MAX_PAYLOAD_BYTES:
            if self._config.ack:
                self._reply(message, "error", "payload_size_exceeded")
            return
        but = None if self._config.hear_self else self
        self._services.topics.send(self.name, self.private, fanout, but=but)
        if self._config.ack:
            self._reply(message, "ok", {})

    async def _presence(self, message: Message) -> None:
        payload = message.payload if isinstance(message.payload, Mapping) else {}
        event = payload.get("event")
        tracked = payload.get("payload", {})
        if event == "track" and not isinstance(tracked, Mapping):
            return self._reply(message, "error", {"reason": "Presence track payload must be a map"})
        if event not in ("track", "untrack"):
            return self._reply(message, "error", {})
        if not self._presence_calls.allows():
            return self._shut_down("Client presence rate limit exceeded")
        if event == "track":
            if len(dump(tracked).encode()) > MAX_PAYLOAD_BYTES:
                return self._shut_down("Track message size exceeded")
            if self._services.topics.presence_rate.is_exceeded():
                return self._shut_down("Too many presence messages per second")
            self._services.topics.presence_rate.add()
        allowed = await self._may_write("presence")
        if allowed and not self._readable.presence:
            try:
                self._readable = await self._services.authorization.read(
                    self.name, self._credential, self._socket.headers, presence=True
                )
            except AccessUnavailable:
                allowed = False
        # As recorded: whoever joined without presence hears of itself before the answer to its first track.
        late = not self._presence_enabled and event == "track"
        self._presence_enabled = True
        if not late:
            self._reply(message, "ok", {})
        if allowed and event == "track":
            self._services.presence.track(self, tracked)
        elif allowed:
            self._services.presence.untrack(self)
        if late:
            self._reply(message, "ok", {})
        return None

    # -- sending

    async def _fetch_replayed(self, replay: Any) -> list[Stored]:
        if not self.private:
            raise JoinRefused("UnableToReplayMessages: Replay is not allowed for public channels")
        since = replay.get("since") if isinstance(replay, Mapping) else None
        limit = replay.get("limit", 25) if isinstance(replay, Mapping) else None
        if not isinstance(since, int) or not isinstance(limit, int):
            raise JoinRefused("UnableToReplayMessages: Replay params are not valid")
        try:
            return await stored(self._services.pool, self.name, since, limit)
        except (psycopg.Error, TimeoutError, OSError) as error:
            raise JoinRefused("UnableToReplayMessages: Realtime was unable to replay messages") from error

    def _push(self, event: str, payload: str) -> None:
        self._socket.send(push(self._socket.vsn, self.topic, event, payload, join_ref=self.join_ref))

    def _reply(self, message: Message, status: str, response: Any) -> None:
        self._socket.send(reply(self._socket.vsn, self.topic, message.ref, self.join_ref, status, response))

    def _system(self, extension: str, status: str, text: str) -> None:
        payload = {"message": text, "status": status, "extension": extension, "channel": self.name}
        self._push("system", dump(payload))

    def say_closed(self) -> None:
        """Tell the client that the channel has ended."""
        self._socket.send(
            push(self._socket.vsn, self.topic, "phx_close", "{}", join_ref=self.join_ref, ref=self.join_ref)
        )

    def _shut_down(self, text: str) -> None:
        self._system("system", "error", text)
        self.close()
        self.say_closed()
        self._socket.forget(self)
