"""Faults of Realtime: the next question is answered all the same, and wake-ups are back soon after the fault ends.

The worker's timings are scaled to a fifth, and so are the bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from bridge import claims as claiming
from bridge import rest, store
from bridge.realtime import channels, connection, listener, publisher, supervisor
from bridge.realtime.channels import SessionChannels
from bridge.realtime.listener import Dispatched, Signal, Work
from bridge.worker import Worker
from tests.faults.proxy import Direction, Frame, Proxy, Realtime, Rest
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import claims, worker_settings, working

pytestmark = pytest.mark.quiet

SCALE = 0.2
MODULES = (channels, claiming, connection, listener, publisher, supervisor)
BACK_SECONDS = 15 * SCALE
SWEEP_SECONDS = 1.0
# what a busy machine may add to any bound
SLACK_SECONDS = 1.0


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("JOIN_SECONDS", "FIRST_BACKOFF_SECONDS", "LONGEST_BACKOFF_SECONDS"),
        *("PROBE_SECONDS", "PROBE_ANSWER_SECONDS", "REPEAT_SECONDS", "ANNOUNCED_MS"),
    ):
        owners = [module for module in MODULES if hasattr(module, name)]
        assert owners, f"no module has {name}"
        for module in owners:  # importing a constant makes a copy
            monkeypatch.setattr(module, name, getattr(module, name) * SCALE)


class Wakeups:
    """The questions that the worker was notified of, by source."""

    def __init__(self, worker: Worker) -> None:
        self.by: dict[str, set[str]] = {"broadcast": set(), "changes": set()}
        self._enqueue = worker.listener._enqueue
        worker.listener._enqueue = self.enqueue  # type: ignore[method-assign]  # to record signals

    def enqueue(self, signal: Signal) -> None:
        if isinstance(signal, Work) and signal.source in self.by:
            self.by[signal.source].update(signal.question_ids)
        elif isinstance(signal, Dispatched):
            self.by["broadcast"].add(signal.payload["question_id"])
        self._enqueue(signal)

    async def both(self, user: Person, session_id: str, within: float) -> float:
        """Ask until both sources have announced a new question; return after how many seconds.

        Raises TimeoutError, with the source that stayed silent.
        """
        asked: set[str] = set()
        began = time.monotonic()
        while time.monotonic() - began < within:
            asked.add(await user.ask(session_id, "[[text=probe]]"))
            await asyncio.sleep(0.1)
            if all(asked & announced for announced in self.by.values()):
                return time.monotonic() - began
        silent = [source for source, announced in self.by.items() if not asked & announced]
        raise TimeoutError(f"no wake-up by {' or '.join(silent)} within {within:g} s")


def closed(code: int) -> Callable[[Proxy], Awaitable[None]]:
    return lambda proxy: proxy.close_sockets(code)


def swallowed(way: Direction = "both") -> Callable[[Proxy], Awaitable[None]]:
    return lambda proxy: proxy.swallow_sockets(way)


def ended(topic: str, event: str) -> Callable[[Proxy], Awaitable[None]]:
    async def end(proxy: Proxy) -> None:
        assert proxy.of(topic)
        await proxy.end_topics(topic, event)

    return end


async def untouched(_: Proxy) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """What happens to open connections, the faults of new ones, and how long these last."""

    to_open: Callable[[Proxy], Awaitable[None]] = untouched
    faults: Realtime = field(default_factory=Realtime)
    seconds: float = 0  # after the question was answered
    handshakes: int = 0  # and until the worker has tried to connect this often

    @asynccontextmanager
    async def on(self, proxy: Proxy) -> AsyncIterator[None]:
        proxy.realtime = self.faults
        await self.to_open(proxy)
        yield
        await asyncio.sleep(self.seconds)
        count = proxy.handshakes + self.handshakes
        await until(lambda: proxy.handshakes >= count, 10)
        await proxy.calm()


FAULTS = {
    "closed 1000": Fault(closed(1000)),
    "closed 1001": Fault(closed(1001)),
    "closed 1012": Fault(closed(1012)),
    "reset": Fault(Proxy.reset_sockets),
    # the library gives up for good after 15 s
    "refused for long": Fault(Proxy.reset_sockets, Realtime(resets=True), seconds=20 * SCALE),
    "handshakes answered 503": Fault(closed(1012), Realtime(status=503), seconds=1),
    # long enough that the worker is connecting when the fault ends
    "black hole": Fault(swallowed(), Realtime(hangs=True), handshakes=2),
    "opened, then silent": Fault(swallowed(), Realtime(swallows_new=True), handshakes=2),
    "half-open: nothing is sent": Fault(swallowed("up")),
    "half-open: nothing is received": Fault(swallowed("down")),
    "heartbeats unanswered": Fault(faults=Realtime(drops_heartbeats=True)),
    "dead but answering pings": Fault(faults=Realtime(deaf=True), seconds=BACK_SECONDS),
    "phx_close of the inbox": Fault(ended("bridge:inbox", "phx_close")),
    "phx_close of the changes": Fault(ended("bridge:messages", "phx_close")),
    "phx_error of the inbox": Fault(ended("bridge:inbox", "phx_error")),
    "phx_error of the changes": Fault(ended("bridge:messages", "phx_error")),
    "token expired": Fault(ended("bridge:", "expiry")),
    "system error": Fault(ended("bridge:messages", "system")),
    "join denied": Fault(closed(1012), Realtime(denies="bridge:"), seconds=1),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_next_question_is_answered_and_wakeups_return(
    fault: Fault, proxied: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    async with working(proxied, sweep_seconds=SWEEP_SECONDS) as running:
        wakeups = Wakeups(running)
        await wakeups.both(user, session_id, within=5)
        async with fault.on(proxy):
            other = await user.open_session(title="named")
            message_id = await user.ask(other, "[[text=answered]]")
            before = claims(running, woken_by="sweep")
            assert (await user.reply(message_id))["content"] == "answered"
            assert claims(running, woken_by="sweep") <= before + 2  # by the next, or by one that was already running
        await wakeups.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_question_found_only_by_sweep_makes_worker_resubscribe(
    busy: bool, proxied: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    async with working(proxied, sweep_seconds=SWEEP_SECONDS, drain_seconds=0) as running:
        wakeups = Wakeups(running)
        if busy:  # while its beats report an empty queue, they replace the sweep
            other = await user.ask(await user.open_session(title="named"), "[[tokens=2000 delay=0.05]]")
            await user.reply(other, lambda row: row["seq"] > 0)
        before = running.metrics.value("bridge_resubscriptions_total")
        lost: list[str] = []

        def loses(frame: Frame) -> bool:
            event: str = frame["event"]
            announces = event == "postgres_changes" or (
                event == "broadcast" and frame["payload"]["event"] in ("work", "job")
            )
            if announces:
                lost.append(event)
            return announces

        proxy.realtime.loses = loses
        if not busy:  # ask right after a claim, so that the wait for the next one counts as a missed wake-up
            count = claims(running)
            await until(lambda: claims(running) > count, 20, 0.005)
        message_id = await user.ask(session_id, "[[text=found]]")
        assert (await user.reply(message_id))["content"] == "found"
        assert "broadcast" in lost
        assert running.metrics.value("bridge_missed_wakeups_total") == 1
        await proxy.calm()
        await wakeups.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)
        assert running.metrics.value("bridge_resubscriptions_total") == before + 2


async def test_idle_worker_replaces_dead_connection(proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    session_id = await user.open_session(title="named")
    async with working(proxied, sweep_seconds=30) as running:
        wakeups = Wakeups(running)
        broadcasts, sessions = running.listener.broadcasts, running.listener.broadcasts.sessions
        await proxy.swallow_sockets()
        await until(lambda: broadcasts.sessions > sessions and broadcasts.is_ready, BACK_SECONDS + SLACK_SECONDS)
        message_id = await user.ask(session_id, "[[text=fine]]")
        assert (await user.reply(message_id))["content"] == "fine"
        assert message_id in wakeups.by["broadcast"]
        assert running.metrics.value("bridge_missed_wakeups_total") == 0


async def test_database_no_longer_heard_ends_readiness(proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    """Connection, channel and what clients send are fine, but nothing comes from the database."""
    session_id = await user.open_session(title="named")
    async with working(proxied, sweep_seconds=30) as running:
        wakeups, inbox = Wakeups(running), running.listener.broadcasts
        sessions = inbox.sessions

        def is_from_the_database(frame: Frame) -> bool:
            return frame["event"] == "broadcast" and "id" in frame["payload"]["payload"]  # realtime.send adds it

        proxy.realtime.loses = is_from_the_database
        await until(lambda: running.listener.problem == "the database is not heard yet", BACK_SECONDS + SLACK_SECONDS)
        assert inbox.sessions == sessions + 1
        await proxy.calm()
        await until(lambda: inbox.is_ready, BACK_SECONDS + SLACK_SECONDS)
        assert inbox.sessions == sessions + 1
        await wakeups.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize("fault", [Rest(status=503), Rest(hangs=True)], ids=["refused", "unanswered"])
async def test_probe_that_cannot_be_sent_keeps_subscription(
    fault: Rest, proxied: dict[str, str], proxy: Proxy, user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If REST is down, the database has nothing to say; then an echo by socket is enough, and needed."""
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.1)
    session_id = await user.open_session(title="named")
    async with working(proxied, sweep_seconds=30) as running:
        wakeups, inbox = Wakeups(running), running.listener.broadcasts
        sessions, calls = inbox.sessions, proxy.calls["bridge_probe"]
        proxy.rest = replace(fault, only="bridge_probe")
        await until(lambda: proxy.calls["bridge_probe"] >= calls + 3 * rest.TRIES, 45)
        assert inbox.is_ready
        assert inbox.sessions == sessions
        await wakeups.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)
        await proxy.swallow_sockets()
        # each probe first takes all of its tries, whose pauses are not scaled
        await until(lambda: inbox.sessions > sessions, 4 * BACK_SECONDS)
        await proxy.calm()
        await until(lambda: inbox.is_ready, BACK_SECONDS + SLACK_SECONDS)


