"""`sessions.on_new_message`: what a new message does while a reply runs."""

from __future__ import annotations

import pytest
from postgrest.exceptions import APIError

from devstack.model import ModelServer
from tests.support.users import Person
from tests.support.workers import working

LONG = "[[tokens=5000 delay=0.02]]"


async def test_enqueue_answers_one_after_the_other(environment: dict[str, str], user: Person) -> None:
    session_id = await user.open_session(title="named")
    async with working(environment):
        first = await user.ask(session_id, "[[tokens=10 delay=0.02]]")
        second = await user.ask(session_id, "[[text=second]]")
        await user.reply(second)
        assert (await user.reply(first))["status"] == "done"


async def test_interrupt_keeps_the_partial_reply_and_answers_the_new_message(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    session_id = await user.open_session(title="named", on_new_message="interrupt")
    async with working(environment):
        first = await user.ask(session_id, LONG)
        await user.reply(first, lambda row: row["seq"] > 0)
        second = await user.ask(session_id, "[[text=second]]")
        assert (await user.reply(second))["content"] == "second"
        row = await user.reply(first)
        assert row["status"] == "cancelled"
        assert row["content"].startswith("word00")


async def test_reject_refuses_the_new_message(environment: dict[str, str], user: Person) -> None:
    session_id = await user.open_session(title="named", on_new_message="reject")
    async with working(environment):
        first = await user.ask(session_id, LONG)
        await user.reply(first, lambda row: row["seq"] > 0)
        with pytest.raises(APIError) as error:
            await user.ask(session_id, "too early")
        assert error.value.code == "PT409"
        assert error.value.message == "A reply is still running in this session"
        await user.client.rpc("cancel_message", {"message_id": first}).execute()
        await user.reply(first)
        assert (await user.reply(await user.ask(session_id, "[[text=now]]")))["content"] == "now"
