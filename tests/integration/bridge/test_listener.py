"""How listeners prove their subscription, through the database, and what that costs a fleet."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

import psycopg
import pytest

from bridge.errors import RealtimeError
from bridge.model import Claim
from bridge.realtime import listener, supervisor
from bridge.realtime.connection import Connection, SendProbe
from bridge.realtime.listener import Dispatched, Signal, WakeupListener, Work
from bridge.store import Store
from bridge.worker import Worker
from devstack.realtime import channel, joining
from devstack.stack import Stack
from tests.support.cold_start import cold_start
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working

UNHEARD = "the database is not heard yet"
# what a busy machine may add
SLACK_SECONDS = 1.0
LISTENERS = 8
# long enough for the first probe of a round to arrive before the other listeners send theirs
PROBE_SECONDS = 1.5
ROUNDS = 5


@pytest.mark.quiet
async def test_one_probe_serves_whole_fleet(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PROBE_SECONDS", PROBE_SECONDS)
    probes: list[float] = []
    probe = Connection.probe

    async def count(connection: Connection, *send: SendProbe) -> bool:
        probes.append(time.monotonic())
        return await probe(connection, *send)

    monkeypatch.setattr(Connection, "probe", count)
    settings = worker_settings(environment)
    store = await Store.open(settings, "test")
    listeners = [WakeupListener(settings.realtime_url, settings.supabase_key, store.probe) for _ in range(LISTENERS)]
    running = [asyncio.create_task(one.run()) for one in listeners]
    try:
        await until(lambda: all(one.is_ready for one in listeners), within=20)
        began = time.monotonic()
        probes.clear()
        await until(lambda: time.monotonic() - began > ROUNDS * PROBE_SECONDS, within=30)
        # if each listener sent its own, there would be LISTENERS * ROUNDS
        assert ROUNDS / 2 < len(probes) < LISTENERS * ROUNDS / 2
        assert all(one.is_ready for one in listeners)
        assert all(one.broadcasts.sessions == one.changes.sessions == 1 for one in listeners)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await store.close()


class Probes:
    """Counts the probes that a worker lets the database send."""

    def __init__(self, worker: Worker) -> None:
        self.sent = 0
        self._send = worker.listener._send_probe
        worker.listener._send_probe = self.send

    async def send(self, nonce: str) -> bool:
        self.sent += 1
        return await self._send(nonce)


def announced(worker: Worker) -> set[str]:
    """The questions that broadcasts bring to a worker from now on."""
    questions: set[str] = set()
    enqueue = worker.listener._enqueue

    def record(signal: Signal) -> None:
        if isinstance(signal, Work) and signal.source == "broadcast":
            questions.update(signal.question_ids)
        if isinstance(signal, Dispatched):
            questions.add(signal.payload["question_id"])
        enqueue(signal)

    worker.listener._enqueue = record  # type: ignore[method-assign]  # to record signals
    return questions


async def test_worker_that_subscribes_again_offers_no_slots_until_it_hears(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(environment) as worker:
        offered: list[int | None] = []
        claim = Store.claim

        async def record(store: Store, *arguments: Any, **named: Any) -> Claim:
            offered.append(named.get("capacity", arguments[-1]))
            return await claim(store, *arguments, **named)

        monkeypatch.setattr(Store, "claim", record)
        worker.listener.resubscribe()
        worker.claims.wake("test")  # as a claim that has just been told to
        await until(lambda: offered and offered[-1] == worker.settings.concurrency, within=10)
        assert set(offered[:-1]) == {0}
        assert len(offered) >= 3  # at once, when the subscription ended, and when there is another


@pytest.mark.quiet
@pytest.mark.parametrize("patience", [15.0, 2.0], ids=["it waits", "it gives up"])
async def test_cold_start_claims_no_readiness_before_database_is_heard(
    stack: Stack,
    environment: dict[str, str],
    user: Person,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    patience: float,
) -> None:
    """A join is answered at once. `patience`: for how long Realtime leaves an unheard channel open."""
    monkeypatch.setattr(channel, "READY_SECONDS", patience)
    monkeypatch.setattr(supervisor, "HEALTHY_SECONDS", patience / 2)
    caplog.set_level(logging.WARNING, "bridge.realtime")
    session_id = await user.open_session(title="named")
    async with (
        cold_start(stack.realtime, stack.admin_url) as writing,
        working(environment, ready=False, sweep_seconds=0.5) as worker,
    ):
        probes, heard, listener = Probes(worker), announced(worker), worker.listener
        await until(lambda: listener.problem == UNHEARD, within=10)
        # it goes on claiming
        message_id = await user.ask(session_id, "[[text=swept]]")
        assert (await user.reply(message_id))["content"] == "swept"
        first = probes.sent
        await until(lambda: probes.sent >= first + 4, within=10)  # for some seconds
        assert not listener.is_ready
        assert message_id not in heard
        if patience > 10:
            assert listener.broadcasts.sessions == 1
        assert [record.getMessage().startswith(UNHEARD) for record in caplog.records].count(True) == 1
        await writing.rollback()
        await stack.realtime._services.messages.live.wait()
        began = time.monotonic()
        while not heard:
            question = await user.ask(await user.open_session(title="named"), "[[text=woken]]")
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 1 + SLACK_SECONDS
        await until(lambda: listener.is_ready, within=1 + SLACK_SECONDS)
        assert listener.problem is None
        assert (await user.reply(question))["content"] == "woken"


@pytest.mark.quiet
async def test_readiness_takes_no_message_of_realtime(
    stack: Stack, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions do not say when they hear the database: the echo of a probe proves it."""
    parse = joining.parse_join
    monkeypatch.setattr(channel, "parse_join", lambda *args: dataclasses.replace(parse(*args), replication_ready=False))
    async with cold_start(stack.realtime, stack.admin_url) as writing, working(environment, ready=False) as worker:
        await until(lambda: worker.listener.problem == UNHEARD, within=10)
        await writing.rollback()
        await until(lambda: worker.listener.is_ready, within=10)
        assert worker.listener.broadcasts.sessions == 1