async def test_deltas_resume_when_connection_is_lost(proxied: dict[str, str], proxy: Proxy, user: Person) -> None:
    session_id = await user.open_session(title="named")
    events = await user.listen(f"session:{session_id}")
    async with working(proxied):
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await events.until(lambda events: len(events.of("delta")) > 3)
        await proxy.close_sockets(1012, "session:")
        count = len(events.of("delta"))
        await events.until(lambda events: len(events.of("delta")) > count + 3, within=BACK_SECONDS + SLACK_SECONDS)
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await events.until(lambda events: events.of("message", role="assistant", status="cancelled"))
        deltas = events.of("delta")
        # in order, none twice: text that could not be sent came with the next delta
        assert [delta["seq"] for delta in deltas] == sorted({delta["seq"] for delta in deltas})


async def test_channel_left_while_joining_can_be_joined_again(
    proxied: dict[str, str], proxy: Proxy, user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to the first join is not the reply to the leave, which the second join must wait for."""
    monkeypatch.setattr(channels, "CHANNELS_PER_CONNECTION", 1)
    one, other = [await user.open_session(title="named") for _ in range(2)]
    topic = f"realtime:session:{one}"
    settings = worker_settings(proxied)
    pool = SessionChannels(settings.realtime_url, settings.supabase_key, "test", set, lambda: None)
    running = asyncio.create_task(pool.supervisor.run())
    try:
        await until(lambda: pool.supervisor.is_ready, 10)
        (socket,) = proxy.sockets
        replies: list[Frame] = []

        def hold_back(frame: Frame) -> bool:
            """Let one reply on the topic through, and hold back the rest."""
            if frame["topic"] == topic and frame["event"] == "phx_reply":
                replies.append(frame)
                socket.down.clear()
            return False

        proxy.realtime.loses = hold_back
        socket.down.clear()
        pool.use(one)
        await until(lambda: topic in socket.topics, 10)
        pool.use(other)
        await until(lambda: topic not in socket.topics, 10)
        pool.use(one)
        socket.down.set()
        await until(lambda: replies, 10)
        await asyncio.sleep(2 * channels.LEAVE_SECONDS)  # longer than the pause after the reply to a leave
        await proxy.calm()
        socket.down.set()
        await until(lambda: pool.is_joined(one), 10)
        assert pool.supervisor.sessions == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
