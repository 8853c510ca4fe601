"""Plays a recording of the hosted server against ours: sends what the client sent, compares what comes back.

What cannot be equal is made equal first: tokens, generated ids, numbers of bindings, times.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import socket
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import aiohttp
import psycopg

from tests.devstack.realtime.recording import (
    Bindings,
    Recording,
    binary,
    eval_list,
    normal,
    shape,
    topic,
    wanted_event,
)

SECONDS = 8.0


class Player:
    """Plays one recording; `differences` collects what did not come as recorded.

    With a `tolerance` (seconds) it takes as long as the recording did, and also collects what came sooner or later.
    `speed` says how many seconds of the server's clock of rates pass in one.
    """

    def __init__(
        self,
        recording: Recording,
        url: str,
        session: aiohttp.ClientSession,
        dsn: str,
        *,
        tolerance: float | None = None,
        speed: float = 1.0,
    ) -> None:
        self.recording = recording
        self.differences: list[str] = []
        self._url = url
        self._session = session
        self._dsn = dsn
        self._sockets: dict[str, aiohttp.ClientWebSocketResponse] = {}
        self._expected: dict[str, deque[Any]] = defaultdict(deque)
        self._refused: dict[str, Any] = {}
        self._bindings = (Bindings(), Bindings())
        self._answers: deque[Any] = deque()
        self._left: set[tuple[str, str]] = set()
        self._tolerance = tolerance
        self._speed = speed
        self._before = 0.0
        self._acted = (0.0, time.monotonic())
        self.flooded = 0.0  # seconds of the server's clock until it was too much

    async def play(self) -> None:
        lines = self.recording.lines
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as self._database:
            at = 0
            while at < len(lines):
                line = lines[at]
                if "close" in line and line["dir"] == "client" and self._more(at):
                    # The client closed while the server stood still, and still received what follows.
                    lines[at], lines[at + 1] = lines[at + 1], lines[at]
                    continue
                self._before, self.recording.elapsed = self.recording.elapsed, line["t"]
                if line["dir"] != "server":
                    if self._tolerance is not None:  # in step with the recording
                        await asyncio.sleep(max(0.0, line["t"] - self._before))
                    self._acted = (max(line["t"], self._before), time.monotonic())
                if line["dir"] == "note":
                    at = await self._note(at)
                    continue
                if line["dir"] == "client":
                    await self._client(line)
                else:
                    await self._server(line)
                at += 1
        for name, opened in self._sockets.items():
            if not opened.closed:
                extra = await self._next(name, 0.05)
                if extra is not None:
                    self.differences.append(f"{name}: also came {extra!r:.600}")
                await opened.close()

    def _more(self, at: int) -> bool:
        following = self.recording.lines[at + 1 :]
        return (
            bool(following)
            and following[0].get("conn") == self.recording.lines[at]["conn"]
            and ("frame" in following[0])
        )

    _case = ""

    async def _note(self, at: int) -> int:
        lines = self.recording.lines
        line = lines[at]
        if "sql" not in line:
            self._case = line["note"]
            if self._case == "B drops its socket":
                transport = self._sockets["B"].get_extra_info("socket")
                transport.shutdown(socket.SHUT_RDWR)
            elif self._case == "websocket PING control frame":
                await self._sockets["A"].ping()
                answer = await self._sockets["A"].receive(SECONDS)
                if answer.type is not aiohttp.WSMsgType.PONG:
                    self.differences.append(f"A: {answer!r} for a PING")
            elif self._case.startswith("300 broadcasts/s"):
                return await self._flood(at)
            return at + 1
        group = [line]
        transaction = "transaction" in self._case
        while transaction and at + len(group) < len(lines) and "sql" in lines[at + len(group)]:
            group.append(lines[at + len(group)])
        following = lines[at + len(group)] if at + len(group) < len(lines) else {}
        rollback = following.get("note") == "rollback"
        if rollback and len(group) > 1 and len(group) != 1:
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
        flooding = self._sockets["A"]
        v1 = isinstance(join, dict)
        about, sent, last, begun = topic(join), 0, 0, time.monotonic()

        async def send() -> None:
            nonlocal sent
            sent += 1
            ref, payload = str(sent + 1), {"type": "broadcast", "event": "flood", "payload": {}}
            frame = {"topic": about, "event": "broadcast", "payload": payload, "ref": ref, "join_ref": "1"}
            await flooding.send_str(json.dumps(frame if v1 else ["1", ref, about, "broadcast", payload]))

        came: list[Any] = []

        async def listen() -> None:
            nonlocal last
            while not came or f'"{last}"' not in json.dumps(came[-1]):
                message = await self._next("A", SECONDS)
                if wanted_event(message) != "broadcast":
                    if not came:
                        self.flooded = (time.monotonic() - begun) * self._speed
                        last = sent + 2
                    came.append(message)

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(SECONDS * 4):
            while sent + 1 != last and not listening.done():
                await send()
                await asyncio.sleep(max(0.0, begun + sent / (300 * self._speed) - time.monotonic()))
            await listening

        def without_refs(messages: Iterable[Any]) -> list[str]:
            texts = [re.sub(r'"\d{1,4}"', '"<ref>"', json.dumps(message)) for message in messages]
            return list(dict.fromkeys(texts))

        wanted = without_refs(shape(line) for line in lines[at:end] if line["dir"] == "server")
        if wanted != without_refs(came):
            self.differences.append(f"{lines[at]['t']} A: wanted {wanted}\n      came {without_refs(came)}")
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

    async def _client(self, line: dict[str, Any]) -> None:
        name = line.get("conn", "")
        if "connect" in line:
            url = self.recording.fill(line["connect"], "" if "private channel" in self._case else self._case)
            _, _, query = url.partition("?")
            path = "websocket" if "/websocket" in url else ""
            if "nosuch" in url:  # we have but one tenant
                self._refused[name] = 404
                return
            try:
                opened = await self._session.ws_connect(
                    f"{self._url}/{path}?{query}",
                    headers=self.recording.fill(line.get("headers", {})),
                    max_msg_size=0,
                    autoping=False,
                )
            except aiohttp.WSServerHandshakeError as error:
                self._refused[name] = error.status
            else:
                self._sockets[name] = opened
        elif "http" in line:
            asked = line["http"]
            if asked["headers"].get("Host", "").startswith("nosuch"):
                self._answers.append(None)  # we have but one tenant
                return
            body = self.recording.fill(asked["body"])
            data: Any
            if isinstance(body, dict) and "b64" in body:
                data = base64.b64decode(body["b64"])
            else:
                data = io.BytesIO(body.encode() if isinstance(body, str) else json.dumps(body).encode())
            headers = self.recording.fill({k: v for k, v in asked["headers"].items() if k != "Host"})
            async with self._session.request(
                asked["method"], self._url + asked["path"], headers=headers, data=data
            ) as answer:
                self._answers.append((answer.status, await answer.text()))
        elif "close" in line:
            if line["t"] - self._before > 0.01:  # otherwise what was caused just before may come, or not
                await self._flush(name)
            await self._sockets[name].close(code=line["close"]["code"])
            self._expected[name].append(("close", line["close"]["code"]))
        elif "raw" in line or "raw" in (line.get("frame") or {}):
            raw = line["raw"] if "raw" in line else line["frame"]["raw"]
            with contextlib.suppress(ConnectionError):  # too large a frame is cut off
                await self._sockets[name].send_str(self.recording.fill(raw))
        elif "b64" in (line.get("frame") or {}):
            await self._sockets[name].send_bytes(base64.b64decode(line["frame"]["b64"]))
        elif "frame" in line:
            frame = line["frame"]
            event = frame["event"] if isinstance(frame, dict) else frame[3]
            refused = event == "access_token" or "private channel" not in self._case
            filled = self.recording.fill(frame, self._case if refused else "")
            await self._sockets[name].send_str(json.dumps(filled))

    async def _flush(self, name: str) -> None:
        extra = await self._next(name, 0.05)
        while extra is not None:
            if isinstance(extra, tuple) and extra[0] == "close":
                self._expected[name].append(extra)
                return
            self.differences.append(f"{name}: also came {extra!r:.600}")
            extra = await self._next(name, 0.05)

    async def _server(self, line: dict[str, Any]) -> None:
        name = line.get("conn", "")
        wanted = shape(line)
        if (
            isinstance(wanted, str) and "%{error" in wanted
        ):  # the hosted server sent what is no JSON; ours sends nothing
            return
        if "http" in line and name:
            status = line["http"]["status"]
            got = self._refused.pop(name, 101)
            if status != got:
                self.differences.append(f"{name}: status {got} instead of {status}")
            return
        if "http" in line:
            answer = self._answers.popleft()
            if answer is None:
                return
            status, body = answer
            if (status, body) != (line["http"]["status"], line["http"].get("body") or ""):
                self.differences.append(f"http {status} {body} instead of {line['http']}")
            return
        event, about = wanted_event(wanted), topic(wanted)
        if about is not None:
            if (name, about) in self._left and event == "presence_diff":
                return  # what overtook the end of a channel, now and then
            if event == "phx_close":
                self._left.add((name, about))
            elif event == "phx_reply":
                self._left.discard((name, about))
        seconds = SECONDS if self._tolerance is None else SECONDS + line["t"] - self._before
        came = await self._awaited(name, about, seconds)
        if self._tolerance is not None and came is not None:
            recorded, taken = line["t"] - self._acted[0], time.monotonic() - self._acted[1]
            tolerance = self._tolerance
            if "Subscribed to PostgreSQL" in str(came):  # after 0 to 3 s, by chance
                tolerance = 3.0
            elif "expired" in str(came) or "phx_close" in str(came):  # tokens count in whole seconds
                tolerance += 1.0
            if abs(recorded - taken) > tolerance:
                self.differences.append(
                    f"{line['t']} {name}: after {taken:.2f} s, recorded {recorded:.2f} s: {came!r:.200}"
                )
        wanted, came = self._bindings[0].rename(wanted), self._bindings[1].rename(came)
        if wanted != came and not (
            isinstance(wanted, tuple)
            and isinstance(came, tuple)
            and wanted[0] == came[0] == "close"
            and wanted[1] is None
        ):
            self.differences.append(f"{line['t']} {name}: wanted {wanted!r:.900}\n      came {came!r:.900}")

    async def _awaited(self, name: str, wanted: str | None, seconds: float) -> Any:
        """Return the next message on a topic; the order between topics differs from one run to the next."""
        waiting = self._expected[name]
        for message in waiting:
            if topic(message) == wanted:
                waiting.remove(message)
                return message
        while True:
            message = await self._next(name, seconds)
            if message is None or topic(message) == wanted:
                return message
            waiting.append(message)
            if topic(message) is None:
                return None

    async def _next(self, name: str, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                received = await self._sockets[name].receive()
        except TimeoutError:
            return None
        if received.type is aiohttp.WSMsgType.TEXT:
            try:
                return normal(json.loads(received.data))
            except ValueError:
                return received.data
        if received.type is aiohttp.WSMsgType.BINARY:
            return binary(received.data)
        return ("close", self._sockets[name].close_code)
