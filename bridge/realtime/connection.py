"""One Realtime connection that is never trusted: the first error ends it, and its supervisor starts another.

What `realtime` 2.34.1 does that this guards against: it gives up reconnecting for good after 15 s of refusals, it never
checks the replies to its heartbeats, a server's `phx_close` or an expired token ends a channel for good, and a send on
a dead connection is swallowed. `bridge.realtime.client` receives in its place.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimePostgresChangesListenEvent
from realtime.message import Message
from realtime.types import RealtimeSubscribeStates

from bridge.errors import RealtimeError, StoreError
from bridge.realtime.client import Client

JOIN_SECONDS = 7.0
SEND_SECONDS = 2.0
HEARTBEAT_SECONDS = 20
PROBE_SECONDS = 8.0  # how often a probe is sent: a broadcast to ourselves
PROBE_ANSWER_SECONDS = 4.0  # how long its echo may take
REPEAT_SECONDS = 1.0  # how often a probe through the database is sent again, until the first is heard
# How long one connection waits for that. Realtime 2.129.8 gives up after 15 s, and closes the channel.
HEAR_SECONDS = 30.0

# Sends a probe with this nonce through the database; False if it cannot.
SendProbe = Callable[[str], Awaitable[bool]]


class Connection:
    """A connection and its channels, closed at the end of the `async with` block."""

    def __init__(self, url: str, key: str, token: str | None = None) -> None:
        """`token` is the access token of the user who joins (None: the key decides)."""
        self._client = Client(url, key, heartbeat_seconds=HEARTBEAT_SECONDS, timeout=int(JOIN_SECONDS))
        if token is not None:
            self._client.access_token = token
        self._error: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._probed: AsyncRealtimeChannel | None = None
        self._replicating: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._echoes: dict[str, asyncio.Future[None]] = {}  # awaited, by nonce
        self.received_at = time.monotonic()  # when the last broadcast arrived

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self._client)

    def fail(self, reason: str) -> None:
        """Note that something is wrong, for `wait` to raise."""
        if not self._error.done():
            self._error.set_result(reason)

    def channel(
        self, topic: str, *, private: bool = True, probed: bool = False, replicated: bool = False
    ) -> AsyncRealtimeChannel:
        """Add a channel, to be joined with `join`.

        A `probed` one receives its own broadcasts: `probe` uses it. For a `replicated` one, the server says when it
        hears the database, so that `hear` need not wait for its next try.
        """
        channel = self._client.channel(topic, channel_config(private=private, echo=probed, replicated=replicated))
        if probed:
            self._probed = channel
            self.on_broadcast(channel, "probe", self._on_echo)
        if replicated:
            channel.on_system(self._on_system)
        return channel

    def on_broadcast(self, channel: AsyncRealtimeChannel, event: str, callback: Callable[[Any], None]) -> None:
        """Call `callback` for every broadcast of that name. Set before the join; `callback` must not raise."""

        def on_message(message: Any) -> None:
            self.received_at = time.monotonic()
            callback(message)

        channel.on_broadcast(event, on_message)

    async def join(self, channel: AsyncRealtimeChannel) -> None:
        """Join the channel (and connect first), or raise RealtimeError. If it is lost later, the connection fails."""
        refusals: list[str] = []

        def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if state is not RealtimeSubscribeStates.SUBSCRIBED:
                refusals.append(f"{channel.topic}: {state.value} {error or ''}".rstrip())
                self.fail(refusals[-1])

        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self._client.connect()
                await channel.subscribe(on_state)
        except TimeoutError:
            raise RealtimeError(f"{channel.topic}: no answer to the join within {JOIN_SECONDS:g} s") from None
        if refusals:
            raise RealtimeError(refusals[0])

    async def join_changes(
        self,
        topic: str,
        callback: Callable[[dict[str, Any]], None],
        schema: str,
        table: str,
        where: str | None = None,
    ) -> None:
        """Join a channel that calls `callback` with each record that is inserted into a table.

        It is private: a project may allow no others, and the secret key may join any.
        Returns when Realtime says that it is subscribed, which comes after the join. `callback` must not raise. Raises
        RealtimeError.
        """
        subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_system(payload: Any) -> None:
            if getattr(payload, "extension", None) == "postgres_changes" and not subscribed.done():
                subscribed.set_result(None)

        channel = self.channel(topic)
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert,
            lambda message: callback(dict_at(dict_at(message, "data"), "record")),
            table=table,
            schema=schema,
            filter=where,
        )
        channel.on_system(on_system)
        await self.join(channel)
        await self.wait(JOIN_SECONDS, subscribed)
        if not subscribed.done():
            raise RealtimeError(f"{channel.topic}: not subscribed within {JOIN_SECONDS:g} s")

    async def probe(self, send: SendProbe | None = None) -> bool:
        """Send a broadcast to ourselves and await its echo: does the path work end to end?

        By socket, or with `send` through the database; False if that could not send it. Raises RealtimeError if there
        was no echo, and what `send` raises.
        """
        assert self._probed is not None, "no channel was opened with probed=True"
        with self._awaited() as (nonce, echo):
            if send is None:
                if not await self.send(self._probed, "probe", {"nonce": nonce}):
                    raise RealtimeError("the connection was closed")
            elif not await send(nonce):
                return False
            await self.wait(PROBE_ANSWER_SECONDS, echo)
            if not echo.done():
                raise RealtimeError(f"no echo of a probe within {PROBE_ANSWER_SECONDS:g} s")
        return True

    async def hear(self, send: SendProbe, on_silence: Callable[[str], object]) -> bool:
        """Send a probe through the database until it is heard; False if the database cannot send it.

        A join proves nothing about the database: it is answered before Realtime has a replication slot, for which
        Postgres waits until all open write transactions have ended. What was sent before is never delivered, so the
        probe is repeated. `on_silence` gets the reason whenever a try was in vain. Raises RealtimeError when the
        connection fails, or after HEAR_SECONDS.
        """
        deadline = time.monotonic() + HEAR_SECONDS
        with self._awaited() as (nonce, echo):
            while True:
                began = time.monotonic()
                try:
                    if not await send(nonce):
                        return False
                    reason = "no echo of a probe"
                except StoreError as error:
                    reason = str(error)
                said = self._replicating.done()
                pause = REPEAT_SECONDS * random.uniform(0.75, 1) - (time.monotonic() - began)
                await self.wait(max(0.05, pause), echo, *([] if said else [self._replicating]))
                if echo.done():
                    return True
                if said or not self._replicating.done():
                    on_silence(reason)
                if time.monotonic() > deadline:
                    raise RealtimeError(f"the database was not heard within {HEAR_SECONDS:g} s ({reason})")

    async def wait(self, seconds: float | None = None, *ends: asyncio.Future[None]) -> None:
        """Wait for `seconds` (None: for ever) or until one of `ends` is done.

        Raises RealtimeError once a channel or the connection has failed.
        """
        listening = self._client._listen_task
        if listening is not None:
            what = {self._error, listening, *ends}
            await asyncio.wait(what, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._error.done():
            raise RealtimeError(self._error.result())
        if listening is None or listening.done():
            raise RealtimeError("the connection was closed")

    async def send(self, channel: AsyncRealtimeChannel, event: str, payload: dict[str, Any]) -> bool:
        """Push a broadcast on a joined channel; False if it certainly was not sent.

        Raises RealtimeError if it may or may not have been sent; then the connection has failed.
        """
        if self._error.done() or not self._client.is_connected:
            return False  # the library would keep it for later, without a word
        # past channel.push, which would leave a 10 s timer for each (realtime 2.34.1)
        body = {"type": "broadcast", "event": event, "payload": payload}
        join_ref = channel.join_push.ref
        message = Message(topic=channel.topic, event="broadcast", payload=body, ref=None, join_ref=join_ref)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._client.send(message)
        except (TimeoutError, OSError) as error:
            self.fail(f"a send failed: {type(error).__name__}")
            raise RealtimeError("a send failed") from error
        return True

    @contextmanager
    def _awaited(self) -> Generator[tuple[str, asyncio.Future[None]]]:
        """A new nonce, and the future that its echo ends."""
        nonce, echo = uuid.uuid4().hex, asyncio.get_running_loop().create_future()
        self._echoes[nonce] = echo
        try:
            yield nonce, echo
        finally:
            del self._echoes[nonce]

    def _on_echo(self, message: Any) -> None:
        nonce = dict_at(message, "payload").get("nonce")
        echo = self._echoes.get(nonce) if isinstance(nonce, str) else None
        if echo is not None and not echo.done():
            echo.set_result(None)

    def _on_system(self, _: Any) -> None:
        """The only success that Realtime reports for a channel without bindings: it hears the database."""
        if not self._replicating.done():
            self._replicating.set_result(None)


def dict_at(value: Any, key: str) -> dict[str, Any]:
    """The dict at `key`; empty where the message is malformed, because a callback must not raise."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def channel_config(*, private: bool, echo: bool, replicated: bool = False) -> Any:
    """The configuration of a channel, as `realtime` 2.34.1 takes it and passes it on."""
    broadcast, presence = {"ack": False, "self": echo}, {"key": "", "enabled": False}
    if replicated:
        broadcast["replication_ready"] = True
    return {"config": {"broadcast": broadcast, "presence": presence, "private": private}}


async def close(client: AsyncRealtimeClient) -> None:
    """Close a Realtime client for good, with its timers, even if its peer is dead. Takes 1 s at most."""
    for channel in client.channels.values():
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
        for push in channel.messages_waiting_for_ack.values():
            push.destroy()
    connection = client._ws_connection
    tasks = [task for task in (client._listen_task, client._heartbeat_task) if task is not None]
    try:
        async with asyncio.timeout(1):
            await client.close()
    except (TimeoutError, OSError):
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
