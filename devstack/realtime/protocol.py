"""Realtime's Phoenix channel protocol, serializers 1.0.0 and 2.0.0. Pure, no I/O.

With 1.0.0, each frame is a JSON object. With 2.0.0, each frame is a JSON array or binary: kinds 0 (push) and 3
(broadcast push) from the client, 2 (broadcast) and 4 (user broadcast) from the server. The formats are those of
Realtime v2.129.8, as recorded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

Ref = Any  # usually a string, but any JSON value is echoed
MAX_FRAME_BYTES = 5_000_000
MAX_PAYLOAD_BYTES = 3_000_000


class Vsn(Enum):
    """A version of the serializer."""

    V1 = "1.0.0"
    V2 = "2.0.0"

    @classmethod
    def parse(cls, text: str | None) -> Vsn | None:
        """Return the requested serializer, 1.0.0 by default, or None if it is unknown."""
        if text is None:
            return cls.V1
        major, _, rest = text.partition(".")
        minor, _, patch = rest.partition(".")
        if minor != "0" or not patch.isdigit():
            return None
        return {"1": cls.V1, "2": cls.V2}.get(major)


class MalformedFrame(Exception):
    """A frame that is not a message; it is ignored."""


@dataclass(frozen=True, slots=True)
class UserBroadcast:
    """A broadcast whose payload is forwarded unparsed. `body` is JSON text if `is_json`, otherwise binary."""

    event: str
    body: bytes
    is_json: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a client. `payload` is a JSON value, or a UserBroadcast or bytes from a binary frame."""

    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: Any


def dump(value: Any) -> str:
    """Return `value` as compact JSON. Raises ValueError if it contains NaN or an infinity."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def load(text: str | bytes) -> Any:
    """Parse JSON text. Raises MalformedFrame on invalid JSON, NaN, infinities and lone surrogates."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if "\\u" in text if isinstance(text, str) else b"\\u" in text:
            dump(value).encode()  # raises on lone surrogates
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(str(error)) from error
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid JSON")


def decode_text(vsn: Vsn, text: str) -> Message:
    """Decode a text frame. Raises MalformedFrame."""
    value = load(text)
    if vsn is Vsn.V1:
        if not isinstance(value, dict) or not {"topic", "event", "payload", "ref"} <= value.keys():
            raise MalformedFrame("not an object with topic, event, payload and ref")
        message = Message(value.get("join_ref"), value["ref"], value["topic"], value["event"], value["payload"])
    else:
        if not isinstance(value, list) or len(value) != 5:
            raise MalformedFrame("not an array of five items")
        message = Message(*value)
    if not isinstance(message.topic, str) or not isinstance(message.event, str):
        raise MalformedFrame("topic and event must be strings")
    return message


def decode_binary(vsn: Vsn, data: bytes) -> Message:
    """Decode a binary frame. Raises MalformedFrame."""
    if vsn is Vsn.V1 or not data:
        raise MalformedFrame("an empty binary frame, or one for a serializer that has none")
    try:
        match data[0]:
            case 0:
                (join_ref, ref, topic, event), body = _fields(data, 4)
                return Message(join_ref, ref, topic, event, body)
            case 3:
                (join_ref, ref, topic, event, _), body = _fields(data, 5, gap=1)
                return Message(join_ref, ref, topic, "broadcast", UserBroadcast(event, body, is_json=data[6] == 1))
    except (IndexError, UnicodeDecodeError) as error:
        raise MalformedFrame("a truncated binary frame") from error
    raise MalformedFrame(f"unknown kind {data[0]}")


def _fields(data: bytes, count: int, *, gap: int = 0) -> tuple[list[str], bytes]:
    """Return `count` fields and the rest of the frame. Layout: kind, field lengths, `gap` bytes, fields, rest."""
    at = 1 + count + gap
    if len(data) < at:
        raise IndexError(at)
    fields: list[str] = []
    for length in data[1 : 1 + count]:
        if at + length > len(data):
            raise IndexError(at)
        fields.append(data[at : at + length].decode())
        at += length
    return fields, data[at:]


