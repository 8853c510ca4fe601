"""Deltas within the quota, over real channels."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

import pytest

from bridge import channels, outbox
from bridge.channels import SessionChannels
from bridge.model import Checkpoint
from bridge.outbox import Outbox
from bridge.stream import Stream
from devstack.stack import Stack
from tests.support.users import Ear, Person
from tests.support.waiting import until
from tests.support.workers import working


async def counted(stack: Stack, seconds: float) -> float:
    """What the server counts a second, over at least so many."""
    before, began = stack.realtime.events, time.monotonic()
    await asyncio.sleep(seconds)
    return (stack.realtime.events - before) / (time.monotonic() - began)


@pytest.mark.quiet
@pytest.mark.parametrize("workers", [1, 3])
async def test_the_fleet_keeps_to_its_quota(
    stack: Stack, environment: dict[str, str], user: Person, workers: int
) -> None:
    """Many streams at once: what the server counts stays within EVENTS_PER_SECOND."""
    quota = 60
    async with AsyncExitStack() as fleet:
        for _ in range(workers):
            await fleet.enter_async_context(working(environment, events_per_second=quota, concurrency=12))
        sessions = [await user.open_session(title="named") for _ in range(12)]
        for session_id in sessions:
            await user.listen(f"session:{session_id}", "delta")
        questions = [await user.ask(session_id, "[[tokens=5000 delay=0.02]]") for session_id in sessions]
        for question in questions:
            await user.reply(question, lambda row: row["seq"] > 0)
        # the burst of the start is paid back first
        await asyncio.sleep(2)
        events = await counted(stack, 4)
        for question in questions:
            await user.client.rpc("cancel_message", {"message_id": question}).execute()
        for question in questions:
            await user.reply(question)
    # canaries and heartbeats of the workers come on top
    assert quota * 0.3 <= events <= quota * 1.1


async def test_more_sessions_than_a_connection_has_channels(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_PER_CONNECTION", 2)
    # a join may take as long as it likes: no checkpoint takes what it will have to say, and the end waits for it
    monkeypatch.setattr(outbox, "JOIN_PATIENCE_SECONDS", 20)
    async with working(environment, concurrency=8, checkpoint_seconds=60, lease_seconds=600) as worker:
        sessions = [await user.open_session(title="named") for _ in range(7)]
        ears = [await user.listen(f"session:{session_id}") for session_id in sessions]
        # all at once: more connections; then one after the other: channels are given up for others
        for _ in range(2):
            questions = [await user.ask(session_id, "[[tokens=20 delay=0.02]]") for session_id in sessions]
            for question, ear in zip(questions, ears, strict=True):
                row = await user.reply(question)
                await ear.until(partial(Ear.of, event="message", reply_to=question, status="done"))
                assert "".join(delta["text"] for delta in ear.of("delta", reply_to=question)) == row["content"]
        assert worker.metrics.value("bridge_deltas_failed_total") == 0


async def test_the_first_delta_does_not_wait_for_the_pace(environment: dict[str, str], user: Person) -> None:
    async with working(environment, delta_ms=10_000, checkpoint_seconds=60, lease_seconds=600) as worker:
        session_id = await user.open_session(title="named")
        ear = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await ear.until(lambda ear: ear.of("delta"), within=9)  # the pace is 10 s, and the reply takes 100 s
        stream = worker.hands[message_id].stream
        await until(lambda: stream.is_dirty, within=9)
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await ear.until(lambda ear: ear.of("message", role="assistant", status="cancelled"))
        assert len(ear.of("delta")) == 2


async def test_a_reply_is_whole_for_one_who_joins_late(environment: dict[str, str], user: Person) -> None:
    """Row and deltas are joined by (attempt, seq): what the row has, and each later delta."""
    async with working(environment, checkpoint_seconds=0.2):
        session_id = await user.open_session(title="named")
        question = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await user.reply(question, lambda row: row["seq"] >= 3)
        ear = await user.listen(f"session:{session_id}")
        row = await user.reply(question, lambda row: bool(ear.of("delta")) and row["seq"] >= ear.of("delta")[0]["seq"])
        text, seq = row["content"], row["seq"]
        await ear.until(lambda ear: len(ear.of("delta")) > 3 and ear.of("delta")[-1]["seq"] > seq)
        await user.client.rpc("cancel_message", {"message_id": question}).execute()
        await ear.until(lambda ear: ear.of("message", role="assistant", status="cancelled"))
        for delta in ear.of("delta"):
            if delta["seq"] == seq + 1:
                text, seq = text + delta["text"], delta["seq"]
        final = await user.reply(question)
        assert (text, seq) == (final["content"], final["seq"])


async def test_a_channel_that_never_comes_keeps_no_words_from_the_row(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionChannels, "is_joined", lambda *_: False)
    monkeypatch.setattr(outbox, "JOIN_SECONDS", 0.5)
    async with working(environment, checkpoint_seconds=0.1):
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=6 stall=5]]")
        row = await user.reply(message_id, lambda row: row["seq"] > 0, within=15)
        assert (row["status"], row["content"].split()[:1]) == ("running", ["word00"])
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


async def test_first_words_wait_for_a_channel_that_is_slow_to_join(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that took them would leave nothing to say when the channel is there."""
    joined = asyncio.Event()
    is_joined, checkpoint = SessionChannels.is_joined, Outbox.checkpoint
    taken: list[Checkpoint] = []

    def late(self: SessionChannels, session_id: str) -> bool:
        return joined.is_set() and is_joined(self, session_id)

    def noted(self: Outbox, stream: Stream) -> Checkpoint:
        waits = stream.is_dirty
        answer = checkpoint(self, stream)
        if waits:
            taken.append(answer)
        return answer

    monkeypatch.setattr(SessionChannels, "is_joined", late)
    monkeypatch.setattr(Outbox, "checkpoint", noted)
    async with working(environment, checkpoint_seconds=0.1) as worker:
        session_id = await user.open_session(title="named")
        ear = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=6 stall=5]]")
        await until(lambda: len(taken) > 1, within=10)
        assert taken[0].seq is None
        joined.set()
        worker.outbox._enqueue_unheard()  # as the end of a join does
        await ear.until(lambda ear: ear.of("delta"), within=10)
        assert ear.of("delta")[0]["seq"] == 1
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await ear.until(lambda ear: ear.of("message", role="assistant", status="cancelled"))
