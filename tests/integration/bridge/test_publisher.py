"""Deltas over real channels, within the quota."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

import pytest

from bridge.model import Checkpoint
from bridge.pacing import EVENTS_PER_DELTA, EVENTS_PER_REPLY, WATCHERS
from bridge.realtime import channels, listener, publisher
from bridge.realtime.channels import SessionChannels
from bridge.realtime.publisher import DeltaPublisher, OutgoingReply
from devstack.migrations import PROJECT
from devstack.stack import Stack
from tests.support.users import Ear, Person
from tests.support.waiting import until
from tests.support.workers import is_idle, working


async def measure_event_rate(stack: Stack, seconds: float) -> float:
    """Events a second that the server counts, over at least `seconds`."""
    before, began = stack.realtime.events, time.monotonic()
    await asyncio.sleep(seconds)
    return (stack.realtime.events - before) / (time.monotonic() - began)


@pytest.mark.quiet
@pytest.mark.parametrize("workers", [1, 3])
async def test_fleet_keeps_to_its_quota(stack: Stack, environment: dict[str, str], user: Person, workers: int) -> None:
    """With many streams at once, the server counts at most EVENTS_PER_SECOND."""
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
        # until the initial burst is paid back
        await asyncio.sleep(2)
        events = await measure_event_rate(stack, 4)
        for question in questions:
            await user.client.rpc("cancel_message", {"message_id": question}).execute()
        for question in questions:
            await user.reply(question)
    # probes and heartbeats are extra
    assert quota * 0.3 <= events <= quota * 1.1


async def test_more_sessions_than_channels_open_more_connections(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "CHANNELS_PER_CONNECTION", 2)
    # so that every delta is sent, however slow the join: no checkpoint comes first, and the end waits for it
    monkeypatch.setattr(publisher, "JOIN_PATIENCE_SECONDS", 20)
    async with working(environment, concurrency=8, checkpoint_seconds=60, lease_seconds=600) as worker:
        sessions = [await user.open_session(title="named") for _ in range(7)]
        subscribers = [await user.listen(f"session:{session_id}") for session_id in sessions]
        # all at once, so more connections are opened; in the second round channels are left for others
        for _ in range(2):
            questions = [await user.ask(session_id, "[[tokens=20 delay=0.02]]") for session_id in sessions]
            for question, events in zip(questions, subscribers, strict=True):
                row = await user.reply(question)
                await events.until(partial(Ear.of, event="message", reply_to=question, status="done"))
                assert "".join(delta["text"] for delta in events.of("delta", reply_to=question)) == row["content"]
        assert worker.metrics.value("bridge_deltas_failed_total") == 0


async def test_first_delta_ignores_pace(environment: dict[str, str], user: Person) -> None:
    async with working(environment, delta_ms=10_000, checkpoint_seconds=60, lease_seconds=600) as worker:
        session_id = await user.open_session(title="named")
        events = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await events.until(lambda events: events.of("delta"), within=9)  # the pace is 10 s, and the reply takes 100 s
        running = worker.jobs.get(message_id)
        assert running is not None
        stream = running.reply.stream
        await until(lambda: stream.is_dirty, within=9)
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await events.until(lambda events: events.of("message", role="assistant", status="cancelled"))
        assert len(events.of("delta")) == 2


async def test_late_subscriber_gets_whole_reply(environment: dict[str, str], user: Person) -> None:
    """The row's text and each later delta make up the reply, joined by (attempt, seq)."""
    async with working(environment, checkpoint_seconds=0.2):
        session_id = await user.open_session(title="named")
        question = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await user.reply(question, lambda row: row["seq"] >= 3)
        events = await user.listen(f"session:{session_id}")
        row = await user.reply(
            question, lambda row: bool(events.of("delta")) and row["seq"] >= events.of("delta")[0]["seq"]
        )
        text, seq = row["content"], row["seq"]
        await events.until(lambda events: len(events.of("delta")) > 3 and events.of("delta")[-1]["seq"] > seq)
        await user.client.rpc("cancel_message", {"message_id": question}).execute()
        await events.until(lambda events: events.of("message", role="assistant", status="cancelled"))
        for delta in events.of("delta"):
            if delta["seq"] == seq + 1:
                text, seq = text + delta["text"], delta["seq"]
        final = await user.reply(question)
        assert (text, seq) == (final["content"], final["seq"])


