"""Recordings of the hosted server: reads them, and normalises messages so that two runs can be compared."""

from __future__ import annotations

import ast
import base64
import json
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from tests.integration.devstack.realtime.service import SECRET

TOKEN = re.compile(r"<jwt role=(\S+) sub=(\S+) exp=(\S+)>")
ELIDED = re.compile(r"<elided (?:string of )?(\d+) chars(?:, starts '(.*)')?>")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1457][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00|\+00)?")
PHX_REF = re.compile(r"[\w-]{16}")
STARTS = 40  # characters of an elided string that recordings keep
CHOSEN = re.compile(r"^(.)\1{7}-0000-4000-8000-0{11}.$|^(.)\2{7}-")


class Recording:
    """The lines of a recording. `fill` replaces the placeholders in them."""

    def __init__(self, path: Path) -> None:
        self.lines = [_whole(json.loads(line)) for line in path.read_text().splitlines()]
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
        # Swap a frame that was recorded before the statement that caused it.
        for at in range(len(self.lines) - 1):
            line, following = self.lines[at : at + 2]
            if line["dir"] == "server" and "sql" in following and following["t"] - line["t"] < 0.002:
                self.lines[at : at + 2] = [following, line]

    def fill(self, value: Any, case: str = "") -> Any:
        """Replace the placeholders of tokens and long strings."""
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


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection. `code` is None if there was no close frame."""

    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A decoded binary frame from the server. `meta` and `encoding` are None for kinds without them."""

    kind: int
    topic: str
    event: str
    meta: str | None
    encoding: int | None
    payload: bytes

    @classmethod
    def read(cls, data: bytes) -> Binary:
        """Decode a frame. Raises ValueError if its kind is unknown."""
        lengths = {2: 2, 4: 3}.get(data[0])
        if lengths is None:
            raise ValueError(f"unknown kind of binary frame: {data[0]}")
        at = 1 + lengths + (data[0] == 4)
        texts: list[str] = []
        for length in data[1 : 1 + lengths]:
            texts.append(data[at : at + length].decode())
            at += length
        topic, event, *meta = texts
        return cls(data[0], topic, event, meta[0] if meta else None, data[4] if meta else None, data[at:])


def message(data: str | bytes) -> Any:
    """Decode a frame from the server: a JSON value, text that is not JSON, or a Binary."""
    if isinstance(data, bytes):
        return Binary.read(data)
    try:
        return json.loads(data)
    except ValueError:
        return data


def recorded(line: dict[str, Any]) -> Any:
    """Decode a recorded server line: like `message`, or a Close."""
    if "close" in line:
        code = line["close"]["code"]
        return Close(code, line["close"]["reason"] if code is not None else "")
    frame = line["frame"]
    if isinstance(frame, dict) and "b64" in frame:
        return Binary.read(base64.b64decode(frame["b64"]))
    return frame


def event(message: Any) -> str | None:
    """Return the event of a message, or None if it has none."""
    if isinstance(message, dict):
        return str(message["event"])
    return str(message[3]) if isinstance(message, list) else None


def ref(message: Any) -> Any:
    """Return the ref of a message, or None if it has none."""
    if isinstance(message, dict):
        return message.get("ref")
    return message[1] if isinstance(message, list) else None


def topic(message: Any) -> str | None:
    """Return the topic of a message, "no JSON" for other text, or None for a close."""
    if isinstance(message, dict):
        return str(message["topic"])
    if isinstance(message, list):
        return str(message[2])
    if isinstance(message, Binary):
        return message.topic
    return "no JSON" if isinstance(message, str) else None


class Names:
    """Replaces values that differ between runs with names, numbered in order of appearance.

    Two runs are equal only if the values recur in the same places. Generated ids are named: UUIDs, the ids of rows and
    bindings, and `phx_ref`. For timestamps, only the format is kept.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def text(self, message: Any) -> str:
        """Return a message as comparable text. Types matter; the order of an object's fields does not."""
        if isinstance(message, Binary):
            texts = (message.topic, message.event, message.meta or "", message.payload.decode("latin-1"))
            return f"binary {message.kind} {message.encoding} {[self._uuids(text) for text in texts]}"
        if isinstance(message, Close):
            return f"close {message.code} {message.reason!r}"
        return json.dumps(self._rename(message, ""), sort_keys=True, ensure_ascii=False)

    def _name(self, kind: str, value: object) -> str:
        number = len([None for known, _ in self._names if known == kind])
        return self._names.setdefault((kind, str(value)), f"<{kind} {number}>")

    def _rename(self, value: Any, parent: str) -> Any:
        if isinstance(value, str):
            return self._string(value, parent)
        if isinstance(value, list):
            if parent == "ids":
                return [self._name("binding", number) for number in value]
            return [self._rename(item, parent) for item in value]
        if not isinstance(value, dict):
            return value
        renamed: dict[str, Any] = {}
        for name, item in sorted(value.items(), key=lambda entry: self._place(entry[0])):
            key = self._string(name, "")
            if name == "id" and type(item) is int and parent in ("postgres_changes", "record", "old_record"):
                renamed[key] = self._name("binding" if parent == "postgres_changes" else "row", item)
            else:
                renamed[key] = self._rename(item, name)
        return renamed

    def _place(self, name: str) -> str:
        """Return the sort key of a field, whose name may itself be a generated id."""
        return self._names.get(("uuid", name), UUID.sub("~", name))

    def _string(self, value: str, parent: str) -> str:
        if parent in ("phx_ref", "phx_ref_prev"):
            assert PHX_REF.fullmatch(value), value
            return self._name("ref", value)
        elided = ELIDED.fullmatch(value)
        if elided:
            return f"<{elided[1]} chars, starts {elided[2]}>"
        if len(value) > 2000:
            return f"<{len(value)} chars, starts {value[:STARTS]}>"
        value = re.sub(r"expired \d+ seconds", "expired <n> seconds", self._uuids(value))
        if STAMP.fullmatch(value) and not value.startswith("2026-01"):
            return re.sub(r"\d", "9", re.sub(r"\.\d{4,}", ".<microseconds>", value))
        return value

    def _uuids(self, value: str) -> str:
        return UUID.sub(lambda found: found[0] if CHOSEN.match(found[0]) else self._name("uuid", found[0]), value)


def _whole(line: dict[str, Any]) -> dict[str, Any]:
    """Restore the repeated part of a long binary frame, which recordings omit."""
    frame = line.get("frame")
    if isinstance(frame, dict) and "then" in frame:
        text, times = frame["then"]
        data = base64.b64decode(frame["b64"]) + text.encode() * times + base64.b64decode(frame["b64_end"])
        return line | {"frame": {"b64": base64.b64encode(data).decode()}}
    return line


def eval_list(text: str) -> list[Any]:
    """Parse a list in Python notation."""
    value = ast.literal_eval(text)
    assert isinstance(value, list)
    return value
