"""Plays a recording of the hosted server against ours: sends what the client sent, compares what comes back.

Of what comes nothing is passed over: what was not recorded is a difference too. The order is that of the recording;
only what several topics are told at one time may come in another order, answers excepted.
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
from tests.integration.devstack.realtime.recording import Close, Names, Recording, eval_list, event, recorded, topic

SECONDS = 8.0
RACE_SECONDS = 0.1  # of different topics: what was recorded this close together may come in another order, but answers
AT_ONCE_SECONDS = 0.01  # a client that closed this soon after a statement did not hear of it
Answer = tuple[int, str, str]  # of an HTTP request: status, type and text of its body


class Player:
    """Plays one recording; `differences` collects what did not come as recorded.

    With a `tolerance` (seconds) it takes as long as the recording did, and also collects what came sooner or later.
    Without, it waits `silence` (seconds) for what should not come before a client closes its connection.
    `speed` says how many seconds of the server's clock of rates pass in one; `patience` is how many it waits for what
    should come.
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
        self._answers: deque[Answer | None] = deque()
        self._left: set[tuple[str, str]] = set()
        self._tolerance = tolerance
        self._silence = silence
        self._speed = speed
        self._patience = patience
        self._before = 0.0
        self._acted = (0.0, time.monotonic())
        self._case = ""
        self.passed_over: set[int] = set()  # the numbers that docs/devstack.md explains
        self.flooded = 0.0  # seconds of the server's clock until it was too much

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
                self._say_unread(name)
        finally:
            for connection in self._connections.values():
                await connection.end()

    async def _line(self, at: int) -> int:
        """Play a line; return where the next one is."""
        line = self.recording.lines[at]
        self._before, self.recording.elapsed = self.recording.elapsed, line["t"]
        if line["dir"] != "server":
            if self._tolerance is not None:  # in step with the recording
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

    def _differs(self, line: dict[str, Any], what: str) -> None:
        self.differences.append(f"{line['t']} {line.get('conn', '')}: {what}")

    def _say_unread(self, name: str) -> None:
        """What came and was not recorded is a difference, but for what a client that closed at once was still sent."""
        connection = self._connections[name]
        for arrival in connection.unread:
            late = connection.closing_at_once and arrival.at > (connection.closed_by_us or 0.0)
            if not late:
                self.differences.append(f"{name}: also came {arrival.message!r:.600}")
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
        """Broadcast until it is too much; how many frames are answered afterwards is a matter of time."""
        lines = self.recording.lines
        end = next(number for number in range(at, len(lines)) if lines[number].get("note", "").startswith("sent "))
        join = next(line["frame"] for line in reversed(lines[:at]) if line["dir"] == "client")
        flooding = self._connections["A"]
        about, sent, last, begun = str(topic(join)), 0, 0, time.monotonic()

        async def send() -> None:
            nonlocal sent
            sent += 1
            ref, payload = str(sent + 1), {"type": "broadcast", "event": "flood", "payload": {}}
            frame = {"topic": about, "event": "broadcast", "payload": payload, "ref": ref, "join_ref": "1"}
            v1 = isinstance(join, dict)
            await flooding.send(json.dumps(frame if v1 else ["1", ref, about, "broadcast", payload]))

        came: list[Any] = []

        async def listen() -> None:
            nonlocal last
            while not came or f'"{last}"' not in json.dumps(came[-1]):
                arrival = await flooding.take(lambda _: True, SECONDS)
                if arrival is None or isinstance(arrival.message, Close):
                    return self._differs(lines[at], f"came {arrival} in the flood")
                if event(arrival.message) != "broadcast":  # its own, which were not recorded one by one
                    if not came:
                        self.flooded = (time.monotonic() - begun) * self._speed
                        last = sent + 2
                    came.append(arrival.message)
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

        wanted = without_refs(recorded(line) for line in lines[at:end] if line["dir"] == "server")
        if wanted != without_refs(came):
            self._differs(lines[at], f"wanted {wanted}\n      came {without_refs(came)}")
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
            return await self._ask(line["http"])
        name = line["conn"]
        if "connect" in line:
            return await self._connect(name, line)
        connection = self._connections[name]
        frame = line.get("frame")
        if "close" in line:
            connection.closing_at_once = line["t"] - self._before <= AT_ONCE_SECONDS
            if not connection.closing_at_once and self._tolerance is None:
                await asyncio.sleep(self._silence)
            connection.close(line["close"]["code"])
        elif "raw" in line:
            await connection.send(self.recording.fill(line["raw"]))
        elif isinstance(frame, dict) and "raw" in frame:
            await connection.send(self.recording.fill(frame["raw"]))
        elif isinstance(frame, dict) and "b64" in frame:
            await connection.send(base64.b64decode(frame["b64"]))
        else:
            refused = event(frame) == "access_token" or "private channel" not in self._case
            await connection.send(json.dumps(self.recording.fill(frame, self._case if refused else "")))
        return None

    async def _connect(self, name: str, line: dict[str, Any]) -> None:
        if name in self._connections:
            self._say_unread(name)
            await self._connections.pop(name).end()
        url = self.recording.fill(line["connect"], "" if "private channel" in self._case else self._case)
        if "nosuch" in url:  # we have but one tenant
            self.passed_over.add(1)
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

    async def _ask(self, asked: dict[str, Any]) -> None:
        if asked["headers"].get("Host", "").startswith("nosuch"):
            self.passed_over.add(1)
            self._answers.append(None)  # we have but one tenant
            return
        body = self.recording.fill(asked["body"])
        data: Any
        if isinstance(body, dict) and "b64" in body:
            data = base64.b64decode(body["b64"])
        else:
            data = io.BytesIO(body.encode() if isinstance(body, str) else json.dumps(body).encode())
        headers = self.recording.fill({k: v for k, v in asked["headers"].items() if k != "Host"})
        url = self._url + asked["path"]
        async with self._session.request(asked["method"], url, headers=headers, data=data) as answer:
            type_ = answer.headers.get("content-type", "") if answer.content_length else ""
            self._answers.append((answer.status, type_, await answer.text()))

    async def _server(self, line: dict[str, Any]) -> None:
        if "http" in line:
            return self._answered(line)
        name, wanted = line["conn"], recorded(line)
        if isinstance(wanted, str) and "%{error" in wanted:
            self.passed_over.add(2)
            return None  # the hosted server sent what is no JSON; ours sends nothing
        about = topic(wanted)
        seconds = self._patience if self._tolerance is None else self._patience + line["t"] - self._before
        late = event(wanted) == "presence_diff" and (name, str(about)) in self._left
        if late:
            self.passed_over.add(4)
            seconds = self._silence  # it overtook the end of its channel; by chance, on the hosted server too
        arrival = await self._connections[name].take(lambda message: topic(message) == about, seconds)
        if event(wanted) == "phx_close":
            self._left.add((name, str(about)))
        elif event(wanted) == "phx_reply":
            self._left.discard((name, str(about)))
        if arrival is None:
            if not late:
                self._differs(
                    line, f"wanted {wanted!r:.900}\n      came nothing; unread {self._connections[name].unread!r:.600}"
                )
            return None
        self._compare(line, wanted, arrival)
        return self._compare_times(line, arrival)

    def _answered(self, line: dict[str, Any]) -> None:
        """Compare the answer to a handshake or another HTTP request."""
        wanted = line["http"]
        type_ = wanted.get("headers", {}).get("content-type", "")
        if "conn" in line:
            refusal = self._handshakes.pop(line["conn"])
            got: Any = (refusal.status, refusal.body) if refusal else (101, "")
            if got != (wanted["status"], wanted.get("body") or ""):
                self._differs(line, f"handshake {got} instead of {wanted}")
            return
        answer = self._answers.popleft()
        if answer is not None and answer != (wanted["status"], type_, wanted.get("body") or ""):
            self._differs(line, f"http {answer} instead of {wanted}")

    def _compare(self, line: dict[str, Any], wanted: Any, arrival: Arrival) -> None:
        texts = [names.text(one) for names, one in zip(self._names, (wanted, arrival.message), strict=True)]
        if texts[0] != texts[1]:
            self._differs(line, f"wanted {texts[0]:.900}\n      came {texts[1]:.900}")
        matched = self._matched.setdefault(line["conn"], [])
        for recorded_at, earlier in matched:
            answers = "phx_reply" in (event(earlier.message), event(arrival.message))
            if earlier.at > arrival.at and (answers or line["t"] - recorded_at > RACE_SECONDS):
                self._differs(line, f"came before {earlier.message!r:.300}: {texts[1]:.300}")
        matched.append((line["t"], arrival))

    def _compare_times(self, line: dict[str, Any], arrival: Arrival) -> None:
        if self._tolerance is None:
            return
        recorded_after, after = line["t"] - self._acted[0], arrival.at - self._acted[1]
        tolerance, text = self._tolerance, str(arrival.message)
        if "Subscribed to PostgreSQL" in text:  # after 0 to 3 s, by chance
            tolerance = 3.0
        elif "expired" in text or "phx_close" in text:  # tokens count in whole seconds
            tolerance += 1.0
        if abs(recorded_after - after) > tolerance:
            self._differs(line, f"after {after:.2f} s, recorded {recorded_after:.2f} s: {text:.200}")
