"""The supervisor: one session after the other, and the next one before the last one when it is only old."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from bridge import connection, inbox
from bridge.connection import Supervisor
from tests.support.users import Person
from tests.support.workers import working

Session = Callable[[Callable[[], None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF_SECONDS", 0.005)
    monkeypatch.setattr(connection, "LONGEST_BACKOFF_SECONDS", 0.01)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110  # the supervisor tells nobody
            await asyncio.sleep(0.001)


async def test_whatever_ends_a_session_another_begins() -> None:
    ends = [RuntimeError("odd"), OSError("gone"), None]

    async def session(ready: Callable[[], None]) -> None:
        ready()
        if ends and (error := ends.pop(0)) is not None:
            raise error
        if ends == []:
            ends.append(None)
            return
        await asyncio.Event().wait()

    supervisor = Supervisor("test", session)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.sessions >= 4)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not supervisor.is_ready


async def test_an_old_session_ends_when_the_next_is_ready() -> None:
    alive: list[int] = []
    fewest: list[int] = []
    gate = asyncio.Event()

    async def session(ready: Callable[[], None]) -> None:
        if supervisor.sessions > 1:
            await gate.wait()
        alive.append(1)
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            alive.pop()
            fewest.append(len(alive))

    supervisor = Supervisor("test", session, rejoin_seconds=0.02)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.sessions == 2)
    assert supervisor.is_ready  # the old one, while the next one is on its way
    gate.set()
    await until(lambda: supervisor.sessions >= 4)
    assert min(fewest) >= 1  # never a moment without one
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_nothing_is_missed_while_it_rejoins(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "REJOIN_SECONDS", 0.3)
    monkeypatch.setattr(inbox, "CHANGES_REJOIN_SECONDS", 0.3)
    async with working(environment) as worker:
        session_id = await user.open_session(title="named")
        for _ in range(8):
            before = worker.inbox.resubscriptions
            # woken by what it hears, not by the sweep, which comes after 27 s
            assert (await user.reply(await user.ask(session_id, "[[text=heard]]")))["status"] == "done"
            await until(lambda: worker.inbox.resubscriptions > before)  # noqa: B023  waited for here
        assert worker.metrics.value("bridge_missed_wakeups_total") == 0
