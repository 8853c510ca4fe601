"""Questions that the database hands over: begun once, and if they come late only when they are confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from bridge.claims import Claims
from bridge.clock import DatabaseClock
from bridge.dispatches import LATE_SECONDS, Dispatches
from bridge.errors import StoreUnavailable
from bridge.jobs import Jobs
from bridge.metrics import Metrics
from bridge.model import BatchAck, Checkpoint, Dispatch, Job, QueueHints
from bridge.store import Store
from tests.support.waiting import until
from tests.unit.bridge.test_jobs import Owner, make_jobs

NOW = 1_800_000_000.0


class FakeClaims:
    """Records what would wake it. Its clock says how old a dispatch is."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.clock = cast(DatabaseClock, self)

    def age(self, at: float) -> float:
        return NOW - at

    def wake(self, source: str) -> None:
        self.woken.append(source)

    def wake_in(self, seconds: float) -> None:
        self.woken.append("later")

    def on_hints(self, hints: QueueHints) -> None:
        pass


class FakeStore:
    """Answers beats with these states; None: with an error."""

    def __init__(self) -> None:
        self.states: Mapping[str, str] | None = {}
        self.beats: list[list[str]] = []

    async def beat(self, checkpoints: Sequence[Checkpoint]) -> BatchAck:
        self.beats.append([checkpoint.question_id for checkpoint in checkpoints])
        if self.states is None:
            raise StoreUnavailable("no answer")
        return BatchAck(self.states, QueueHints(None, 1))


class World:
    """Dispatches and what they touch."""

    def __init__(self) -> None:
        self.owner, self.claims, self.store, self.metrics = Owner(), FakeClaims(), FakeStore(), Metrics()
        self.jobs: Jobs = make_jobs(self.owner)
        self.dispatches = Dispatches(cast(Store, self.store), self.jobs, cast(Claims, self.claims), self.metrics)

    @property
    def begun(self) -> list[tuple[str, int]]:
        return [(running.job.question_id, running.job.attempt) for running in self.owner.added]


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def confirming(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.dispatches.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def dispatch(question: str = "q", attempt: int = 1, *, age: float = 0.0) -> Dispatch:
    return Dispatch(question, attempt, Job(question, attempt, 0, cancel=False), NOW - age)


def test_dispatch_is_begun_once(world: World) -> None:
    for _ in range(2):  # a connection and its successor both bring it
        world.dispatches.take(dispatch())
    assert world.begun == [("q", 1)]
    world.jobs.add(Job("q", 1, 0, cancel=False))  # and so does a claim that was on the way
    assert world.begun == [("q", 1)]
    assert world.metrics.value("bridge_dispatched_total") == 1
    assert world.jobs.has_unconfirmed.is_set()


def test_dispatch_that_comes_after_its_end_is_not_begun_again(world: World) -> None:
    world.dispatches.take(dispatch())
    (running,) = world.owner.added
    running.start()
    running.report()
    world.jobs.acknowledge(running, running.result("done"), "ok")
    world.dispatches.take(dispatch())
    world.jobs.add(Job("q", 1, 0, cancel=False))
    assert world.begun == [("q", 1)]
    world.dispatches.take(dispatch(attempt=2))  # its user asks for another reply
    assert world.begun == [("q", 1), ("q", 2)]


def test_hint_and_unreadable_payload_lead_to_a_claim(world: World) -> None:
    world.dispatches.on_broadcast({"question_id": "q", "attempt": 1, "at_ms": NOW * 1000})
    payloads: list[dict[str, Any]] = [{}, {"question_id": "q", "attempt": "x"}, {"session": None, "question_id": "q"}]
    for payload in payloads:
        world.dispatches.on_broadcast(payload)
    assert world.claims.woken == ["dispatch"] * 4
    assert world.begun == []


@pytest.mark.parametrize(("state", "begun"), [("ok", 1), ("cancel", 1), ("lost", 0), ("busy", 0), (None, 0)])
async def test_late_dispatch_is_begun_when_it_is_confirmed(world: World, state: str | None, begun: int) -> None:
    world.store.states = None if state is None else {"late": state}
    async with confirming(world):
        world.dispatches.take(dispatch("late", age=LATE_SECONDS + 1))
        assert world.begun == []
        world.dispatches.take(dispatch("soon", age=LATE_SECONDS - 1))
        assert world.begun == [("soon", 1)]
        await until(lambda: world.store.beats == [["late"]], within=5)
        world.store.states = {"last": "ok"}
        world.dispatches.take(dispatch("last", age=LATE_SECONDS + 1))
        await until(lambda: ("last", 1) in world.begun, within=5)
    assert world.begun.count(("late", 1)) == begun
    assert world.claims.woken == ["later"] * (state == "busy")
    if state == "cancel":
        assert world.owner.added[1].stop_reason == "cancelled"
