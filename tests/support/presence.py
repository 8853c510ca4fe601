"""Lets the devstack's Realtime send a channel's presence state before the reply to its join, as the hosted one may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from devstack.realtime.protocol import Message, dump
from devstack.realtime.socket import Socket


def send_presence_state_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the test, every join gets a presence state first, also one that does not ask for it."""
    reply_to_join = Socket._reply_to_join

    def state_then_reply(self: Socket, message: Message, status: str, response: Any) -> None:
        channel = self._channels.get(message.topic)
        if status == "ok" and channel is not None:
            held, self._held = self._held, None  # the frames that wait for the reply
            channel._push("presence_state", dump(self._services.presence.state(channel)))
            channel._config = replace(channel._config, presence_enabled=False)  # so that it is not sent again
            self._held = held
        reply_to_join(self, message, status, response)

    monkeypatch.setattr(Socket, "_reply_to_join", state_then_reply)