async def test_older_schema_is_one_warning(
    stack: Stack,
    environment: dict[str, str],
    db: psycopg.AsyncConnection[Row],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A deploy upgrades the schema first; without the function, an echo by socket has to do."""
    monkeypatch.setattr(listener, "PROBE_SECONDS", 0.2)
    caplog.set_level(logging.WARNING, "bridge.realtime")
    await db.execute("alter function public.bridge_probe rename to bridge_probe_off")
    await stack.lite.reload()
    try:
        async with working(environment) as worker:
            probes = Probes(worker)
            await until(lambda: probes.sent >= 3, within=20)
            assert worker.listener.is_ready
            assert worker.listener.broadcasts.sessions == 1
    finally:
        await db.execute("alter function public.bridge_probe_off rename to bridge_probe")
        await stack.lite.reload()
    assert [record.getMessage() for record in caplog.records] == [listener.OLD_SCHEMA]


async def test_project_with_private_channels_only_has_both_lanes(
    stack: Stack, environment: dict[str, str], user: Person, caplog: pytest.LogCaptureFixture
) -> None:
    settings = worker_settings(environment)
    stack.realtime.private_only = True
    store = await Store.open(settings, "listener-test")
    tested = WakeupListener(settings.realtime_url, settings.supabase_key, store.probe)
    running = asyncio.create_task(tested.run())
    try:
        await until(lambda: tested.is_ready and tested.changes.is_ready, within=20)
        async with Connection(settings.realtime_url, settings.supabase_key) as connection:
            with pytest.raises(RealtimeError, match="only allows private channels"):
                await connection.join(connection.channel("public", private=False))
        message_id = await user.ask(await user.open_session(), "hello")
        async with asyncio.timeout(10):
            while (signal := await tested._signals.get()) != Work("changes", (message_id,)):
                assert isinstance(signal, Work)
        assert tested.changes.sessions == 1
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    finally:
        stack.realtime.private_only = False
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
