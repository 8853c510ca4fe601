"""The loop that receives, in the place of that of `realtime`."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient, RealtimePostgresChangesListenEvent
from realtime._async.push import AsyncPush
from realtime.types import RealtimeAcknowledgementStatus, RealtimeSubscribeStates

from bridge.realtime.client import Client

TOPIC = "realtime:t"
Frame = str | bytes

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
BROADCASTS = st.fixed_dictionaries(
    {"event": st.sampled_from(["work", "WORK", "other"]) | JSON, "payload": OBJECTS | JSON},
    optional={"meta": st.fixed_dictionaries({}, optional={"id": st.text(), "replayed": st.booleans()})},
)
CHANGES = st.fixed_dictionaries(
    {
        "ids": st.lists(st.integers(6, 8), max_size=2),
        "data": st.fixed_dictionaries(
            {
                "schema": st.text(),
                "table": st.text(),
                "commit_timestamp": st.text(),
                "type": st.sampled_from(["INSERT", "UPDATE", "DELETE"]),
                "errors": st.none() | st.text(),
                "columns": st.just([{"name": "id", "type": "uuid"}]),
                "record": OBJECTS,
            }
        ),
    }
)
BINDINGS = st.lists(
    st.fixed_dictionaries({"id": st.just(7), "event": st.just("INSERT"), "table": st.text()}), max_size=1
)
REPLIES = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["ok", "ok", "error", "other"]) | JSON,
        "response": st.fixed_dictionaries({}, optional={"postgres_changes": BINDINGS | JSON}) | JSON,
    }
)
MESSAGES = st.builds(
    lambda topic, named: json.dumps({"topic": topic, "event": named[0], "payload": named[1], "ref": named[2]}),
    st.sampled_from([TOPIC, TOPIC, "realtime:left", "phoenix"]),
    st.tuples(st.just("broadcast"), BROADCASTS | JSON, st.none())
    | st.tuples(st.just("postgres_changes"), CHANGES | JSON, st.none())
    | st.tuples(st.just("phx_reply"), REPLIES | JSON, st.sampled_from(["1", "2", "3"]) | JSON)
    | st.tuples(st.sampled_from(["presence_diff", "of_a_newer_server"]), OBJECTS, st.none()),
)


class Socket:
    """Gives these frames, and is then closed."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames
        self.close_code: int | None = None
        self.protocol = SimpleNamespace(close_exc=ConnectionError("closed by the server"))

    async def __aiter__(self) -> AsyncIterator[Frame]:
        for frame in self._frames:
            yield frame
        self.close_code = 1000


async def heard(kind: type[AsyncRealtimeClient], frames: list[Frame], fault: Exception | None = None) -> list[Any]:
    """What the callbacks of a joined channel got, and at last why the channel ended. The callbacks raise `fault`."""
    client = Client("ws://x", "k", heartbeat_seconds=20, timeout=7)
    client._listen = kind._listen.__get__(client)  # type: ignore[method-assign]
    channel = client.channel("t")
    got: list[Any] = []

    def on_message(message: Any) -> None:
        got.append(message)
        if fault is not None:
            raise fault

    def on_state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        got.append(f"{state.value} {error}")

    channel.on_broadcast("work", on_message)
    channel.on_postgres_changes(RealtimePostgresChangesListenEvent.Insert, on_message, "messages")
    channel.postgres_changes_callbacks[0].id = 7
    for ref in ("1", "2"):
        push = channel.messages_waiting_for_ack[ref] = AsyncPush(channel, "phx_leave")
        push.receive(RealtimeAcknowledgementStatus.Ok, on_message).receive(
            RealtimeAcknowledgementStatus.Error, on_message
        )
    channel.state, channel.subscribe_callback = channel.state.JOINED, on_state
    client._ws_connection = Socket(frames)  # type: ignore[assignment]
    await client._listen()
    return got


def joined(ref: Any = "1", **response: Any) -> str:
    payload = {"status": "ok", "response": response}
    return json.dumps({"topic": TOPIC, "event": "phx_reply", "ref": ref, "payload": payload})


@given(st.lists(MESSAGES, max_size=5))
@example([joined(postgres_changes=[]), joined(), joined(["1"])])
@example([joined(), joined(postgres_changes=[])])
@example([joined(postgres_changes=[{"id": 7, "event": "INSERT"}]), joined("2", postgres_changes="of another version")])
async def test_callbacks_get_what_the_library_would_give_them(frames: list[Frame]) -> None:
    assert await heard(Client, frames) == await heard(AsyncRealtimeClient, frames)


def work(**payload: Any) -> str:
    body = {"type": "broadcast", "event": "work", "payload": payload}
    return json.dumps({"topic": TOPIC, "event": "broadcast", "payload": body, "ref": None})


@pytest.mark.parametrize(
    "frame", ["", "{", "[]", "null", "{}", '{"topic": []}', '{"topic": "realtime:t"}', b"\xff", "[" * 999 + "]" * 999]
)
async def test_frame_that_cannot_be_read_ends_the_channel(frame: Frame) -> None:
    first, why = await heard(Client, [work(n=1), frame, work(n=2)])
    assert first["payload"] == {"n": 1}
    assert why == f"CHANNEL_ERROR a message of {len(frame)} characters cannot be read"


async def test_callback_that_raises_ends_the_channel() -> None:
    _, why = await heard(Client, [work(n=1), work(n=2)], ZeroDivisionError("a mistake"))
    assert why == "CHANNEL_ERROR a mistake"


async def test_closed_client_reports_nothing() -> None:
    client = Client("ws://x", "k", heartbeat_seconds=20, timeout=7)
    channel = client.channel("t")
    channel.state = channel.state.JOINED
    channel.subscribe_callback = lambda *_: pytest.fail("it was reported")

    class Closing(Socket):
        async def __aiter__(self) -> AsyncIterator[Frame]:
            client._ws_connection = None  # as `close` does
            return
            yield

    client._ws_connection = Closing([])  # type: ignore[assignment]
    await client._listen()


def test_library_is_the_one_whose_loop_was_replaced() -> None:
    """`Client` has its own `_listen`, and calls the channel's callbacks itself: read what changed, and adapt it."""
    assert version("realtime") == "2.34.1"
    sources = inspect.getsource(AsyncRealtimeClient._listen) + inspect.getsource(AsyncRealtimeChannel._handle_message)
    assert hashlib.sha256(sources.encode()).hexdigest()[:16] == "b367fc90afb3abe5"
