"""The client of `realtime`, with a loop of its own that receives.

The library's loop (2.34.1) checks each message with pydantic, and writes it into two debug lines, whoever reads them:
30 to 80 µs, more than all else that a worker does with a broadcast. It skips what it cannot read, and ends in silence
when a callback raises. Here what comes often goes to the channel's callbacks as it is decoded, in a few µs: broadcasts,
changes of rows, and the answers to joins and leaves. All else goes the library's way. Whatever ends the loop is an
error of every channel.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from realtime import AsyncRealtimeClient
from realtime.message import ReplyPostgresChanges, ServerMessageAdapter
from realtime.types import RealtimeAcknowledgementStatus

from bridge.errors import RealtimeError

log = logging.getLogger(__name__)


class Client(AsyncRealtimeClient):
    """A client that does not reconnect."""

    def __init__(self, url: str, key: str, *, heartbeat_seconds: int, timeout: int) -> None:
        super().__init__(url, key, auto_reconnect=False, hb_interval=heartbeat_seconds, timeout=timeout)

    async def _listen(self) -> None:
        socket, error = self._ws_connection, None
        assert socket is not None
        try:
            async for text in socket:
                self._receive(text)
        except Exception as failure:
            error = failure
        if self._ws_connection is not socket:  # `close` was called
            return
        if socket.close_code is not None:
            self._ws_connection = None
        self._set_channels_errored(error or socket.protocol.close_exc)

    def _receive(self, text: str | bytes) -> None:
        """Hand a message to its channel. Raises RealtimeError if it cannot be read, and what a callback raises."""
        try:
            message = from_json(text)
            channel = self.channels.get(message["topic"])
            event, payload, ref = message["event"], message["payload"], message.get("ref")
        except (ValueError, LookupError, TypeError) as error:
            raise RealtimeError(f"a message of {len(text)} characters cannot be read") from error
        if channel is None:
            return
        callbacks: Sequence[Callable[[Any], None]]
        if event == "broadcast" and _is_broadcast(payload):
            callbacks = channel.broadcast_callbacks
        elif event == "postgres_changes" and _is_change(payload):
            callbacks = channel.postgres_changes_callbacks
        elif event == "phx_reply" and _is_success(payload) and isinstance(ref, str):
            if (push := channel.messages_waiting_for_ack.pop(ref, None)) is not None:
                changes = payload["response"].get("postgres_changes")
                push.trigger(RealtimeAcknowledgementStatus.Ok, ReplyPostgresChanges(postgres_changes=changes))
            return
        else:
            try:
                channel._handle_message(ServerMessageAdapter.validate_json(text))
            except ValidationError:  # of a newer server, perhaps
                log.debug("%s: an unknown message, %s", channel.topic, event)
            return
        for callback in callbacks:
            callback(payload)


def _is_broadcast(payload: Any) -> bool:
    is_named = isinstance(payload, dict) and isinstance(payload.get("event"), str)
    return is_named and isinstance(payload.get("payload"), dict)


def _is_change(payload: Any) -> bool:
    is_numbered = isinstance(payload, dict) and isinstance(payload.get("ids"), list)
    return is_numbered and isinstance(payload.get("data"), dict) and "type" in payload["data"]


def _is_success(payload: Any) -> bool:
    """Whether it is the answer "ok" that names no bindings for changes of rows."""
    response = payload.get("response") if isinstance(payload, dict) and payload.get("status") == "ok" else None
    return isinstance(response, dict) and response.get("postgres_changes") in (None, [])
