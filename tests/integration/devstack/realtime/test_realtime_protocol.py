"""Encoding and decoding frames."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.realtime.protocol import (
    MalformedFrame,
    UserBroadcast,
    Vsn,
    binary_frame,
    decode_binary,
    decode_text,
    event_fanout,
    push,
    raw_broadcast_fanout,
    reply,
    text_frame,
    user_broadcast_fanout,
)


def opened(frame: bytes | None) -> tuple[int, bytes]:
    """Return the opcode and payload of a WebSocket frame."""
    assert frame is not None
    assert frame[0] & 0x80  # final
    size, at = frame[1], 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size, at = int.from_bytes(frame[2 : 2 + width], "big"), 2 + width
    assert len(frame) == at + size
    return frame[0] & 0x0F, frame[at:]


def text_of(frame: bytes | None) -> Any:
    opcode, data = opened(frame)
    assert opcode == 1
    return json.loads(data)


@pytest.mark.parametrize(
    ("text", "vsn"),
    [
        (None, Vsn.V1),
        ("1.0.0", Vsn.V1),
        ("2.0.0", Vsn.V2),
        ("2.0.7", Vsn.V2),
        ("9.0.0", None),
        ("", None),
        ("2.1.0", None),
    ],
)
def test_vsn_selects_serializer(text: str | None, vsn: Vsn | None) -> None:
    assert Vsn.parse(text) is vsn


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
def test_frame_header_encodes_length(size: int) -> None:
    assert opened(binary_frame(b"x" * size)) == (2, b"x" * size)


def test_serializers_encode_envelope() -> None:
    assert text_of(push(Vsn.V1, "t", "e", '{"a":1}', join_ref="1", ref="2")) == {
        "ref": "2",
        "event": "e",
        "payload": {"a": 1},
        "topic": "t",
    }
    assert text_of(push(Vsn.V2, "t", "e", '{"a":1}', join_ref="1", ref="2")) == ["1", "2", "t", "e", {"a": 1}]
    assert text_of(reply(Vsn.V2, "t", "2", "1", "ok", {})) == [
        "1",
        "2",
        "t",
        "phx_reply",
        {"status": "ok", "response": {}},
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(topic=st.text(), event=st.text(), payload=json_values, ref=st.none() | st.text())
def test_serializers_decode_same_message(topic: str, event: str, payload: Any, ref: str | None) -> None:
    first = decode_text(
        Vsn.V1, json.dumps({"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": "j"})
    )
    second = decode_text(Vsn.V2, json.dumps(["j", ref, topic, event, payload]))
    assert first == second
    assert (first.topic, first.event, first.payload, first.ref, first.join_ref) == (topic, event, payload, ref, "j")


@pytest.mark.parametrize(
    ("vsn", "text"),
    [
        (Vsn.V1, ""),
        (Vsn.V1, "[]"),
        (Vsn.V1, '{"topic":"t","event":"e","payload":{}}'),
        (Vsn.V1, '{"topic":1,"event":"e","payload":{},"ref":null}'),
        (Vsn.V2, "{}"),
        (Vsn.V2, '["1","1","t","e"]'),
        (Vsn.V2, '["1","1","t","e",NaN]'),
        (Vsn.V2, '["1","1","t","e","\\ud800"]'),
        (Vsn.V2, "[" * 100_000),
    ],
)
def test_malformed_text_is_rejected(vsn: Vsn, text: str) -> None:
    with pytest.raises(MalformedFrame):
        decode_text(vsn, text)


@given(st.binary())
def test_any_bytes_decode_or_are_malformed(data: bytes) -> None:
    for first in (b"", b"\x00", b"\x03"):
        try:
            message = decode_binary(Vsn.V2, first + data)
        except MalformedFrame:
            continue
        assert isinstance(message.payload, bytes | UserBroadcast)


def test_broadcast_push_decodes() -> None:
    frame = b"\x03\x01\x01\x0a\x03\x00\x01" + b"12realtime:xevt" + b'{"n":1}'
    message = decode_binary(Vsn.V2, frame)
    assert (message.join_ref, message.ref, message.topic, message.event) == ("1", "2", "realtime:x", "broadcast")
    assert message.payload == UserBroadcast("evt", b'{"n":1}', is_json=True)


def test_user_broadcast_preserves_payload() -> None:
    fanout = user_broadcast_fanout("realtime:x", UserBroadcast("e", b'{"n": 1.50}', True), {"id": "i"})
    assert opened(fanout.frame(Vsn.V2)) == (2, b'\x04\x0a\x01\x0a\x01realtime:xe{"id":"i"}{"n": 1.50}')
    assert text_of(fanout.frame(Vsn.V1))["payload"] == {
        "event": "e",
        "meta": {"id": "i"},
        "payload": {"n": 1.5},
        "type": "broadcast",
    }


def test_v1_cannot_encode_bytes() -> None:
    assert user_broadcast_fanout("t", UserBroadcast("e", b"\x00", False), None).frame(Vsn.V1) is None
    assert raw_broadcast_fanout("t", b"\x00").frame(Vsn.V1) is None
    assert opened(raw_broadcast_fanout("t", b"\x00").frame(Vsn.V2)) == (2, b"\x02\x01\x09tbroadcast\x00")


def test_long_topic_is_sent_as_text() -> None:
    topic = "t" * 256
    fanout = user_broadcast_fanout(topic, UserBroadcast("e", b"{}", True), None)
    assert text_of(fanout.frame(Vsn.V2))[2] == topic


def test_fanout_encodes_once_per_serializer() -> None:
    fanout = event_fanout("t", "e", "{}")
    assert fanout.frame(Vsn.V1) is fanout.frame(Vsn.V1)
    assert fanout.frame(Vsn.V1) == text_frame('{"ref":null,"event":"e","payload":{},"topic":"t"}')
