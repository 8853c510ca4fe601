"""Plays a recording of the hosted server against ours: sends what the client sent, compares what comes back.

What cannot be equal is made equal first: tokens, generated ids, numbers of bindings, times.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import io
import json
import re
import socket
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import psycopg

from tests.devstack.realtime.service import SECRET

TOKEN = re.compile(r"<jwt role=(\S+) sub=(\S+) exp=(\S+)>")
ELIDED = re.compile(r"<elided (?:string of )?(\d+) chars(?:, starts '(.*)')?>")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1457][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00|\+00)?")
CHOSEN = re.compile(r"^(.)\1{7}-0000-4000-8000-0{11}.$|^(.)\2{7}-")
SECONDS = 8.0


class Recording:
    """The lines of one recording, and the token of each mark in them."""

    def __init__(self, path: Path) -> None:
        self.lines = [json.loads(line) for line in path.read_text().splitlines()]
        starts = [
            int(exp) - 3600 - line["t"]
            for line in self.lines
            if line["dir"] == "client"
            for _, _, exp in TOKEN.findall(json.dumps(line))
            if exp.isdigit() and int(exp) < 2_000_000_000
        ]
        commonest = statistics.mode(round(start / 60) for start in starts) if starts else 0
        self.start = next((start for start in starts if round(start / 60) == commonest), 0.0)
        self.elapsed = 0.0
        # A frame that overtook the note of the statement that caused it.
        for at in range(len(self.lines) - 1):
            line, following = self.lines[at : at + 2]
            if line["dir"] == "server" and "sql" in following and following["t"] - line["t"] < 0.002:
                self.lines[at : at + 2] = [following, line]

    def fill(self, value: Any, case: str = "") -> Any:
        """Put tokens and long strings in the place of their marks."""
        if isinstance(value, str):
            value = TOKEN.sub(lambda found: self._token(*found.groups(), case=case), value)
            elided = ELIDED.fullmatch(value)
            if elided:
                sample = elided[2] or "x"
                return (sample * (int(elided[1]) // len(sample) + 1))[: int(elided[1])]
            return value
        if isinstance(value, list):
            return [self.fill(item, case) for item in value]
        if isinstance(value, dict):
            return {name: self.fill(item, case) for name, item in value.items()}
        return value

    def _token(self, role: str, sub: str, exp: str, *, case: str) -> str:
        claims: dict[str, Any] = {}
        if role != "None":
            claims["role"] = role
        if sub != "None":
            claims["sub"] = sub
        if exp != "None":
            claims["exp"] = int(int(exp) - self.start + time.time() - self.elapsed)
        if "alg_none" in case:
            return jwt.encode(claims, "", algorithm="none")
        wrong = "wrong signature" in case or "wrong_signature" in case
        return jwt.encode(claims, SECRET + ("x" if wrong else ""), algorithm="HS256")


def normal(value: Any) -> Any:
    """Make equal what differs from one run to the next."""
    if isinstance(value, str):
        elided = ELIDED.fullmatch(value)
        if elided:
            return f"<{elided[1]} chars>"
        if len(value) > 2000:
            return f"<{len(value)} chars>"
        value = UUID.sub(lambda found: found[0] if CHOSEN.match(found[0]) else "<uuid>", value)
        value = re.sub(r"expired \d+ seconds", "expired <n> seconds", value)
        if STAMP.fullmatch(value) and not value.startswith("2026-01"):
            return "<time>"
        return value
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, item in value.items():
            if name in ("phx_ref", "phx_ref_prev"):
                item = "<ref>"
            if name in ("record", "old_record") and isinstance(item, dict) and isinstance(item.get("id"), int):
                item = item | {"id": "<n>"}
            made[normal(name) if UUID.fullmatch(name) else name] = normal(item)
        return made
    if isinstance(value, float):
        return float(value)
    return value


def shape(line: dict[str, Any]) -> Any:
    """Return what a recorded server line says, made equal."""
    if "frame" in line:
        frame = line["frame"]
        if isinstance(frame, dict) and "b64" in frame:
            return binary(base64.b64decode(frame["b64"])) if len(frame["b64"]) % 4 == 0 else ("binary", "?")
        return normal(frame)
    if "close" in line:
        return ("close", line["close"]["code"])
    return ("http", line["http"]["status"], line["http"].get("body"))


def binary(data: bytes) -> Any:
    text = UUID.sub("<uuid>", data.decode("latin-1"))
    return ("binary", text if len(text) < 2000 else text[:80])


def wanted_event(message: Any) -> str | None:
    """Return the event of a message, None if it is binary or a close."""
    if isinstance(message, dict):
        return str(message["event"])
    return str(message[3]) if isinstance(message, list) else None


def topic(message: Any) -> str | None:
    """Return the topic of a message, None if it is a close."""
    if isinstance(message, dict):
        return str(message["topic"])
    if isinstance(message, str):
        return "no JSON"
    if isinstance(message, list):
        return str(message[2])
    if isinstance(message, tuple) and message[0] == "binary":
        found = re.search(
            r"realtime:(room:\w+?|bc:<uuid>|bc:c{8}[-0-9c]{28}|tr09pub)(?=evt|bin|tx|arr|direct|big|js|single|INS|UPD|DEL|e\d?|pubevt|broadcast)",
            message[1],
        )
        return found[0] if found else "?"
    return None


class Bindings:
    """Numbers of bindings are opaque: names them in the order they appear."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def rename(self, value: Any, parent: str = "") -> Any:
        if isinstance(value, dict):
            return {
                name: self._name(item)
                if name == "id" and isinstance(item, int) and parent == "postgres_changes"
                else [self._name(number) for number in item]
                if name == "ids"
                else self.rename(item, name)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.rename(item, parent) for item in value]
        return value

    def _name(self, number: int) -> str:
        return self._names.setdefault(number, f"binding {len(self._names)}")


class Player:
    """Plays one recording; `differences` collects what did not come as recorded."""

    def __init__(self, recording: Recording, url: str, session: aiohttp.ClientSession, dsn: str) -> None:
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

    async def play(self) -> None:
        lines = self.recording.lines
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as self._database:
            at = 0
            while at < len(lines):
                line = lines[at]
                self.recording.elapsed = line["t"]
                if line["dir"] == "note":
                    at = await self._note(at)
                    continue
                if "close" in line and line["dir"] == "client" and self._more(at):
                    # The client closed while the server stood still, and still received what follows.
                    lines[at], lines[at + 1] = lines[at + 1], lines[at]
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
        came = await self._awaited(name, about)
        wanted, came = self._bindings[0].rename(wanted), self._bindings[1].rename(came)
        if wanted != came and not (
            isinstance(wanted, tuple)
            and isinstance(came, tuple)
            and wanted[0] == came[0] == "close"
            and wanted[1] is None
        ):
            self.differences.append(f"{line['t']} {name}: wanted {wanted!r:.900}\n      came {came!r:.900}")

    async def _awaited(self, name: str, wanted: str | None) -> Any:
        """Return the next message on a topic; the order between topics differs from one run to the next."""
        waiting = self._expected[name]
        for message in waiting:
            if topic(message) == wanted:
                waiting.remove(message)
                return message
        while True:
            message = await self._next(name, SECONDS)
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


def eval_list(text: str) -> list[Any]:
    """Read a list in Python's notation."""
    value = ast.literal_eval(text)
    assert isinstance(value, list)
    return value
