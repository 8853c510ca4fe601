"""A Realtime connection that is never trusted: torn down on anything odd, and built anew without limit."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from realtime import AsyncRealtimeClient

log = logging.getLogger(__name__)

JOIN_SECONDS = 15.0
HEARTBEAT_SECONDS = 20
LONGEST_BACKOFF_SECONDS = 10.0


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


@dataclass(slots=True)
class Supervisor:
    """Runs one session of a subscription after the other, with a jittered pause in between.

    `session` connects, calls `ready`, and returns or raises when anything is odd.
    """

    name: str
    session: Callable[[Callable[[], None]], Awaitable[None]]
    is_ready: bool = False
    sessions: int = 0
    rebuild: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until cancelled."""
        backoff = 0.25
        while True:
            began = time.monotonic()
            self.rebuild.clear()
            self.sessions += 1
            try:
                await self.session(self._ready)
            except Exception as error:
                log.warning("%s: %s: %s", self.name, type(error).__name__, error)
            finally:
                self.is_ready = False
            backoff = 0.25 if time.monotonic() - began > 30 else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            await asyncio.sleep(backoff * random.uniform(0.5, 1))

    def _ready(self) -> None:
        self.is_ready = True
        log.info("%s: subscribed", self.name)
