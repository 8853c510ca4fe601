"""Replays a recording of the hosted server against ours: sends the client's frames and compares the responses.

Every frame counts: one that was not recorded is a difference too. The order must be that of the recording, except for
messages of different topics at about the same time; replies keep their place. But the reply to a join and the presence
state of its channel may swap places: the hosted server sends them in either order.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import aiohttp
import psycopg

from tests.integration.devstack.realtime.connection import Arrival, Connection, Refusal
from tests.integration.devstack.realtime.recording import (
    Close,
    Names,
    Recording,
    eval_list,
    event,
    recorded,
    ref,
    topic,
)

SECONDS = 8.0
RACE_SECONDS = 0.1  # messages of different topics recorded this close together may swap places, unless one is a reply
IMMEDIATE_SECONDS = 0.01  # a client that closed this soon after a statement did not receive its effects
Response = tuple[int, str, str]  # of an HTTP request: status, content type and body text


class Player:
    """Replays one recording and collects the `differences`.

    With a `tolerance` (seconds), it replays at the recorded pace, and frames that arrive too early or too late are
    differences as well. Without it, before a client closes its connection, it waits `silence` seconds for unexpected
    frames. `speed` is how fast the server's rate clock runs. `patience` is how many seconds to wait for an expected
    frame.
    """

    def __init__(
        self,
        recording: Recording,
        url: str,
        session: aiohttp.ClientSession,
        dsn: str,
        *,
        tolerance: float | None = None,
        silence: float = 0.05,
        speed: float = 1.0,
        patience: float = SECONDS,
    ) -> None:
        self.recording = recording
        self.differences: list[str] = []
        self._url = url
        self._session = session
        self._dsn = dsn
        self._connections: dict[str, Connection] = {}
        self._matched: dict[str, list[tuple[float, Arrival]]] = {}
        self._names = (Names(), Names())
        self._handshakes: dict[str, Refusal | None] = {}
        self._responses: deque[Response | None] = deque()
        self._left: set[tuple[str, str]] = set()
        self._joins: dict[tuple[str, str | None], Any] = {}  # the ref of each topic's last join
        self._tolerance = tolerance
        self._silence = silence
        self._speed = speed
        self._patience = patience
        self._before = 0.0
        self._acted = (0.0, time.monotonic())
        self._case = ""
        self.exceptions: set[int] = set()  # the numbers of the footnotes in docs/devstack.md
        self.flooded = 0.0  # seconds on the server's clock until the rate limit was reached

    async def play(self) -> None:
        lines = self.recording.lines
        try:
            async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as self._database:
                at = 0
                while at < len(lines):
                    at = await self._line(at)
            if any(not connection.unread for connection in self._connections.values()):
                await asyncio.sleep(self._silence)
            for name in list(self._connections):
                self._report_unread(name)
        finally:
            for connection in self._connections.values():
                await connection.end()

    async def _line(self, at: int) -> int:
        """Replay a line; return the index of the next one."""
        line = self.recording.lines[at]
        self._before, self.recording.elapsed = self.recording.elapsed, line["t"]
        if line["dir"] != "server":
            if self._tolerance is not None:  # keep the recorded pace
                await asyncio.sleep(max(0.0, line["t"] - self._before))
            self._acted = (max(line["t"], self._before), time.monotonic())
        match line["dir"]:
            case "note":
                return await self._note(at)
            case "client":
                await self._client(line, at)
            case _:
                await self._server(line)
        return at + 1

    def _differs(self, line: dict[str, Any], text: str) -> None:
        self.differences.append(f"{line['t']} {line.get('conn', '')}: {text}")

    def _report_unread(self, name: str) -> None:
        """Report unexpected frames, except those in flight when a client closed immediately."""
        connection = self._connections[name]
        for arrival in connection.unread:
            in_flight = connection.closed_immediately and arrival.at > (connection.closed_by_us or 0.0)
            if not in_flight:
                self.differences.append(f"{name}: unexpected {arrival.message!r:.600}")
        connection.unread.clear()

    async def _note(self, at: int) -> int:
        lines = self.recording.lines
        line = lines[at]
        if "sql" not in line:
            self._case = line["note"]
            if self._case == "B drops its socket":
                self._connections["B"].drop()
            elif self._case == "websocket PING control frame":
                if not await self._connections["A"].ping(SECONDS):
                    self._differs(line, "no PONG for a PING")
            elif self._case.startswith("300 broadcasts/s"):
                return await self._flood(at)
            return at + 1
        group = [line]
        transaction = "transaction" in self._case
        while transaction and at + len(group) < len(lines) and "sql" in lines[at + len(group)]:
            group.append(lines[at + len(group)])
        following = lines[at + len(group)] if at + len(group) < len(lines) else {}
        rollback = following.get("note") == "rollback"
        if rollback and len(group) > 1:
            group, last = group[:-1], group[-1:]
            await self._run(group, "commit")
            await self._run(last, "rollback")
            return at + len(group) + 2
        await self._run(group, "rollback" if rollback else "commit")
        return at + len(group)

    async def _flood(self, at: int) -> int:
        """Broadcast until the rate limit is reached; how many more frames get a reply depends on timing."""
        lines = self.recording.lines
        end = next(number for number in range(at, len(lines)) if lines[number].get("note", "").startswith("sent "))
        join = next(line["frame"] for line in reversed(lines[:at]) if line["dir"] == "client")
        flooding = self._connections["A"]
        joined, sent, last, begun = str(topic(join)), 0, 0, time.monotonic()

        async def send() -> None:
            nonlocal sent
            sent += 1
            ref, payload = str(sent + 1), {"type": "broadcast", "event": "flood", "payload": {}}
            frame = {"topic": joined, "event": "broadcast", "payload": payload, "ref": ref, "join_ref": "1"}
            v1 = isinstance(join, dict)
            await flooding.send(json.dumps(frame if v1 else ["1", ref, joined, "broadcast", payload]))

        received: list[Any] = []

        async def listen() -> None:
            nonlocal last
            while not received or f'"{last}"' not in json.dumps(received[-1]):
                arrival = await flooding.take(lambda _: True, SECONDS)
                if arrival is None or isinstance(arrival.message, Close):
                    return self._differs(lines[at], f"received {arrival} during the flood")
                if event(arrival.message) != "broadcast":  # its own broadcasts were not recorded individually
                    if not received:
                        self.flooded = (time.monotonic() - begun) * self._speed
                        last = sent + 2
                    received.append(arrival.message)
            return None

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(SECONDS * 4):
            while sent + 1 != last and not listening.done():
                await send()
                await asyncio.sleep(max(0.0, begun + sent / (300 * self._speed) - time.monotonic()))
            await listening

        def without_refs(messages: Iterable[Any]) -> list[str]:
            texts = [re.sub(r'"\d{1,4}"', '"<ref>"', Names().text(message)) for message in messages]
            return list(dict.fromkeys(texts))

        expected = without_refs(recorded(line) for line in lines[at:end] if line["dir"] == "server")
        if expected != without_refs(received):
            self._differs(lines[at], f"expected {expected}\n      received {without_refs(received)}")
        self.recording.elapsed = lines[end]["t"]
        return end

    async def _run(self, group: Iterable[dict[str, Any]], end: str) -> None:
        await self._database.execute("begin")
        for line in group:
            statement, _, args = line["sql"].partition("  -- args ")
            statement = re.sub(r"'x'\*80,<\d+ random chars>", "%s,%s", statement)
            values = [self.recording.fill(value) for value in eval_list(args)] if args else None
            if values is not None and len(values) == 4 and statement.count("%s") == 2:
                values = values[2:]
            if values is not None:
                statement = statement.replace("he%'", "he%%'")
            await self._database.execute(statement, values)
        await self._database.execute(end)

    async def _client(self, line: dict[str, Any], at: int) -> None:
        if "http" in line:
            return await self._request(line["http"])
        name = line["conn"]
        if "connect" in line:
            return await self._connect(name, line)
        connection = self._connections[name]
        frame = line.get("frame")
        if "close" in line:
            connection.closed_immediately = line["t"] - self._before <= IMMEDIATE_SECONDS
            if not connection.closed_immediately and self._tolerance is None:
                await asyncio.sleep(self._silence)
            connection.close(line["close"]["code"])
        elif "raw" in line:
            await connection.send(self.recording.fill(line["raw"]))
        elif isinstance(frame, dict) and "raw" in frame:
            await connection.send(self.recording.fill(frame["raw"]))
        elif isinstance(frame, dict) and "b64" in frame:
            await connection.send(base64.b64decode(frame["b64"]))
        else:
            if event(frame) == "phx_join":
                self._joins[name, topic(frame)] = ref(frame)
            use_case = event(frame) == "access_token" or "private channel" not in self._case
            await connection.send(json.dumps(self.recording.fill(frame, self._case if use_case else "")))
        return None

    async def _connect(self, name: str, line: dict[str, Any]) -> None:
        if name in self._connections:
            self._report_unread(name)
            await self._connections.pop(name).end()
        url = self.recording.fill(line["connect"], "" if "private channel" in self._case else self._case)
        if "nosuch" in url:  # the devstack has only one tenant
            self.exceptions.add(1)
            self._handshakes[name] = Refusal(404, '{"error":"Tenant not found"}')
            return
        _, _, query = url.partition("?")
        path = "websocket" if "/websocket" in url else ""
        headers = self.recording.fill(line.get("headers", {}))
        try:
            ours = f"{self._url.replace('http', 'ws', 1)}/{path}?{query}"
            self._connections[name] = await Connection.open(ours, headers)
            self._handshakes[name] = None
        except Refusal as refusal:
            self._handshakes[name] = refusal

    async def _request(self, request: dict[str, Any]) -> None:
        if request["headers"].get("Host", "").startswith("nosuch"):  # the devstack has only one tenant
            self.exceptions.add(1)
            self._responses.append(None)
            return
        body = self.recording.fill(request["body"])
        data: Any
        if isinstance(body, dict) and "b64" in body:
            data = base64.b64decode(body["b64"])
        else:
            data = io.BytesIO(body.encode() if isinstance(body, str) else json.dumps(body).encode())
        headers = self.recording.fill({k: v for k, v in request["headers"].items() if k != "Host"})
        url = self._url + request["path"]
        async with self._session.request(request["method"], url, headers=headers, data=data) as response:
            type_ = response.headers.get("content-type", "") if response.content_length else ""
            self._responses.append((response.status, type_, await response.text()))

    async def _server(self, line: dict[str, Any]) -> None:
        if "http" in line:
            return self._compare_response(line)
        name, expected = line["conn"], recorded(line)
        if isinstance(expected, str) and "%{error" in expected:
            self.exceptions.add(2)
            return None  # the hosted server sent invalid JSON; ours sends nothing
        about = topic(expected)
        seconds = self._patience if self._tolerance is None else self._patience + line["t"] - self._before
        after_close = event(expected) == "presence_diff" and (name, str(about)) in self._left
        if after_close:
            self.exceptions.add(4)
            seconds = self._silence  # sent after the close of its channel, which rarely happens on the hosted server
        arrival = await self._connections[name].take(
            lambda message: topic(message) == about and not self._swaps(name, message, expected), seconds
        )
        if event(expected) == "phx_close":
            self._left.add((name, str(about)))
        elif event(expected) == "phx_reply":
            self._left.discard((name, str(about)))
        if arrival is None:
            if not after_close:
                unread = self._connections[name].unread
                self._differs(line, f"expected {expected!r:.900}\n      received nothing; unread {unread!r:.600}")
            return None
        self._compare(line, expected, arrival)
        return self._compare_times(line, arrival)

    def _compare_response(self, line: dict[str, Any]) -> None:
        """Compare the response to a handshake or another HTTP request."""
        expected = line["http"]
        type_ = expected.get("headers", {}).get("content-type", "")
        if "conn" in line:
            refusal = self._handshakes.pop(line["conn"])
            got: Any = (refusal.status, refusal.body) if refusal else (101, "")
            if got != (expected["status"], expected.get("body") or ""):
                self._differs(line, f"handshake {got} instead of {expected}")
            return
        response = self._responses.popleft()
        if response is not None and response != (expected["status"], type_, expected.get("body") or ""):
            self._differs(line, f"http {response} instead of {expected}")

    def _compare(self, line: dict[str, Any], expected: Any, arrival: Arrival) -> None:
        texts = [names.text(value) for names, value in zip(self._names, (expected, arrival.message), strict=True)]
        if texts[0] != texts[1]:
            self._differs(line, f"expected {texts[0]:.900}\n      received {texts[1]:.900}")
        matched = self._matched.setdefault(line["conn"], [])
        for recorded_at, earlier in matched:
            replies = "phx_reply" in (event(earlier.message), event(arrival.message))
            may_swap = self._swaps(line["conn"], earlier.message, arrival.message)
            if earlier.at > arrival.at and not may_swap and (replies or line["t"] - recorded_at > RACE_SECONDS):
                self._differs(line, f"arrived before {earlier.message!r:.300}: {texts[1]:.300}")
        matched.append((line["t"], arrival))

    def _swaps(self, name: str, one: Any, other: Any) -> bool:
        """Whether these are the reply to a join and the presence state of its channel."""
        if {event(one), event(other)} != {"phx_reply", "presence_state"} or topic(one) != topic(other):
            return False
        return bool(ref(one if event(one) == "phx_reply" else other) == self._joins.get((name, topic(one))))

    def _compare_times(self, line: dict[str, Any], arrival: Arrival) -> None:
        if self._tolerance is None:
            return
        recorded_after, after = line["t"] - self._acted[0], arrival.at - self._acted[1]
        tolerance, text = self._tolerance, str(arrival.message)
        if "Subscribed to PostgreSQL" in text:  # takes 0 to 3 s
            tolerance = 3.0
        elif "expired" in text or "phx_close" in text:  # token lifetimes are in whole seconds
            tolerance += 1.0
        if abs(recorded_after - after) > tolerance:
            self._differs(line, f"after {after:.2f} s, recorded {recorded_after:.2f} s: {text:.200}")