def push(vsn: Vsn, topic: str, event: str, payload: str, *, join_ref: Ref = None, ref: Ref = None) -> bytes:
    """Return the WebSocket frame of a message to a client. `payload` is JSON text."""
    return text_frame(envelope(vsn, topic, event, payload, join_ref=join_ref, ref=ref))


def envelope(vsn: Vsn, topic: str, event: str, payload: str, *, join_ref: Ref = None, ref: Ref = None) -> str:
    """Return the JSON text of a message to a client. `payload` is JSON text."""
    if vsn is Vsn.V1:
        return f'{{"ref":{dump(ref)},"event":{dump(event)},"payload":{payload},"topic":{dump(topic)}}}'
    return f"[{dump(join_ref)},{dump(ref)},{dump(topic)},{dump(event)},{payload}]"


def reply(vsn: Vsn, topic: str, ref: Ref, join_ref: Ref, status: str, response: Any) -> bytes:
    """Return the WebSocket frame of a `phx_reply`."""
    payload = dump({"status": status, "response": response})
    return push(vsn, topic, "phx_reply", payload, join_ref=join_ref, ref=ref)


class Fanout:
    """A message for many sockets, encoded at most once per serializer."""

    __slots__ = ("_encode", "_frames")

    def __init__(self, encode: Callable[[Vsn], bytes | None]) -> None:
        self._encode = encode
        self._frames: dict[Vsn, bytes | None] = {}

    def frame(self, vsn: Vsn) -> bytes | None:
        """Return the WebSocket frame, or None if this serializer cannot represent the message."""
        if vsn not in self._frames:
            self._frames[vsn] = self._encode(vsn)
        return self._frames[vsn]


def event_fanout(topic: str, event: str, payload: str) -> Fanout:
    """Return an event for all channels of a topic. `payload` is JSON text."""
    return Fanout(lambda vsn: push(vsn, topic, event, payload))


def user_broadcast_fanout(topic: str, broadcast: UserBroadcast, meta: Mapping[str, Any] | None) -> Fanout:
    """Return a broadcast with its payload unparsed: embedded in the JSON for 1.0.0, a binary frame for 2.0.0."""

    def encode(vsn: Vsn) -> bytes | None:
        meta_text = dump(meta) if meta else ""
        if vsn is Vsn.V2:
            parts = [topic.encode(), broadcast.event.encode(), meta_text.encode()]
            if all(len(part) <= 255 for part in parts):
                header = bytes([4, *(len(part) for part in parts), broadcast.is_json])
                return binary_frame(header + b"".join(parts) + broadcast.body)
        if not broadcast.is_json:
            return None
        body = broadcast.body.decode(errors="replace")
        between = f'"meta":{meta_text},' if meta else ""
        payload = f'{{"event":{dump(broadcast.event)},{between}"payload":{body},"type":"broadcast"}}'
        return push(vsn, topic, "broadcast", payload)

    return Fanout(encode)


def raw_broadcast_fanout(topic: str, data: bytes) -> Fanout:
    """Return a broadcast received as a plain binary push (kind 0), which 1.0.0 cannot represent."""

    def encode(vsn: Vsn) -> bytes | None:
        name = topic.encode()
        if vsn is Vsn.V1 or len(name) > 255:
            return None
        return binary_frame(bytes([2, len(name), len(b"broadcast")]) + name + b"broadcast" + data)

    return Fanout(encode)


def text_frame(text: str) -> bytes:
    """Return `text` as an unmasked, final WebSocket text frame (RFC 6455, 5.2)."""
    return _frame(0x81, text.encode(errors="replace"))


def binary_frame(data: bytes) -> bytes:
    """Return `data` as an unmasked, final WebSocket binary frame."""
    return _frame(0x82, data)


def _frame(first: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65_536:
        return struct.pack(">BBH", first, 126, size) + data
    return struct.pack(">BBQ", first, 127, size) + data
