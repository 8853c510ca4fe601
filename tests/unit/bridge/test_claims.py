"""When a worker claims: which events make it claim at once, and which later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from bridge.breaker import Breakers, Plan
from bridge.claims import LOCKED_SECONDS, MOST_SLOTS, PROMPT_WORKERS, READY_SECONDS, STAGGER_SECONDS, Claims
from bridge.errors import StoreUnavailable
from bridge.jobs import Jobs
from bridge.metrics import Metrics
from bridge.model import Claim, Job, QueueHints, Session, Snapshot, Turn
from bridge.settings import Settings
from bridge.store import Store
from tests.support.waiting import until
from tests.unit.bridge.test_jobs import Owner, make_jobs

SETTINGS = Settings(supabase_url="http://127.0.0.1:1", supabase_key="key", sweep_seconds=60)
FUNCTIONS = ("Chat", "Code")
NOTHING = Claim((), QueueHints(None, 1))


class FakeStore:
    """Returns the same to every claim."""

    def __init__(self, result: Claim = NOTHING) -> None:
        self.result = result

    async def claim(
        self, slots: int, holding: list[str], functions: Sequence[str], reserve: int, plan: Plan, capacity: int
    ) -> Claim:
        return self.result


class Watched(Claims):
    """Records what woke each claim."""

    def __init__(self, store: object, jobs: Jobs) -> None:
        self.breakers = Breakers(FUNCTIONS)
        super().__init__(
            cast(Store, store), jobs, FUNCTIONS, self.breakers, SETTINGS, Metrics(), on_missed_wakeup=self._on_missed
        )
        self.sources: list[str] = []
        self.missed = 0

    def _on_missed(self) -> None:
        self.missed += 1

    def _take(self, claim: Claim, source: str, *, was_held_back: bool) -> None:
        super()._take(claim, source, was_held_back=was_held_back)
        self.sources.append(source)


@asynccontextmanager
async def running(
    store: object, first: Callable[[Watched], bool] = lambda c: bool(c.sources)
) -> AsyncIterator[Watched]:
    claims = Watched(store, make_jobs(Owner()))
    task = asyncio.create_task(claims.run())
    await until(lambda: first(claims), within=5)
    yield claims
    claims.stop()
    await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("fleet_size", [1, PROMPT_WORKERS])
async def test_small_fleet_claims_at_once(fleet_size: int) -> None:
    async with running(FakeStore(Claim((), QueueHints(None, fleet_size)))) as claims:
        for count in range(20):
            claims.on_work("broadcast", None)
            await until(lambda: claims.sources[1:] == ["broadcast"] * (count + 1), within=5)  # noqa: B023  waited for here


async def test_large_fleet_staggers_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([0.9, 0.5, PROMPT_WORKERS / 100, 0.07])
    monkeypatch.setattr("bridge.claims.random.random", lambda: next(drawn))
    monkeypatch.setattr("bridge.claims.STAGGER_SECONDS", (0.05, 0.1))
    assert STAGGER_SECONDS[1] <= 2
    async with running(FakeStore(Claim((), QueueHints(None, 100)))) as claims:
        for _ in range(3):
            claims.on_work("broadcast", None)
        assert claims.is_waiting
        await until(lambda: claims.sources[1:], within=5)
        assert claims.sources == ["start", "due"]
        claims.on_work("broadcast", None)
        await until(lambda: claims.sources == ["start", "due", "broadcast"], within=5)


async def test_claim_that_fell_due_while_loop_was_busy_is_sent() -> None:
    async with running(FakeStore()) as claims:
        claims.wake_in(0)
        time.sleep(0.1)  # noqa: ASYNC251  the loop is blocked, so that the timer is overdue when the next response comes
        claims.wake_in(30)
        await until(lambda: claims.sources == ["start", "due"], within=5)


async def test_claim_of_locked_job_is_repeated_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []
    monkeypatch.setattr(Claims, "wake_in", lambda _, seconds: pauses.append(seconds))
    async with running(FakeStore(Claim((), QueueHints(0.0, 1)))):
        assert [pause for pause in pauses if pause is not None] == [LOCKED_SECONDS]


async def test_transaction_that_never_becomes_visible_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.claims.LONGEST_UNSEEN_SECONDS", 0.2)
    behind = Claim((), QueueHints(None, 1), Snapshot(10, 10, frozenset()))
    async with running(FakeStore(behind)) as claims:
        claims.on_work("broadcast", 12)
        await until(lambda: claims.sources[1:3] == ["broadcast", "due"], within=5)
        await until(lambda: not claims._unseen and claims._due is None and claims.is_waiting, within=5)


async def test_failed_claim_is_followed_by_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The response may be too large to arrive in time: then the worker asks for less."""
    monkeypatch.setattr("bridge.claims.random.uniform", lambda low, _: low * 0.01)
    sizes: list[int] = []
    waiting = 100

    class Slow(FakeStore):
        async def claim(
            self, slots: int, holding: list[str], functions: Sequence[str], reserve: int, plan: Plan, capacity: int
        ) -> Claim:
            nonlocal waiting
            sizes.append(slots)
            if slots > MOST_SLOTS // 2:
                raise StoreUnavailable("canceling statement due to statement timeout")
            count = min(slots, waiting)
            waiting -= count
            jobs = tuple(Job(f"{waiting}-{n}", 1, 0, cancel=False) for n in range(count))
            return Claim(jobs, QueueHints(None, 1))

    monkeypatch.setattr("tests.unit.bridge.test_jobs.CONCURRENCY", 1000)
    async with running(Slow(), lambda _: waiting == 0):
        assert sizes[:2] == [MOST_SLOTS, MOST_SLOTS // 2]
        assert max(sizes) == MOST_SLOTS


async def test_stop_during_claim_that_fills_the_worker_ends_at_once() -> None:
    answering = asyncio.Event()

    class Slow(FakeStore):
        async def claim(
            self, slots: int, holding: list[str], functions: Sequence[str], reserve: int, plan: Plan, capacity: int
        ) -> Claim:
            await answering.wait()
            return Claim(tuple(Job(str(n), 1, 0, cancel=False) for n in range(slots)), QueueHints(None, 1))

    claims = Watched(Slow(), make_jobs(Owner()))
    task = asyncio.create_task(claims.run())
    await until(lambda: claims._is_claiming, within=5)
    claims.stop()
    answering.set()
    await asyncio.wait_for(task, 5)  # a sweep takes 60 s
    assert claims.ended.is_set()


@pytest.mark.parametrize(
    ("function", "was_held_back", "missed"), [("Chat", False, 1), ("Chat", True, 0), ("Nonesuch", False, 0)]
)
async def test_question_that_had_to_wait_is_no_missed_wakeup(function: str, was_held_back: bool, missed: int) -> None:
    """Nobody could answer it, or its user had as many replies running as allowed."""
    turn = Turn(function, "hello", (), (), Session("s", "u", None, function, {}), "u")
    claims = Watched(FakeStore(), make_jobs(Owner()))
    job = Job("q", 1, 0, cancel=False, ready_ms=31_000, turn=turn)
    claims._take(Claim((job,), QueueHints(None, 1)), "sweep", was_held_back=was_held_back)
    assert claims.missed == missed


async def test_reply_that_ends_during_a_claim_leads_to_another_one() -> None:
    """The claim that runs has not seen it, and may be the first to learn that something is held back."""
    held_back = Claim((), QueueHints(None, 1), is_held_back=True)
    asked, answer = asyncio.Event(), asyncio.Event()

    class SlowStore(FakeStore):
        async def claim(self, *_: object) -> Claim:
            asked.set()
            await answer.wait()
            return self.result

    claims = Watched(SlowStore(held_back), make_jobs(Owner()))
    task = asyncio.create_task(claims.run())
    await asyncio.wait_for(asked.wait(), 5)
    claims.on_ended()
    answer.set()
    await until(lambda: claims.sources == ["start", "more"], within=5)
    claims.stop()
    await asyncio.wait_for(task, 5)


async def test_newer_answer_replaces_what_an_older_one_said_of_the_future() -> None:
    """Most leases are extended before they end, and a claim at each such time would be in vain."""
    async with running(FakeStore()) as claims:
        claims.on_hints(QueueHints(None, 1, at=1.0, tells_leases=True, lease_in=0.2))
        claims.on_hints(QueueHints(None, 1, at=2.0))  # says nothing of leases
        assert claims._lease is not None
        claims.on_hints(QueueHints(0.3, 1, at=4.0, tells_leases=True))
        claims.on_hints(QueueHints(None, 1, at=3.0, tells_leases=True, lease_in=0.0))  # it was overtaken
        assert claims._lease is None
        claims.on_hints(QueueHints(None, 1, at=5.0))  # does not see yet that a retry was put off
        await until(lambda: claims.sources == ["start", "due"], within=5)


@pytest.mark.parametrize("is_held_back", [False, True])
async def test_hint_that_a_question_is_ready_leads_to_one_claim(is_held_back: bool) -> None:
    """A worker that is filled by dispatches learns of a backlog from the answers to its beats."""
    store = FakeStore()
    async with running(store) as claims:
        store.result = Claim((), QueueHints(None, 1, ready=True), is_held_back=is_held_back)
        claims.on_hints(QueueHints(None, 1, ready=True))
        await until(lambda: claims.sources == ["start", "ready"], within=5)
        for _ in range(3):  # that claim has left the question for a reason
            claims.on_hints(QueueHints(None, 1, ready=True))
        assert claims.is_waiting
        claims._claimed_at -= READY_SECONDS
        claims.on_hints(QueueHints(None, 1, ready=True))
        assert claims.is_waiting is is_held_back


async def test_worker_that_hears_offers_its_slots() -> None:
    capacities: list[int] = []

    class Recording(FakeStore):
        async def claim(
            self, slots: int, holding: list[str], functions: Sequence[str], reserve: int, plan: Plan, capacity: int
        ) -> Claim:
            capacities.append(capacity)
            return self.result

    async with running(Recording()) as claims:
        claims._hears = lambda: True
        claims.wake("subscribed")
        await until(lambda: claims.sources == ["start", "subscribed"], within=5)
    assert capacities == [0, SETTINGS.concurrency]
