"""Names a session after its first exchange, with the BAML function `Title` if it is configured."""

import asyncio
import json
import logging
import re
from contextlib import aclosing, suppress
from dataclasses import replace

from bridge.errors import StoreError, TurnFailure
from bridge.functions import Functions
from bridge.model import Completion, Job, Message, Result, Session, Turn, Usage
from bridge.sanitize import sanitize_json
from bridge.store import Store
from bridge.turn import CHARACTERS_PER_TOKEN, TITLE

log = logging.getLogger(__name__)

TITLE_LENGTH = 80  # characters
TITLE_SECONDS = 30.0
BUSY_SECONDS = (0.0, 0.2, 1.0, 5.0)  # the pause before each try, as the session may be locked
ANSWER_LENGTH = 20_000  # characters of a model's answer that are searched for a title
READ_LENGTH = 4000  # characters of the question, and of the reply, that the function sees

# What models write around a title: a preface that ends with a colon, a label, a fence, Markdown, quotes.
_REASONING = re.compile(r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.S | re.I)
_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*$", re.M)
_PREFACE = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|here(?:'s| is| are)|based on|a (?:good|possible|suitable)"
    r"|the title|possible titles?|suggested titles?)\b.*?:\s*$",
    re.I,
)
_LABEL = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)\b[^:]{0,40}?)?(?:here(?:'s| is)[^:]{0,60}"
    r"|(?:the |a |suggested |session )?(?:chat |conversation )?title)\s*[:：]\s*(?=\S)",
    re.I,
)
_MARKUP = " \t\"'“”„«»‘’`*_#>"
_COURTESY = re.compile(r"^(?:sure|certainly|of course|absolutely|okay)[!.]\s+(?=\S)", re.I)
_LIST = re.compile(r"^(?:[-•]|\d+[.)])\s+")


async def name_session(job: Job, result: Result, functions: Functions, store: Store) -> None:
    """Give the job's session a title, and charge what it cost. A failure is logged: the next exchange tries again."""
    if job.turn is None:
        return
    session, reply = job.turn.session, _reply_of(result)
    title: str | None = None
    usage, was_asked = Usage(), True
    try:
        async with asyncio.timeout(TITLE_SECONDS):
            if completion := await make_title(functions, _question_of(job.turn), reply):
                title, usage = completion.text or None, completion.usage
    except Exception as error:
        if isinstance(error, TurnFailure):
            usage, was_asked = error.usage or usage, error.was_asked
        _warn(job, error)
    if was_asked and functions.characters_of(replace(job.turn, function=TITLE)):  # a handler reports its own cost
        read = (len(job.turn.message[:READ_LENGTH]) + len(reply[:READ_LENGTH])) // CHARACTERS_PER_TOKEN
        usage = replace(usage, input_tokens=usage.input_tokens or read)
    try:
        for pause in BUSY_SECONDS:
            await asyncio.sleep(pause)
            if await store.title(session, title, usage):
                return
        log.warning("no title: the session was locked", extra=_about(job))
    except StoreError as error:
        _warn(job, error)


def _question_of(turn: Turn) -> str:
    """The question's text, or the names of its attachments."""
    return turn.message or " ".join(attachment.name for attachment in turn.attachments)


def _warn(job: Job, error: Exception) -> None:
    # the message of a failure may be the model's own words
    reason = f"{error.code} {error.detail}" if isinstance(error, TurnFailure) else str(error)
    log.warning("no title: %s", reason.strip() or type(error).__name__, extra=_about(job))


def _about(job: Job) -> dict[str, str | None]:
    return {"question_id": job.question_id, "session_id": job.turn.session.id if job.turn is not None else None}


def _reply_of(result: Result) -> str:
    """The reply's text, or else its data."""
    if result.text or result.data is None:
        return result.text or ""
    return json.dumps(sanitize_json(result.data), ensure_ascii=False)


async def make_title(functions: Functions, message: str, reply: str) -> Completion | None:
    """Ask the function `Title`, with the arguments `message`, `reply` and `messages`; None without that function.

    The text of the completion is the title, empty if there is none in the answer.
    """
    if TITLE not in functions.names:
        return None
    message, reply = message[:READ_LENGTH], reply[:READ_LENGTH]
    messages = (Message("user", message), Message("assistant", reply))
    session = Session(id="", user_id="", title=None, function=TITLE, metadata={})
    turn = Turn(TITLE, message, messages, files=(), session=session, user_id="", data={"reply": reply})
    async with aclosing(functions.run(turn)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                return Completion(clean_title(piece.text or _title_in(piece.data)), usage=piece.usage)
    return None


def clean_title(answer: str) -> str:
    """Return the title in a model's answer, without what models write around it; empty if there is none."""
    answer = _FENCE.sub("", _REASONING.sub("", answer[:ANSWER_LENGTH])).strip()
    if answer.startswith(("{", "[", '"')):
        with suppress(ValueError, RecursionError):
            answer = _title_in(json.loads(answer)) or answer
    lines = [stripped for line in answer.splitlines() if (stripped := line.strip(_MARKUP))]
    if len(lines) > 1 and _PREFACE.match(lines[0]):
        del lines[0]
    if not lines:
        return ""
    line = _LABEL.sub("", _LIST.sub("", lines[0]).strip(_MARKUP))
    line = _COURTESY.sub("", line).strip(_MARKUP)
    if line.endswith(".") and not line.endswith("..") and line.count(".") == 1:
        line = line[:-1]
    return line[:TITLE_LENGTH].strip()


def _title_in(data: object) -> str:
    """The title in a structured answer: a string, the first item, or the field `title`, otherwise the first string."""
    if isinstance(data, str):
        return data
    if isinstance(data, list) and data:
        return _title_in(data[0])
    if isinstance(data, dict):
        named = {str(key).lower(): value for key, value in data.items()}
        values = [named.get("title"), named.get("name"), *named.values()]
        return next((value for value in values if isinstance(value, str) and value.strip()), "")
    return ""
