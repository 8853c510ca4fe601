"""A Realtime connection that is never trusted: torn down on anything odd, and built anew without limit."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.types import RealtimeSubscribeStates

from bridge.errors import RealtimeError

log = logging.getLogger(__name__)

# The hosted service answers a refused join after 5 s. With the longest pause and a join, wake-ups are back
# within 15 s of any fault's end.
JOIN_SECONDS = 7.0
HEARTBEAT_SECONDS = 20
CANARY_SECONDS = 8.0
CANARY_ANSWER_SECONDS = 4.0
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 5.0


async def dismantle(client: AsyncRealtimeClient) -> None:
    """Close a Realtime client for good, with its timers, however dead its peer is. Takes 1 s at most."""
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


class Supervisor:
    """Runs one session of a subscription after the other, with a jittered pause in between.

    `session(ready)` connects, calls `ready`, and returns or raises when anything is odd. With `rejoin_seconds` a
    session that is so old is followed by another, and ends when that one is ready: nothing is missed in between.
    """

    def __init__(
        self,
        name: str,
        session: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
        rejoin_seconds: float | None = None,
        on_restart: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.sessions = 0
        self.rebuild = asyncio.Event()
        self._session = session
        self._rejoin_seconds = rejoin_seconds
        self._on_restart = on_restart
        self._running: dict[asyncio.Task[None], asyncio.Event] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a session stands."""
        return any(ready.is_set() for ready in self._running.values())

    async def run(self) -> None:
        """Until cancelled."""
        backoff = FIRST_BACKOFF_SECONDS
        try:
            while True:
                began = time.monotonic()
                self.rebuild.clear()
                current = self._begin()
                while not (await asyncio.wait({current}, timeout=self._rejoin_seconds))[0]:
                    current = await self._succeed(current)
                self._ended(current)
                lasted = time.monotonic() - began
                backoff = FIRST_BACKOFF_SECONDS if lasted > 30 else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
                await asyncio.sleep(backoff * random.uniform(0.5, 1))
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    def _begin(self) -> asyncio.Task[None]:
        ready = asyncio.Event()

        def on_ready() -> None:
            ready.set()
            log.info("%s: subscribed", self.name)

        if self.sessions:
            self._on_restart()
        self.sessions += 1
        task = asyncio.create_task(self._session(on_ready), name=self.name)
        self._running[task] = ready
        return task

    async def _succeed(self, old: asyncio.Task[None]) -> asyncio.Task[None]:
        """Begin another session; give it, and end the old one, if it gets ready in time."""
        new = self._begin()
        getting_ready = asyncio.ensure_future(self._running[new].wait())
        try:
            await asyncio.wait({getting_ready, new}, timeout=3 * JOIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            getting_ready.cancel()
        loser = old if self._running[new].is_set() and not new.done() else new
        loser.cancel()
        await asyncio.wait({loser})
        self._ended(loser)
        return new if loser is old else old

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s: %s: %s", self.name, type(error).__name__, error)


async def join(
    client: AsyncRealtimeClient, topic: str, on_odd: Callable[[str], None], heard: asyncio.Queue[str] | None = None
) -> AsyncRealtimeChannel:
    """Connect, and join a channel to say something to oneself on: private, with `heard` as its ear for `prove`.

    `on_odd` is told when the channel or its connection is not in order any more.

    Raises:
        RealtimeError: the join was refused, or not answered in time.
    """
    channel = client.channel(topic, config(private=True, hears_itself=True))
    if heard is not None:
        channel.on_broadcast("canary", lambda message: _hear(message, heard))
    await subscribe(client, channel, on_odd)
    return channel


async def subscribe(client: AsyncRealtimeClient, channel: AsyncRealtimeChannel, on_odd: Callable[[str], None]) -> None:
    """Connect and join; see `join`."""
    refusals: list[str] = []

    def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            refusals.append(f"{state.value} {error or ''}".rstrip())
            on_odd(refusals[-1])

    try:
        async with asyncio.timeout(JOIN_SECONDS):
            await client.connect()
            await channel.subscribe(on_state)
    except TimeoutError:
        raise RealtimeError(f"no answer to the join within {JOIN_SECONDS:g} s") from None
    if refusals:
        raise RealtimeError(refusals[0])


class Subscription:
    """One channel on one connection, which both end with the block.

    A private one hears itself: `prove` shows that the path is whole, end to end. `heard_at` (monotonic seconds) is when
    anything was heard on it last: whoever else said it, it came by the same path.
    """

    def __init__(self, url: str, key: str, topic: str, *, private: bool) -> None:
        self._client = AsyncRealtimeClient(
            url, key, auto_reconnect=False, hb_interval=HEARTBEAT_SECONDS, timeout=int(JOIN_SECONDS)
        )
        self.channel: AsyncRealtimeChannel = self._client.channel(topic, config(private=private, hears_itself=private))
        self.heard_at = time.monotonic()
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self.hear("canary", lambda message: _hear(message, self._heard))
        self._odd: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        await dismantle(self._client)

    async def join(self) -> None:
        """Connect and join.

        Raises:
            RealtimeError: the join was refused or not answered in time.
        """
        await subscribe(self._client, self.channel, self._on_odd)

    def hear(self, event: str, listener: Callable[[Any], None]) -> None:
        """Have broadcasts of this name handed on. Before the join; the listener must not raise."""

        def on_broadcast(message: Any) -> None:
            self.heard_at = time.monotonic()
            listener(message)

        self.channel.on_broadcast(event, on_broadcast)

    async def prove(self) -> None:
        """Say something to ourselves and hear it.

        Raises:
            RealtimeError: it was not heard.
        """
        await prove(self.channel, self._heard)

    async def broken(self, rebuild: asyncio.Event, seconds: float | None) -> bool:
        """Wait for trouble, `seconds` at most; True if `rebuild` was set.

        Raises:
            RealtimeError: the channel or its connection is not in order any more.
        """
        asked = asyncio.ensure_future(rebuild.wait())
        listening = self._client._listen_task
        waits: set[asyncio.Future[Any]] = {asked, self._odd}
        if listening is not None:
            waits.add(listening)
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if self._odd.done():
            raise RealtimeError(self._odd.result())
        if listening is None or listening.done():
            raise RealtimeError("the connection was closed")
        return rebuild.is_set()

    def _on_odd(self, why: str) -> None:
        if not self._odd.done():
            self._odd.set_result(why)


def config(*, private: bool, hears_itself: bool) -> Any:
    """The configuration of a channel, as `realtime` 2.34.1 takes it."""
    return {
        "config": {
            "broadcast": {"ack": False, "self": hears_itself},
            "presence": {"key": "", "enabled": False},
            "private": private,
        }
    }


def _hear(message: Any, heard: asyncio.Queue[str]) -> None:
    """A callback: whatever the message is, it raises nothing into the library."""
    payload = message.get("payload") if isinstance(message, dict) else None
    nonce = payload.get("nonce") if isinstance(payload, dict) else None
    if isinstance(nonce, str):
        heard.put_nowait(nonce)


async def prove(channel: AsyncRealtimeChannel, heard: asyncio.Queue[str]) -> None:
    """Say something to ourselves and hear it, or raise RealtimeError."""
    nonce = uuid.uuid4().hex
    try:
        async with asyncio.timeout(CANARY_ANSWER_SECONDS):
            await channel.send_broadcast("canary", {"nonce": nonce})
            while await heard.get() != nonce:
                pass
    except TimeoutError:
        raise RealtimeError(f"a message to itself was not heard within {CANARY_ANSWER_SECONDS:g} s") from None
