"""Names a session after its first exchange, with the BAML function `Title` if it is configured."""

import asyncio
import logging
from contextlib import aclosing

from bridge.functions import Functions
from bridge.model import Completion, Job, Message, Session, Turn
from bridge.store import Store

log = logging.getLogger(__name__)

TITLE = "Title"
TITLE_LENGTH = 80  # characters
TITLE_SECONDS = 30.0


async def name_session(job: Job, reply: str, functions: Functions, store: Store) -> None:
    """Give the job's session a title if it has none. A failure is logged: the next exchange tries again."""
    if job.turn is None or job.turn.session.title:
        return
    try:
        async with asyncio.timeout(TITLE_SECONDS):
            if title := await make_title(functions, job.turn.message, reply):
                await store.set_title(job.turn.session.id, title.text)
    except Exception as error:
        extra = {"question_id": job.question_id, "session_id": job.turn.session.id}
        log.warning("no title: %s", error, extra=extra)


async def make_title(functions: Functions, message: str, reply: str) -> Completion | None:
    """Ask the function `Title`, with the arguments `message`, `reply` and `messages`; None without a title."""
    if TITLE not in functions.names:
        return None
    messages = (Message("user", message), Message("assistant", reply))
    session = Session(id="", user_id="", title=None, function=TITLE, metadata={})
    turn = Turn(TITLE, message, messages, files=(), session=session, user_id="", data={"reply": reply})
    async with aclosing(functions.run(turn)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                line = next((line for line in piece.text.splitlines() if line.strip()), "").strip(" \t\"'“”*#")
                title = line[:TITLE_LENGTH].strip()
                return Completion(title, usage=piece.usage) if title else None
    return None
