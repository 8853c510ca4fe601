"""Examples to start from. Change them, or put files of your own beside this one."""

import pytest

from bridge import TurnFailure


# A function, against a scripted model.
async def test_chat_sends_the_question_and_returns_the_answer(ask, model):
    reply = await ask("Chat", "[[text=Hello!]]")
    assert reply.text == "Hello!"
    assert model.requests[-1].body["messages"][-1]["role"] == "user"


# What the model may do wrong.
async def test_chat_fails_without_an_answer(ask):
    with pytest.raises(TurnFailure) as failure:
        await ask("Chat", "[[text=]]")
    assert failure.value.code == "model_empty"


# A handler, by hand. (Yours: `from handlers import echo`.)
async def shout(turn):
    for word in turn.message.split():
        yield word.upper() * turn.data.get("times", 1)


async def test_handler_yields_a_piece_for_each_word(turn):
    assert [piece async for piece in shout(turn("one two", times=2))] == ["ONEONE", "TWOTWO"]


# Your migrations and tables, with the official client.
async def test_user_starts_without_sessions(user):
    assert await user.rows("sessions") == []
