"""A channel: one topic joined on one socket. Behaviour and texts are those of Realtime v2.129.8, as recorded."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import psycopg

from devstack.realtime.access import AccessUnavailable, Credential, Permission, TokenRefused, check_expiry
from devstack.realtime.binding import BindingRefused, binding_id, parse
from devstack.realtime.broadcast import TOPIC_PREFIX, Stored, stored
from devstack.realtime.joining import JoinConfig, JoinRefused, parse_join, parse_replay
from devstack.realtime.limits import Window
from devstack.realtime.protocol import (
    MAX_PAYLOAD_BYTES,
    Fanout,
    Message,
    Ref,
    UserBroadcast,
    dump,
    event_fanout,
    push,
    raw_broadcast_fanout,
    reply,
    user_broadcast_fanout,
)
from devstack.realtime.services import Services, Sink

TOKEN_CHECK_SECONDS = 300.0
READY_SECONDS, READY_CHECK_SECONDS = 15.0, 0.5
REPLICATION_READY = "Replication connection established"
PRESENCE_CALLS, PRESENCE_SECONDS = 5, 30.0


class Channel:
    """A topic joined on a socket."""

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
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._readable = Permission(broadcast=True, presence=True)
        self._writable: dict[str, bool] = {}
        self._presence_calls = Window(PRESENCE_CALLS, PRESENCE_SECONDS)
        self._replayed: list[Stored] = []
        self._open = False
        self._handling = False
        self._exceeded = False
        self._presence_enabled = False

    async def join(self, payload: Any) -> dict[str, Any]:
        """Authorise and open the channel; return the response to the join. Raises JoinRefused."""
        if not self.name:
            raise JoinRefused("TopicNameRequired: You must provide a topic name")
        self._config = config = parse_join(self.name, payload)
        self.private = config.private
        self.presence_key = config.presence_key
        self._presence_enabled = config.presence_enabled
        if self._services.private_only and not config.private:
            raise JoinRefused("PrivateOnly: This project only allows private channels")
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
        self._schedule_token_check()
        if config.bindings:
            self._subscribing = self._start(self._subscribe(0.0, self._services.changes.retain()))
        return config.response()

    def joined(self) -> None:
        """Send the messages that follow the response to the join."""
        for message in self._replayed:
            if (frame := message.frame(self._socket.vsn, self.topic, self.join_ref)) is not None:
                self._socket.send(frame)
        self._replayed = []
        if self._config.replication_ready:
            if self._services.messages.live.is_set():
                self._system("system", "ok", REPLICATION_READY)
            else:
                self._start(self._await_replication())
        if self._config.presence_enabled and self._readable.presence:
            self._push("presence_state", dump(self._services.presence.state(self)))

    def close(self) -> None:
        """Close the channel without notifying the client."""
        if not self._open:
            return
        self._open = False
        self._services.topics.leave(self)
        self._services.presence.untrack(self)
        self._services.changes.unsubscribe(self)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        for task in self.tasks:
            task.cancel()

    async def handle(self, message: Message) -> None:
        """Handle a message from the client; unknown events are ignored."""
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
        """Close the channel because the project exceeded its rate limit, after replying to the current message."""
        self._exceeded = True
        if self._open and not self._handling:
            self._shut_down("Too many messages per second")

    def deliver_change(self, action: str, data: str, ids: Sequence[int]) -> None:
        """Send a row change to the client."""
        if self._config.legacy:
            event, payload = action, data
        else:
            event, payload = "postgres_changes", f'{{"data":{data},"ids":{dump(list(ids))}}}'
        self._services.topics.events["postgres_changes"] += 1
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
        self._schedule_token_check()
        if self._config.bindings:
            if self._subscribing is not None:
                self._subscribing.cancel()
            # The hosted server applies new claims after 1 to 3 s.
            delay = self._services.denied_delay * random.uniform(0.2, 0.6)
            self._subscribing = self._start(self._subscribe(delay))
        return None

    def _schedule_token_check(self) -> None:
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None
        if self._credential.expires is not None:
            left = self._credential.expires - int(time.time())
            loop = asyncio.get_running_loop()
            self._expiry_timer = loop.call_later(min(TOKEN_CHECK_SECONDS, max(0.0, left)), self._check_token)

    def _check_token(self) -> None:
        try:
            check_expiry(self._credential)
        except TokenRefused as error:
            self._shut_down(error.pushed)
        else:
            self._schedule_token_check()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that is cancelled when the channel closes."""
        task = asyncio.create_task(work, name=f"channel {self.topic}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _await_replication(self) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not self._services.messages.live.is_set():  # noqa: ASYNC110  as the hosted server checks it
                    await asyncio.sleep(READY_CHECK_SECONDS)
        except TimeoutError:
            self._shut_down("Replication connection was not established in time")
        else:
            self._system("system", "ok", REPLICATION_READY)

    # -- postgres_changes

    async def _subscribe(self, delay: float, release: Callable[[], None] | None = None) -> None:
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
            if release is not None:
                release()

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
        exclude = None if self._config.receive_self else self
        self._services.topics.send(self.name, self.private, fanout, exclude=exclude)
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
        # As recorded: if presence was off at the join, the first track is replied to after its own presence message.
        reply_last = not self._presence_enabled and event == "track"
        self._presence_enabled = True
        if not reply_last:
            self._reply(message, "ok", {})
        if allowed and event == "track":
            self._services.presence.track(self, tracked)
        elif allowed:
            self._services.presence.untrack(self)
        if reply_last:
            self._reply(message, "ok", {})
        return None

    # -- sending

    async def _fetch_replayed(self, replay: Any) -> list[Stored]:
        since, limit = parse_replay(replay, private=self.private)
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

    def send_close(self) -> None:
        """Notify the client that the channel has closed."""
        self._socket.send(
            push(self._socket.vsn, self.topic, "phx_close", "{}", join_ref=self.join_ref, ref=self.join_ref)
        )

    def _shut_down(self, text: str) -> None:
        self._system("system", "error", text)
        self.close()
        self.send_close()
        self._socket.forget(self)
