"""`cancel_message` reaches the provider, keeps the text and frees the slot."""

from __future__ import annotations

import time

import psycopg
import pytest

from devstack.model import ModelServer
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import working


async def cancel(user: Person, message_id: str) -> str:
    return str((await user.client.rpc("cancel_message", {"message_id": message_id}).execute()).data)


@pytest.mark.quiet
async def test_cancel_closes_the_providers_connection(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    # no checkpoint takes what a join that is under way would have to say
    async with working(environment, concurrency=1, checkpoint_seconds=60, lease_seconds=600) as worker:
        session_id = await user.open_session(title="named")
        ear = await user.listen(f"session:{session_id}")
        message_id = await user.ask(session_id, "[[tokens=5000 delay=0.02]]")
        await ear.until(lambda ear: len(ear.of("delta")) >= 3)
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
        await ear.until(lambda ear: ear.of("message", role="assistant", status="cancelled"))
        assert "".join(delta["text"] for delta in ear.of("delta")) == row["content"]
        assert row["seq"] == len(ear.of("delta"))

        # the one slot is free, and the next one knows what was said
        second = await user.ask(session_id, "[[echo]]")
        assert (await user.reply(second))["status"] == "done"
        said = [message["content"] for message in model.requests[-1].body["messages"]]
        assert any(row["content"].strip() in str(content) for content in said)
        await until(lambda: not worker.hands, within=10)  # it has heard that the last one is written
        assert worker.metrics.value("bridge_attempts_total", outcome="cancelled") == 1
        assert worker.metrics.value("bridge_attempts_total", outcome="done") == 1
        assert worker.metrics.value("bridge_attempts_total") == 2


async def test_cancel_of_a_queued_question_ends_it_at_once(environment: dict[str, str], user: Person) -> None:
    session_id = await user.open_session(title="named")
    first = await user.ask(session_id, "never mind")
    second = await user.ask(session_id, "[[text=second]]")
    assert await cancel(user, first) == "cancelled"
    assert await cancel(user, first) == "cancelled"
    async with working(environment):
        assert (await user.reply(second))["content"] == "second"
    assert await user.rows("messages", reply_to=first) == []
    assert await cancel(user, second) == "done"


async def test_cancel_is_heard_by_the_heartbeat_with_broadcasts_lost(
    environment: dict[str, str], user: Person, model: ModelServer
) -> None:
    async with working(environment, checkpoint_seconds=0.2) as worker:
        message_id = await user.ask(await user.open_session(title="named"), "[[tokens=5000 delay=0.02]]")
        await user.reply(message_id, lambda row: row["seq"] > 0)
        worker.inbox._put = lambda signal: None  # type: ignore[method-assign]  # deaf from here on
        assert await cancel(user, message_id) == "cancelling"
        assert (await user.reply(message_id))["status"] == "cancelled"  # left alone it would talk for 100 s


async def test_deleting_the_session_stops_the_reply(
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
    # what was said is paid for, although nothing of it is left
    (used,) = await (await db.execute("select tokens from bridge.usage")).fetchall()
    assert used["tokens"] > 0
