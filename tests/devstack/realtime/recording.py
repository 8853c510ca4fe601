"""A recording of the hosted server: its lines, and what of them can be equal in another run."""

from __future__ import annotations

import ast
import base64
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import jwt

from tests.devstack.realtime.service import SECRET

TOKEN = re.compile(r"<jwt role=(\S+) sub=(\S+) exp=(\S+)>")
ELIDED = re.compile(r"<elided (?:string of )?(\d+) chars(?:, starts '(.*)')?>")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1457][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00|\+00)?")
CHOSEN = re.compile(r"^(.)\1{7}-0000-4000-8000-0{11}.$|^(.)\2{7}-")


class Recording:
    """The lines of one recording, and the token of each mark in them."""

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
            return binary(base64.b64decode(frame["b64"]))
        return normal(frame)
    if "close" in line:
        return ("close", line["close"]["code"])
    return ("http", line["http"]["status"], line["http"].get("body"))


def _whole(line: dict[str, Any]) -> dict[str, Any]:
    """Put the repeated part of a long binary frame back, which recordings leave out."""
    frame = line.get("frame")
    if isinstance(frame, dict) and "then" in frame:
        text, times = frame["then"]
        data = base64.b64decode(frame["b64"]) + text.encode() * times + base64.b64decode(frame["b64_end"])
        return line | {"frame": {"b64": base64.b64encode(data).decode()}}
    return line


def binary(data: bytes) -> Any:
    text = UUID.sub("<uuid>", data.decode("latin-1"))
    return ("binary", re.sub(r"(.)\1{999,}", lambda run: f"<{len(run[0])} times {run[1]}>", text))


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


def eval_list(text: str) -> list[Any]:
    """Read a list in Python's notation."""
    value = ast.literal_eval(text)
    assert isinstance(value, list)
    return value
