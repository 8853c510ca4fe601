"""One Realtime connection that is never trusted: the first error ends it, and its supervisor starts another.

What `realtime` 2.34.1 does that this guards against: it gives up reconnecting for good after 15 s of refusals, an
exception in a callback ends its receive loop in silence, it never checks the replies to its heartbeats, a server's
`phx_close` or an expired token ends a channel for good, and a send on a dead connection is swallowed. It also writes
each message that it receives into the text of two debug lines, whoever reads them: that took 7 % of a worker's CPU.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any, Self, get_args

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.message import Message, ServerMessage
from realtime.types import RealtimeSubscribeStates

from bridge.errors import RealtimeError

JOIN_SECONDS = 7.0
SEND_SECONDS = 2.0
HEARTBEAT_SECONDS = 20
PROBE_SECONDS = 8.0  # how often a probe is sent: a broadcast to ourselves
PROBE_ANSWER_SECONDS = 4.0  # how long its echo may take

for _kind in get_args(ServerMessage):
    _kind.__repr__ = object.__repr__
del _kind


class Connection:
    """A connection and its channels, closed at the end of the `async with` block."""

    def __init__(self, url: str, key: str) -> None:
        options: dict[str, Any] = {"auto_reconnect": False, "hb_interval": HEARTBEAT_SECONDS}
        self._client = AsyncRealtimeClient(url, key, timeout=int(JOIN_SECONDS), **options)
        self._error: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._probed: AsyncRealtimeChannel | None = None
        self._echoes: asyncio.Queue[str] = asyncio.Queue()
        self.received_at = time.monotonic()  # when the last broadcast arrived

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self._client)

    def fail(self, reason: str) -> None:
        """Note that something is wrong, for `wait` to raise."""
        if not self._error.done():
            self._error.set_result(reason)

    def channel(self, topic: str, *, private: bool = True, probed: bool = False) -> AsyncRealtimeChannel:
        """Add a channel, to be joined with `join`. A `probed` one receives its own broadcasts: `probe` uses it."""
        channel = self._client.channel(topic, channel_config(private=private, echo=probed))
        if probed:
            self._probed = channel
            self.on_broadcast(channel, "probe", self._on_echo)
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

    async def probe(self) -> None:
        """Send a broadcast to ourselves and await its echo, or raise RealtimeError: does the path work end to end?"""
        assert self._probed is not None, "no channel was opened with probed=True"
        nonce = uuid.uuid4().hex
        try:
            async with asyncio.timeout(PROBE_ANSWER_SECONDS):
                await self._probed.send_broadcast("probe", {"nonce": nonce})
                while await self._echoes.get() != nonce:
                    pass
        except TimeoutError:
            raise RealtimeError(f"no echo of a probe within {PROBE_ANSWER_SECONDS:g} s") from None

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for `seconds` (None: for ever). Raises RealtimeError once a channel or the connection has failed."""
        listening = self._client._listen_task
        if listening is not None:
            await asyncio.wait({self._error, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
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

    def _on_echo(self, message: Any) -> None:
        nonce = dict_at(message, "payload").get("nonce")
        if isinstance(nonce, str):
            self._echoes.put_nowait(nonce)


def dict_at(value: Any, key: str) -> dict[str, Any]:
    """The dict at `key`; empty where the message is malformed, because a callback must not raise."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def channel_config(*, private: bool, echo: bool) -> Any:
    """The configuration of a channel, as `realtime` 2.34.1 takes it."""
    broadcast, presence = {"ack": False, "self": echo}, {"key": "", "enabled": False}
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
