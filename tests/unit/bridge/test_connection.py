"""The library's messages."""

import json

import pytest
from realtime.message import ServerMessageAdapter

import bridge.realtime.connection  # noqa: F401  # changes how the library's messages are written


@pytest.mark.parametrize(
    ("event", "ref", "payload"),
    [
        ("broadcast", None, {"type": "broadcast", "event": "work", "payload": {"text": "what was said"}}),
        ("phx_reply", "1", {"status": "error", "response": {"text": "what was said"}}),
    ],
)
def test_received_message_is_not_written_into_debug_lines(
    event: str, ref: str | None, payload: dict[str, object]
) -> None:
    """`realtime` 2.34.1 writes `repr` of each message into two f-strings, even if nobody reads the lines."""
    message = {"topic": "t", "event": event, "payload": payload, "ref": ref}
    received = ServerMessageAdapter.validate_json(json.dumps(message))
    assert "what was said" in str(received.payload)
    assert "what was said" not in repr(received)
