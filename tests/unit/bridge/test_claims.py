"""When a worker claims: what makes it ask at once, and what later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.claims import LATER_SECONDS, LOCKED_SECONDS, MOST_SLOTS, PROMPT_WORKERS, Claims
from bridge.errors import StoreUnavailable
from bridge.model import Claim, Job, Snapshot
from bridge.settings import Settings
from tests.support.waiting import until

SETTINGS = Settings(supabase_url="http://127.0.0.1:1", supabase_key="key", sweep_seconds=60)


class Asked:
    """What a worker without a database is asked, and what woke it each time."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    async def claim(self, _: int) -> Claim:
        return Claim((), None, 1)

    def take(self, _: Claim, source: str) -> None:
        self.sources.append(source)


@asynccontextmanager
async def running(asked: Asked) -> AsyncIterator[Claims]:
    claims = Claims(SETTINGS, lambda: 1, asked.claim, asked.take)
    task = asyncio.create_task(claims.run())
    await until(lambda: asked.sources == ["start"], within=5)
    yield claims
    claims.stop()
    await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("workers", [1, PROMPT_WORKERS])
async def test_all_of_a_small_fleet_claim_at_once(workers: int) -> None:
    asked = Asked()
    async with running(asked) as claims:
        for count in range(20):
            claims.hear("broadcast", None, workers)
            await until(lambda: asked.sources[1:] == ["broadcast"] * (count + 1), within=5)  # noqa: B023  waited for here


async def test_of_a_large_fleet_a_few_claim_at_once_and_the_others_later_for_all_that_they_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = iter([0.9, 0.5, PROMPT_WORKERS / 100, 0.07])
    monkeypatch.setattr("bridge.claims.random.random", lambda: next(drawn))
    monkeypatch.setattr("bridge.claims.LATER_SECONDS", (0.05, 0.1))
    assert LATER_SECONDS[1] <= 2
    asked = Asked()
    async with running(asked) as claims:
        for _ in range(3):
            claims.hear("broadcast", None, 100)
        assert claims.is_waiting
        await until(lambda: asked.sources[1:], within=5)
        assert asked.sources == ["start", "due"]
        claims.hear("broadcast", None, 100)
        await until(lambda: asked.sources == ["start", "due", "broadcast"], within=5)


async def test_what_fell_due_while_the_loop_was_busy_is_not_forgotten() -> None:
    asked = Asked()
    async with running(asked) as claims:
        claims.wake_in(0)
        time.sleep(0.1)  # noqa: ASYNC251  the loop is busy, and the timer overdue when the next answer comes
        claims.wake_in(30)
        await until(lambda: asked.sources == ["start", "due"], within=5)


async def test_what_is_due_and_locked_is_asked_for_again_but_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float | None] = []
    monkeypatch.setattr(Claims, "wake_in", lambda _, seconds: pauses.append(seconds))

    class Due(Asked):
        async def claim(self, _: int) -> Claim:
            return Claim((), 0.0, 1)

    async with running(Due()):
        assert pauses == [LOCKED_SECONDS]


async def test_a_commit_that_the_database_lost_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.claims.LONGEST_UNSEEN_SECONDS", 0.2)

    class Behind(Asked):
        async def claim(self, _: int) -> Claim:
            return Claim((), None, 1, Snapshot(10, 10, frozenset()))

    asked = Behind()
    async with running(asked) as claims:
        claims.hear("broadcast", 12, 1)
        await until(lambda: asked.sources[1:3] == ["broadcast", "due"], within=5)
        await until(lambda: not claims._unseen and claims._due is None and claims.is_waiting, within=5)


async def test_a_claim_that_fails_is_followed_by_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may be larger than what the server or the network can give in time: then less is asked for."""
    monkeypatch.setattr("bridge.claims.random.uniform", lambda low, _: low * 0.01)
    sizes: list[int] = []
    waiting = 100

    async def claim(slots: int) -> Claim:
        nonlocal waiting
        sizes.append(slots)
        if slots > MOST_SLOTS // 2:
            raise StoreUnavailable("canceling statement due to statement timeout")
        brought = min(slots, waiting)
        waiting -= brought
        return Claim(tuple(Job(str(n), 1, 0, False) for n in range(brought)), None, 1)

    asked = Asked()
    claims = Claims(SETTINGS, lambda: 1000, claim, asked.take)
    task = asyncio.create_task(claims.run())
    await until(lambda: waiting == 0, within=5)
    claims.stop()
    await asyncio.wait_for(task, 5)
    assert sizes[:2] == [MOST_SLOTS, MOST_SLOTS // 2]
    assert max(sizes) == MOST_SLOTS
