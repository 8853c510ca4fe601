"""Faults of the model: each kind is retried or fails as classified, and a failed question is a dead letter."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from bridge import turn
from bridge.errors import MOST_BAD_OUTPUTS
from bridge.realtime import publisher
from devstack.model import ModelServer
from tests.faults.tcp_proxy import TcpProxy
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working

MAX_FAILURES = 3
FIRST_RETRY_SECONDS = 0.2
PATIENCE: dict[str, Any] = {"first_token_seconds": 2, "idle_seconds": 1.5, "max_failures": MAX_FAILURES}
TEXT = "one two three four five six seven"


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "FIRST_RETRY_SECONDS", FIRST_RETRY_SECONDS)


@dataclass(frozen=True)
class Case:
    """A fault of the scripted model, and the result that it must have."""

    script: str
    status: str
    attempts: int
    code: str = ""
    function: str = "Chat"


DONE, FAILED = "done", "failed"
CASES = [
    # permanent: never retried
    Case("error=401", FAILED, 1, "model_refused"),
    Case("error=400", FAILED, 1, "model_refused"),
    Case("error=403", FAILED, 1, "model_refused"),
    # transient, but it lasts: MAX_FAILURES attempts
    Case("error=429", FAILED, MAX_FAILURES, "model_busy"),
    Case("error=500", FAILED, MAX_FAILURES, "model_unavailable"),
    Case("stall=2", FAILED, MAX_FAILURES, "model_stalled"),
    Case("stall=0", FAILED, MAX_FAILURES, "model_silent"),
    Case("cut=2", FAILED, MAX_FAILURES, "model_cut"),
    Case("clean_cut=2", FAILED, MAX_FAILURES, "model_cut"),
    Case("fail=2", FAILED, MAX_FAILURES, "model_unavailable"),
    Case('json="no {structure"', FAILED, MOST_BAD_OUTPUTS, "model_output", "Code"),
    Case("finish=content_filter", FAILED, 1, "model_filtered"),
    # transient, and soon over
    Case("error=500 times=2", DONE, 3),
    Case("error=429 times=1", DONE, 2),
    Case("stall=2 times=1", DONE, 2),
    Case("cut=2 times=1", DONE, 2),
    Case("clean_cut=2 times=1", DONE, 2),
    Case("fail=2 times=2", DONE, 3),
]


async def test_each_fault_is_retried_or_fails_as_classified(
    environment: dict[str, str], model: ModelServer, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    began = time.monotonic()
    async with working(environment, **PATIENCE) as running:
        asked = {}
        for n, case in enumerate(CASES):
            text = "" if "json=" in case.script else f' text="{n} {TEXT}"'
            session_id = await user.open_session(case.function, title="named")
            asked[await user.ask(session_id, f"[[{case.script}{text}]]")] = (n, case)
        found: list[Any] = []
        wanted: list[Any] = []
        for message_id, (n, case) in asked.items():
            reply = await user.reply(message_id)
            cursor = await db.execute(
                "select outcome, error ->> 'code' as code from bridge.runs where question_id = %s order by attempt",
                [message_id],
            )
            attempts = [(row["outcome"], row["code"]) for row in await cursor.fetchall()]
            cursor = await db.execute(
                "select failures, error from bridge.dead_letters where question_id = %s", [message_id]
            )
            dead = [(row["failures"], row["error"]["code"]) for row in await cursor.fetchall()]
            error = reply["error"] and reply["error"]["code"]
            found.append((case.script, reply["status"], error, reply["attempt"], len(attempts), dead))
            if case.status == DONE:
                wanted.append((case.script, DONE, None, case.attempts, case.attempts, []))
                assert reply["content"] == f"{n} {TEXT}", "earlier attempts left text behind"
                assert [outcome for outcome, _ in attempts] == ["failed"] * (case.attempts - 1) + ["done"]
            else:
                letter = [(case.attempts, case.code)]
                wanted.append((case.script, FAILED, case.code, case.attempts, case.attempts, letter))
                assert attempts == [("failed", case.code)] * case.attempts, "an attempt is missing"
        assert found == wanted
        # every connection to the provider is closed
        await model.until(lambda model: model.open == 0)
        mine = [exchange for exchange in model.requests if exchange.started_at > began]
        stalled = [exchange.outcome for exchange in mine if exchange.prompt.last.startswith("[[stall=0")]
        assert stalled == ["dropped"] * MAX_FAILURES
        assert running.jobs.count == 0


def pauses_in(caplog: pytest.LogCaptureFixture) -> list[float]:
    """The pause before each retry that the worker logged, in seconds."""
    found = [vars(record).get("retry_ms") for record in caplog.records]
    return [milliseconds / 1000 for milliseconds in found if milliseconds is not None]


async def test_retry_after_header_sets_pause(
    environment: dict[str, str], model: ModelServer, user: Person, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(environment, **PATIENCE):
        busy = "[[error=429 retry_after=2 times=1 text=busy]]"
        down = "[[error=503 retry_after=1.5 times=1 text=down]]"
        asked = [await user.ask(await user.open_session(title="named"), script) for script in (busy, down)]
        for message_id in asked:
            assert (await user.reply(message_id))["status"] == "done"
    for script, seconds in ((busy, 2.0), (down, 1.5)):
        first, second = [exchange.started_at for exchange in model.requests if exchange.prompt.last == script]
        assert seconds <= second - first
    assert sorted(pauses_in(caplog)) == [1.5, 2.0]


async def test_pause_doubles_with_each_retry(
    environment: dict[str, str], model: ModelServer, user: Person, caplog: pytest.LogCaptureFixture
) -> None:
    script = "[[error=500 times=3 text=patience]]"
    async with working(environment, max_failures=5):
        message_id = await user.ask(await user.open_session(title="named"), script)
        assert (await user.reply(message_id))["content"] == "patience"
    times = [exchange.started_at for exchange in model.requests if exchange.prompt.last == script]
    waited = [later - earlier for earlier, later in pairwise(times)]
    logged = pauses_in(caplog)
    assert len(waited) == len(logged) == 3
    for failures, (pause, seconds) in enumerate(zip(logged, waited, strict=True)):
        longest = FIRST_RETRY_SECONDS * 2**failures
        assert int(longest * 500) / 1000 <= pause <= longest
        assert pause <= seconds


async def test_retry_replaces_partial_reply(
    environment: dict[str, str], user: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await user.open_session(title="named")
    events = await user.listen(f"session:{session_id}")
    # so that every delta is sent, however slow the join: no checkpoint comes first, and the end waits for it
    monkeypatch.setattr(publisher, "JOIN_PATIENCE_SECONDS", 20)
    async with working(environment, **PATIENCE, checkpoint_seconds=60, lease_seconds=600):
        message_id = await user.ask(session_id, f'[[text="{TEXT}" delay=0.05 cut=4 times=1]]')
        reply = await user.reply(message_id)
        await events.until(lambda events: events.of("message", role="assistant", status="done"))
    assert (reply["attempt"], reply["content"]) == (2, TEXT)
    for attempt in (1, 2):
        deltas = events.of("delta", attempt=attempt)
        assert [delta["seq"] for delta in deltas] == list(range(1, len(deltas) + 1))
        assert TEXT.startswith("".join(delta["text"] for delta in deltas))
    assert "".join(delta["text"] for delta in events.of("delta", attempt=2)) == TEXT


async def test_unreachable_or_silent_model_recovers(
    environment: dict[str, str], model_proxy: TcpProxy, user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, **PATIENCE | {"idle_seconds": 60}):
        session_id = await user.open_session(title="named")

        async def ask() -> Row:
            return await user.reply(await user.ask(session_id, f'[[text="{TEXT}"]]'))

        await model_proxy.refuse()
        reply = await ask()
        assert (reply["status"], reply["error"]["code"], reply["attempt"]) == (
            *("failed", "model_unreachable"),
            MAX_FAILURES,
        )
        await model_proxy.listen()
        model_proxy.swallows_new = True
        reply = await ask()  # it takes less than 20 s, although a model may be idle for 60 s
        assert (reply["status"], reply["error"]["code"], reply["attempt"]) == ("failed", "model_silent", MAX_FAILURES)
        await until(lambda: not model_proxy.links, 10)  # no connection to the provider is left open
        model_proxy.swallows_new, model_proxy.resets_new = False, True
        reply = await ask()
        assert (reply["status"], reply["attempt"]) == ("failed", MAX_FAILURES)
        model_proxy.resets_new = False
        reply = await ask()
        assert (reply["status"], reply["content"]) == ("done", TEXT)
        (letters,) = await (await db.execute("select count(*) from bridge.dead_letters")).fetchall()
        assert letters["count"] == 3
