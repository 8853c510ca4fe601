"""Sessions that were opened and closed leave nothing behind, even in React's StrictMode."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
from playwright.async_api import BrowserContext, CDPSession, WebSocket, expect

from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab, build, served
from tests.support.database import Row

TIMES = 100
# React keeps a listener of each kind at the root, and the page may differ by a few nodes
FEW = 50


class Topics:
    """The topics that a page is joined to, from the frames it sent and received."""

    def __init__(self, tab: Tab) -> None:
        self.joined: set[str] = set()
        self.joins = 0
        self._asked: dict[str, str] = {}  # topics of joins by reference
        self._answered: set[str] = set()
        self._changed = asyncio.Event()
        tab.page.on("websocket", self._watch)

    async def settle(self, expected: set[str]) -> None:
        """Wait until the page is joined to exactly these topics, with every join confirmed."""
        async with asyncio.timeout(15):
            while not self.joined == self._answered == expected:
                self._changed.clear()
                await self._changed.wait()

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framesent", self._sent)
        socket.on("framereceived", self._received)

    def _sent(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            return  # a broadcast; the page sends none
        _, reference, topic, event, _ = json.loads(frame)
        if event == "phx_join":
            self.joined.add(topic)
            self.joins += 1
            self._asked[reference] = topic
        elif event == "phx_leave":
            self.joined.discard(topic)
            self._answered.discard(topic)
        self._changed.set()

    def _received(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            return
        _, reference, topic, event, _ = json.loads(frame)
        if event == "phx_reply" and self._asked.get(reference) == topic and topic in self.joined:
            self._answered.add(topic)
            self._changed.set()


async def kept(devtools: CDPSession) -> dict[str, int]:
    """The numbers of listeners and nodes that the page still holds."""
    await devtools.send("HeapProfiler.collectGarbage")
    metrics = await devtools.send("Performance.getMetrics")
    values = {metric["name"]: int(metric["value"]) for metric in metrics["metrics"]}
    return {name: values[name] for name in ("JSEventListeners", "Nodes")}


async def test_closed_sessions_leave_no_topics_listeners_or_nodes(
    stack: Stack,
    environment: dict[str, str],
    context: BrowserContext,
    db: psycopg.AsyncConnection[Row],
    tmp_path: Path,
) -> None:
    await build(PROJECT / "web", tmp_path, stack.environment, mode="development")
    async with served(tmp_path) as address:
        tab = await Tab.open(context, address)
        user = await rows.user_id(db, await tab.sign_up())
        ids = [
            await rows.write(db, user, Conversation(name, [Turn(f"In {name}", "Reply")]))
            for name in ("First", "Second")
        ]
        topics = Topics(tab)
        await tab.page.reload()
        devtools = await context.new_cdp_session(tab.page)
        await devtools.send("Performance.enable")

        async def open_both() -> None:
            for name, session_id in zip(("First", "Second"), ids, strict=True):
                await tab.page.get_by_test_id("sessions").get_by_role("button", name=name).first.click()
                await expect(tab.questions).to_have_text(f"In {name}Edit and ask again")
                # the messages appear before the topic is joined and the last one is left
                await topics.settle({f"realtime:user:{user}", f"realtime:session:{session_id}"})

        for _ in range(5):
            await open_both()
        before, joins = await kept(devtools), topics.joins
        for _ in range(TIMES // 2):
            await open_both()
        after = await kept(devtools)
        print(f"before {before}, after {after}, joins {topics.joins - joins}")
        assert topics.joins - joins >= TIMES
        assert topics.joined == {f"realtime:user:{user}", f"realtime:session:{ids[1]}"}
        assert after["JSEventListeners"] - before["JSEventListeners"] < FEW
        assert after["Nodes"] - before["Nodes"] < FEW
        assert tab.problems == []
