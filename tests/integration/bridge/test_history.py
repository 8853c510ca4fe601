"""What the model reads of the conversation before a question."""

from __future__ import annotations

from devstack.model import ModelServer
from tests.support.users import Person
from tests.support.workers import working


async def test_structured_reply_is_visible_to_the_next_turn(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    option = '{"name": "Train", "price": 4.5, "pros": ["quick"], "cons": [], "verdict": "For all."}'
    async with working(environment, functions="Compare,Chat"):
        session_id = await user.open_session("Compare", title="named")
        asked = f'[[json={{"reply": "The train.", "options": [{option}]}}]]'
        assert (await user.reply(await user.ask(session_id, asked)))["status"] == "done"
        await user.client.table("sessions").update({"function": "Chat"}).eq("id", session_id).execute()
        assert (await user.reply(await user.ask(session_id, "[[text=fine]]")))["content"] == "fine"
    sent = model.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert sent[2]["content"].startswith("The train.\n<data>\n")
    assert '"name":"Train"' in sent[2]["content"]
    assert "reply" not in sent[2]["content"]


async def test_failed_question_is_invisible_to_the_next_turn(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    async with working(environment, functions="Chat", max_failures=1):
        session_id = await user.open_session(title="named")
        assert (await user.reply(await user.ask(session_id, "[[text=one]] first")))["status"] == "done"
        assert (await user.reply(await user.ask(session_id, "[[error=400]] refused")))["status"] == "failed"
        assert (await user.reply(await user.ask(session_id, "[[text=three]] third")))["content"] == "three"
    sent = model.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert not any("refused" in message["content"] for message in sent)


async def test_session_of_structured_replies_gets_a_title(
    environment: dict[str, str], model: ModelServer, user: Person
) -> None:
    async with working(environment, functions="Compare,Title"):
        session_id = await user.open_session("Compare")
        asked = '[[json={"reply": "", "options": []}]] Train or bus?'
        reply = await user.reply(await user.ask(session_id, asked))
        assert (reply["status"], reply["content"], reply["data"]) == ("done", "", {"reply": "", "options": []})
        await model.until(lambda server: server.requests[-1].prompt.kind == "title")
    assert '{"reply": "", "options": []}' in model.requests[-1].prompt.last
