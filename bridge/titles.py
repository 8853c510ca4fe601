"""A title for a session, from its first exchange."""

from __future__ import annotations

from contextlib import aclosing

from bridge.functions import Functions
from bridge.model import Completion, Message, Session, Turn

TITLE = "Title"
TITLE_LENGTH = 80  # characters


async def make_title(functions: Functions, message: str, reply: str) -> Completion | None:
    """Run the function `Title` and give its first line; None if it is not configured or gives nothing.

    It is a function like any other; its parameters may be `message`, `reply` and `messages`. Raises TurnFailure.
    """
    if TITLE not in functions.names:
        return None
    turn = Turn(
        function=TITLE,
        message=message,
        messages=(Message("user", message), Message("assistant", reply)),
        files=(),
        session=Session(id="", user_id="", title=None, function=TITLE, metadata={}),
        user_id="",
        data={"reply": reply},
    )
    completion = None
    async with aclosing(functions.run(turn)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                completion = piece
    if completion is None:
        return None
    line = next((line for line in completion.text.splitlines() if line.strip()), "").strip(" \t\"'“”*#")
    return Completion(line[:TITLE_LENGTH].strip(), usage=completion.usage) if line else None
