"""Realtime goes wrong: the next message is answered all the same, and wake-ups are back soon after the fault's end.

The worker's own times are a fifth of what they are outside, and so are the bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from bridge import claims as claiming
from bridge.realtime import channels, connection, listener, publisher, supervisor
from bridge.realtime.channels import SessionChannels
from bridge.realtime.listener import Signal, Work
from bridge.worker import Worker
from tests.faults.proxy import Frame, Proxy
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import claims, worker_settings, working

pytestmark = pytest.mark.quiet

SCALE = 0.2
MODULES = (channels, claiming, connection, listener, publisher, supervisor)
BACK_SECONDS = 15 * SCALE
SWEEP_SECONDS = 1.0
# what a busy machine may add to any of it
SLACK_SECONDS = 1.0

Fault = Callable[[Proxy], AbstractAsyncContextManager[None]]


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("JOIN_SECONDS", "FIRST_BACKOFF_SECONDS", "LONGEST_BACKOFF_SECONDS"),
        *("PROBE_SECONDS", "PROBE_ANSWER_SECONDS", "ANNOUNCED_MS"),
    ):
        owners = [module for module in MODULES if hasattr(module, name)]
        assert owners, f"{name} is known nowhere any more"
        for module in owners:  # a name that was imported is another one
            monkeypatch.setattr(module, name, getattr(module, name) * SCALE)


class Heard:
    """Which questions the worker heard of, and how."""

    def __init__(self, worker: Worker) -> None:
        self.by: dict[str, set[str]] = {"broadcast": set(), "changes": set()}
        self._enqueue = worker.listener._enqueue
        worker.listener._enqueue = self.enqueue  # type: ignore[method-assign]  # it listens in

    def enqueue(self, signal: Signal) -> None:
        if isinstance(signal, Work) and signal.source in self.by:
            self.by[signal.source].update(signal.question_ids)
        self._enqueue(signal)

    async def both(self, user: Person, session_id: str, within: float) -> float:
        """Ask until both ways tell of a question that was asked from now on; return after how many seconds.

        Raises TimeoutError, naming the way that stayed silent.
        """
        asked: set[str] = set()
        began = time.monotonic()
        while time.monotonic() - began < within:
            asked.add(await user.ask(session_id, "[[text=probe]]"))
            await asyncio.sleep(0.1)
            if all(asked & heard for heard in self.by.values()):
                return time.monotonic() - began
        silent = [way for way, heard in self.by.items() if not asked & heard]
        raise TimeoutError(f"{within:g} s after the fault's end nothing is heard by {' and '.join(silent)}")


# -- the faults ------------------------------------------------------------------------------------------


def closed(code: int) -> Fault:
    @asynccontextmanager
    async def fault(proxy: Proxy) -> AsyncIterator[None]:
        await proxy.close_sockets(code)
        yield

    return fault


def ended(topic: str, event: str) -> Fault:
    @asynccontextmanager
    async def fault(proxy: Proxy) -> AsyncIterator[None]:
        assert proxy.of(topic)
        await proxy.end_topics(topic, event)  # type: ignore[arg-type]  # one of its words
        yield

    return fault


@asynccontextmanager
async def was_reset(proxy: Proxy) -> AsyncIterator[None]:
    proxy.reset_sockets()
    yield


@asynccontextmanager
async def refused(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.resets = True
    proxy.reset_sockets()
    yield
    await asyncio.sleep(20 * SCALE)  # the library itself gives up after 15 s, for ever


@asynccontextmanager
async def answered_503(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.status = 503
    await proxy.close_sockets(1012)
    yield
    await asyncio.sleep(1)


@asynccontextmanager
async def black_hole(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.hangs = True
    proxy.swallow_sockets()
    yield
    # long enough that the worker has begun to connect anew, and is in it when the fault ends
    count = proxy.handshakes
    await until(lambda: proxy.handshakes >= count + 2, 10)


@asynccontextmanager
async def opened_then_silent(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.swallows_new = True
    proxy.swallow_sockets()
    yield
    count = proxy.handshakes
    await until(lambda: proxy.handshakes >= count + 2, 10)


@asynccontextmanager
async def half_open_up(proxy: Proxy) -> AsyncIterator[None]:
    proxy.swallow_sockets(way="up")
    yield


@asynccontextmanager
async def half_open_down(proxy: Proxy) -> AsyncIterator[None]:
    proxy.swallow_sockets(way="down")
    yield


@asynccontextmanager
async def heartbeats_unanswered(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.drops_heartbeats = True
    yield


@asynccontextmanager
async def dead_but_answering_pings(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.deaf = True
    yield
    await asyncio.sleep(BACK_SECONDS)


@asynccontextmanager
async def join_denied(proxy: Proxy) -> AsyncIterator[None]:
    proxy.realtime.denies = "bridge:"
    await proxy.close_sockets(1012)
    yield
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(closed(1000), id="closed 1000"),
        pytest.param(closed(1001), id="closed 1001"),
        pytest.param(closed(1012), id="closed 1012"),
        pytest.param(was_reset, id="reset"),
        pytest.param(refused, id="refused for long"),
        pytest.param(answered_503, id="handshakes answered 503"),
        pytest.param(black_hole, id="black hole"),
        pytest.param(opened_then_silent, id="opened, then silent"),
        pytest.param(half_open_up, id="half-open: nothing is sent"),
        pytest.param(half_open_down, id="half-open: nothing is received"),
        pytest.param(heartbeats_unanswered, id="heartbeats unanswered"),
        pytest.param(dead_but_answering_pings, id="dead but answering pings"),
        pytest.param(ended("bridge:inbox", "phx_close"), id="phx_close of the inbox"),
        pytest.param(ended("bridge:messages", "phx_close"), id="phx_close of the changes"),
        pytest.param(ended("bridge:inbox", "phx_error"), id="phx_error of the inbox"),
        pytest.param(ended("bridge:messages", "phx_error"), id="phx_error of the changes"),
        pytest.param(ended("bridge:", "expiry"), id="token expired"),
        pytest.param(ended("bridge:messages", "system"), id="system error"),
        pytest.param(join_denied, id="join denied"),
    ],
)
async def test_the_next_message_is_answered_and_wake_ups_come_back(
    fault: Fault, cut_off: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    async with working(cut_off, sweep_seconds=SWEEP_SECONDS) as running:
        heard = Heard(running)
        await heard.both(user, session_id, within=5)
        async with fault(proxy):
            other = await user.open_session(title="named")
            message_id = await user.ask(other, "[[text=answered]]")
            before = claims(running, woken_by="sweep")
            await user.reply(message_id, lambda _: True)  # it is claimed: by the next sweep, or the one under way
            assert claims(running, woken_by="sweep") <= before + 2
            assert (await user.reply(message_id))["content"] == "answered"
        await proxy.calm()
        await heard.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_lost_event_is_found_by_the_sweep_which_trusts_the_subscription_no_more(
    busy: bool, cut_off: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    async with working(cut_off, sweep_seconds=SWEEP_SECONDS, drain_seconds=0) as running:
        heard = Heard(running)
        if busy:  # its beats say that nothing waits, until something does
            other = await user.ask(await user.open_session(title="named"), "[[tokens=2000 delay=0.05]]")
            await user.reply(other, lambda row: row["seq"] > 0)
        before = running.listener.resubscriptions
        lost: list[str] = []

        def loses(frame: Frame) -> bool:
            told: bool = (frame["event"] == "broadcast" and frame["payload"]["event"] == "work") or (
                frame["event"] == "postgres_changes"
            )
            if told:
                lost.append(frame["event"])
            return told

        proxy.realtime.loses = loses
        if not busy:  # right after a claim, so that it waits for the next one long enough to count as missed
            count = claims(running)
            await until(lambda: claims(running) > count, 20, 0.005)
        message_id = await user.ask(session_id, "[[text=found]]")
        assert (await user.reply(message_id))["content"] == "found"
        assert "broadcast" in lost
        assert running.metrics.value("bridge_missed_wakeups_total") == 1
        await proxy.calm()
        await heard.both(user, session_id, within=BACK_SECONDS + SLACK_SECONDS)
        assert running.listener.resubscriptions == before + 2


async def test_a_dead_connection_is_noticed_while_nobody_asks(
    cut_off: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    async with working(cut_off, sweep_seconds=30) as running:
        heard = Heard(running)
        broadcasts, sessions = running.listener.broadcasts, running.listener.broadcasts.sessions
        proxy.swallow_sockets()
        await until(lambda: broadcasts.sessions > sessions and broadcasts.is_ready, BACK_SECONDS + SLACK_SECONDS)
        message_id = await user.ask(session_id, "[[text=heard]]")
        assert (await user.reply(message_id))["content"] == "heard"
        assert message_id in heard.by["broadcast"]
        assert running.metrics.value("bridge_missed_wakeups_total") == 0


async def test_deltas_flow_again_when_their_connection_was_lost(
    cut_off: dict[str, str], proxy: Proxy, user: Person
) -> None:
    session_id = await user.open_session(title="named")
    ear = await user.listen(f"session:{session_id}")
    async with working(cut_off):
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await ear.until(lambda ear: len(ear.of("delta")) > 3)
        await proxy.close_sockets(1012, "session:")
        count = len(ear.of("delta"))
        await ear.until(lambda ear: len(ear.of("delta")) > count + 3, within=BACK_SECONDS + SLACK_SECONDS)
        await user.client.rpc("cancel_message", {"message_id": message_id}).execute()
        await ear.until(lambda ear: ear.of("message", role="assistant", status="cancelled"))
        deltas = ear.of("delta")
        # in order, none twice: what could not be sent came with the next one
        assert [delta["seq"] for delta in deltas] == sorted({delta["seq"] for delta in deltas})


async def test_a_channel_that_is_given_up_while_it_is_joined_and_wanted_again(
    cut_off: dict[str, str], proxy: Proxy, user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to its join is none to its leave: what waits for that one does not begin before."""
    monkeypatch.setattr(channels, "CHANNELS_PER_CONNECTION", 1)
    one, other = [await user.open_session(title="named") for _ in range(2)]
    topic = f"realtime:session:{one}"
    settings = worker_settings(cut_off)
    ours = SessionChannels(settings.realtime_url, settings.supabase_key, "test", set, lambda: None)
    running = asyncio.create_task(ours.supervisor.run())
    try:
        await until(lambda: ours.supervisor.is_ready, 10)
        (socket,) = proxy.sockets
        answers: list[Frame] = []

        def shuts(frame: Frame) -> bool:
            """Let one answer on the topic through, and no more."""
            if frame["topic"] == topic and frame["event"] == "phx_reply":
                answers.append(frame)
                socket.down.shut()
            return False

        proxy.realtime.loses = shuts
        socket.down.shut()
        ours.use(one)
        await until(lambda: topic in socket.topics, 10)
        ours.use(other)
        await until(lambda: topic not in socket.topics, 10)
        ours.use(one)
        socket.down.open()
        await until(lambda: answers, 10)
        await asyncio.sleep(2 * channels.LEAVE_SECONDS)  # longer than what is waited after the answer to a leave
        await proxy.calm()
        socket.down.open()
        await until(lambda: ours.is_joined(one), 10)
        assert ours.supervisor.sessions == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
