"""`cancel_message` closes the provider's connection, keeps the text so far and frees the slot."""

from __future__ import annotations

import time

import psycopg
import pytest

from devstack.model import ModelServer
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import outcomes, working


async def cancel(user: Person, message_id: str) -> str:
    return str((await user.client.rpc("cancel_message", {"message_id": message_id}).execute()).data)


@pytest.mark.quiet
async def test_cancel_closes_provider_connection(environment: dict[str, str], model: ModelServer, user: Person) -> None:
    # no checkpoint takes text from the deltas while the channel is being joined
    async with working(environment, concurrency=1, checkpoint_seconds=60, lease_seconds=600) as worker:
        session_id = await user.open_session(title="named")
        events = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await events.until(lambda events: len(events.of("delta")) >= 3)
        exchange = model.requests[-1]

        asked_at = time.monotonic()
        assert await cancel(user, message_id) == "cancelling"
        await exchange.ended.wait()
        assert exchange.outcome == "dropped"
        assert exchange.ended_at is not None
        assert exchange.ended_at - asked_at < 0.2

        row = await user.reply(message_id)
        assert row["status"] == "cancelled"
        assert row["content"].startswith("word00 word01")
        await events.until(lambda events: events.of("message", role="assistant", status="cancelled"))
        assert "".join(delta["text"] for delta in events.of("delta")) == row["content"]
        assert row["seq"] == len(events.of("delta"))

        # the only slot is free, and the next question's history has the cancelled text
        second = await user.ask(session_id, "[[echo]]")
        assert (await user.reply(second))["status"] == "done"
        history = [message["content"] for message in model.requests[-1].body["messages"]]
        assert any(row["content"].strip() in str(content) for content in history)
        await until(lambda: not worker.jobs.count, within=10)  # its last result is acknowledged
        assert outcomes(worker) == {"cancelled": 1, "done": 1}


async def test_cancel_of_queued_question_ends_it_at_once(environment: dict[str, str], user: Person) -> None:
    session_id = await user.open_session(title="named")
    first = await user.ask(session_id, "never mind")
    second = await user.ask(session_id, "[[text=second]]")
    assert await cancel(user, first) == "cancelled"
    assert await cancel(user, first) == "cancelled"
    async with working(environment):
        assert (await user.reply(second))["content"] == "second"
    assert await user.rows("messages", reply_to=first) == []
    assert await cancel(user, second) == "done"


async def test_beat_reports_cancel_whose_broadcast_was_lost(
    environment: dict[str, str], user: Person, model: ModelServer
) -> None:
    async with working(environment, checkpoint_seconds=0.2) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        worker.listener._enqueue = lambda signal: None  # type: ignore[method-assign]  # drop all signals
        assert await cancel(user, message_id) == "cancelling"
        assert (await user.reply(message_id))["status"] == "cancelled"  # uncancelled, it would take 100 s


async def test_delete_of_session_stops_reply(
    environment: dict[str, str], user: Person, model: ModelServer, db: psycopg.AsyncConnection[Row]
) -> None:
    async with working(environment, checkpoint_seconds=0.2) as worker:
        session_id = await user.open_session(title="named")
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        exchange = model.requests[-1]
        await user.client.table("sessions").delete().eq("id", session_id).execute()
        await model.until(lambda model: exchange.outcome == "dropped")
        worker.drain()
    assert worker.metrics.value("bridge_leases_lost_total") == 1
    # the tokens count as used, although the reply no longer exists
    (used,) = await (await db.execute("select tokens from bridge.usage")).fetchall()
    assert used["tokens"] > 0
