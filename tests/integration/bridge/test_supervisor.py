"""The supervisor restarts a session that ended, and replaces an old one without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from bridge.realtime import listener, supervisor
from bridge.realtime.supervisor import Supervisor
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working

Session = Callable[[Callable[[], None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.005)
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF_SECONDS", 0.01)


async def test_session_that_ended_is_followed_by_another() -> None:
    ends = [RuntimeError("failed"), OSError("closed"), None]

    async def session(ready: Callable[[], None]) -> None:
        ready()
        if ends and (error := ends.pop(0)) is not None:
            raise error
        if ends == []:
            ends.append(None)
            return
        await asyncio.Event().wait()

    tested = Supervisor("test", session)
    task = asyncio.create_task(tested.run())
    await until(lambda: tested.sessions >= 4, 5, 0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not tested.is_ready


async def test_old_session_ends_when_next_is_ready() -> None:
    alive: list[int] = []
    fewest: list[int] = []
    gate = asyncio.Event()

    async def session(ready: Callable[[], None]) -> None:
        if tested.sessions > 1:
            await gate.wait()
        alive.append(1)
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            alive.pop()
            fewest.append(len(alive))

    tested = Supervisor("test", session, rejoin_seconds=0.02)
    task = asyncio.create_task(tested.run())
    await until(lambda: tested.sessions == 2, 5, 0.001)
    assert tested.is_ready  # the old one, while the next one connects
    gate.set()
    await until(lambda: tested.sessions >= 4, 5, 0.001)
    assert min(fewest) >= 1  # at no moment was there none
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_rejoin_misses_no_wakeup(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REJOIN_SECONDS", 0.3)
    monkeypatch.setattr(listener, "CHANGES_REJOIN_SECONDS", 0.3)
    async with working(environment) as worker:
        session_id = await user.open_session(title="named")
        for _ in range(8):
            before = worker.metrics.value("bridge_resubscriptions_total")
            # woken by an event: the sweep would come after 27 s
            assert (await user.reply(await user.ask(session_id, "[[text=fine]]")))["status"] == "done"
            await until(lambda: worker.metrics.value("bridge_resubscriptions_total") > before, 5, 0.001)  # noqa: B023  waited for here
        assert worker.metrics.value("bridge_missed_wakeups_total") == 0


async def test_lasting_refusal_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    reasons = [*["refused"] * 5, *["closed"] * 5, "", "closed"]

    async def session(ready: Callable[[], None]) -> None:
        if not reasons:
            await asyncio.Event().wait()
        if reason := reasons.pop(0):
            raise OSError(reason)
        ready()

    tested = Supervisor("test", session)
    task = asyncio.create_task(tested.run())
    await until(lambda: tested.sessions > 12, 5, 0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["test: OSError: refused", "test: OSError: closed", "test: OSError: closed"]