async def test_channel_that_never_joins_keeps_no_text_from_row(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionChannels, "is_joined", lambda *_: False)
    monkeypatch.setattr(publisher, "JOIN_SECONDS", 0.5)
    async with working(environment, checkpoint_seconds=0.1):
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=6 stall=5]]")
        row = await user.reply(message_id, lambda row: row["seq"] > 0, within=15)
        assert (row["status"], row["content"].split()[:1]) == ("running", ["word00"])
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await user.reply(message_id)


async def test_first_text_waits_for_slow_join(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a checkpoint took it, nothing would be left to send when the channel is joined."""
    joined = asyncio.Event()
    is_joined, checkpoint = SessionChannels.is_joined, DeltaPublisher.checkpoint
    taken: list[Checkpoint] = []

    def is_joined_late(self: SessionChannels, session_id: str) -> bool:
        return joined.is_set() and is_joined(self, session_id)

    def record(self: DeltaPublisher, reply: OutgoingReply) -> Checkpoint:
        is_dirty = reply.stream.is_dirty
        written = checkpoint(self, reply)
        if is_dirty:
            taken.append(written)
        return written

    monkeypatch.setattr(SessionChannels, "is_joined", is_joined_late)
    monkeypatch.setattr(DeltaPublisher, "checkpoint", record)
    async with working(environment, checkpoint_seconds=0.1) as worker:
        session_id = await user.open_session(title="named")
        events = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=6 stall=5]]")
        await until(lambda: len(taken) > 1, within=10)
        assert taken[0].seq is None
        joined.set()
        worker.publisher._enqueue_undelivered()  # as a finished join does
        await events.until(lambda events: events.of("delta"), within=10)
        assert events.of("delta")[0]["seq"] == 1
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await events.until(lambda events: events.of("message", role="assistant", status="cancelled"))


@pytest.mark.parametrize("workers", [1, 3])
async def test_reply_costs_the_events_that_the_docs_say(
    stack: Stack, environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Of all workers, only the one that answers is joined to the session, and not for long."""
    monkeypatch.setattr(channels, "IDLE_SECONDS", 0.1)
    for module in (channels, listener):
        monkeypatch.setattr(module, "PROBE_SECONDS", 600.0)
    async with AsyncExitStack() as opened:
        fleet = [await opened.enter_async_context(working(environment, name=f"w{n}")) for n in range(workers)]
        for worker in fleet:
            worker.claims.wake("test")  # so that it learns whether it still watches, now that there are more
        await until(lambda: sum(worker.listener._watches for worker in fleet) == min(WATCHERS, workers), within=10)
        await until(lambda: all(is_idle(worker) and worker.listener.changes.is_ready for worker in fleet), within=10)
        session_id = await user.open_session(title="named")
        await user.listen(f"session:{session_id}")

        def joined() -> int:
            return sum(c.is_joined(session_id) for worker in fleet for c in worker.publisher._connections)

        cost = EVENTS_PER_REPLY + min(WATCHERS, workers) + EVENTS_PER_DELTA
        for _ in range(4):
            due = stack.realtime.events + cost
            await user.reply(await user.ask(session_id, "[[text=hi]]"))
            # the second lane reports the question a round of polling later
            await until(lambda due=due: joined() == 0 and stack.realtime.events >= due, within=10)
            assert stack.realtime.events == due
    assert "messages = 12 + 2 × deltas + 1 or 2" in (PROJECT / "docs" / "operations.md").read_text()
    assert (EVENTS_PER_REPLY, WATCHERS, EVENTS_PER_DELTA) == (12, 2, 2)
