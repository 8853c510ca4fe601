"""The questions of a chaos run and the replies that they must get: planned from the seed, asked through REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
from postgrest.exceptions import APIError

from tests.faults.checker import Expected
from tests.faults.view import View, follow
from tests.support.users import Ear, Person

MESSAGES_PER_SESSION = 12
CODE_EVERY = 6  # every sixth session writes code files
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "knoll", "north")
TRANSIENT_FAULTS = ("error=500", "error=429 retry_after=0.3", "cut={n}", "clean_cut={n}", "fail={n}", "stall={n}")


@dataclass(frozen=True, slots=True)
class Question:
    """A planned question, the reply it must get, and whether its user cancels or retries it later."""

    session: int
    content: str
    expected: Expected
    cancels_after: float | None = None
    retries_after: float | None = None
    function: str = "Chat"


def plan(count: int, seed: int) -> list[Question]:
    """All questions of a run, in order."""
    rng = random.Random(seed)
    sessions = max(1, count // MESSAGES_PER_SESSION)
    return [_question(rng, n, rng.randrange(sessions)) for n in range(count)]


def is_code(session: int) -> bool:
    return session % CODE_EVERY == CODE_EVERY - 1


def _question(rng: random.Random, n: int, session: int) -> Question:
    mark = f"m{n:05d}"
    text = " ".join([mark, *(f"{rng.choice(WORDS)}{k}" for k in range(rng.randrange(5, 50)))])
    directives = [f"delay={rng.choice((0, 0, 0.005, 0.01, 0.03))}"]
    fate = rng.random()
    error = None
    if fate < 0.14:
        directives.append(rng.choice(TRANSIENT_FAULTS).format(n=rng.randrange(6)) + " times=1")
    elif fate < 0.18:
        directives.append("error=400")
        error = "model_refused"
    expected = Expected(str(uuid.UUID(int=rng.getrandbits(128), version=4)), "", text, mark, error=error)
    if is_code(session):
        path, content = f"{mark}.txt", f"{mark} content"
        data = {"reply": text, "files": [{"path": path, "content": content, "language": "text"}]}
        directives.append(f"json={json.dumps(data)}")
        expected = replace(expected, data=data, files={path: content})
    else:
        directives.append(f'text="{text}"')
    cancels = rng.uniform(0, 2) if rng.random() < 0.06 else None
    retries = rng.uniform(2, 15) if cancels is None and rng.random() < 0.03 else None
    function = "Code" if is_code(session) else "Chat"
    return Question(session, f"[[{' '.join(directives)}]]", expected, cancels, retries, function)


# How long to repeat a failing call once the time for questions is over.
GIVE_UP_SECONDS = 60.0


class Load:
    """Asks the planned questions at a steady rate, as several users. Failed calls are repeated until they succeed.

    The replies in every session whose number can be divided by `follows` are followed, as by a client.
    """

    def __init__(
        self, people: Sequence[Person], questions: Sequence[Question], rate: float, until: float, follows: int = 0
    ) -> None:
        self.accepted: dict[str, Expected] = {}
        self.refused: list[str] = []
        self.views: list[View] = []
        self.following: set[asyncio.Task[None]] = set()
        self._follows = follows
        self._ears: dict[str, Ear] = {}  # by session
        self._people = people
        self._questions = questions
        self._rate = rate
        self._until = until
        self._sessions: dict[int, asyncio.Task[str]] = {}

    async def run(self) -> None:
        """Return when every question was asked, or at `until`."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            queues: list[asyncio.Queue[Question | None]] = [asyncio.Queue() for _ in self._people]
            for person, queue in zip(self._people, queues, strict=True):
                group.create_task(self._ask_from(person, queue, group))
            for n, question in enumerate(self._questions):
                await asyncio.sleep(max(0, began + n / self._rate - time.monotonic()))
                if time.monotonic() > self._until:
                    break
                queues[question.session % len(queues)].put_nowait(question)
            for queue in queues:
                queue.put_nowait(None)

    async def _ask_from(self, person: Person, queue: asyncio.Queue[Question | None], group: asyncio.TaskGroup) -> None:
        sessions: dict[int, str] = {}
        while (question := await queue.get()) is not None:
            if time.monotonic() > self._until:
                continue
            if question.session not in sessions:
                sessions[question.session] = await self._open_session(person, question)
            session_id = sessions[question.session]
            expected = replace(question.expected, session_id=session_id)
            row = {"id": expected.message_id, "session_id": session_id, "content": question.content}
            if session_id in self._ears and question.cancels_after is None:  # that may end without a reply
                self.views.append(View(expected.message_id))
                self.following.add(asyncio.create_task(follow(person, self.views[-1], self._ears[session_id])))
            if await self._call(partial(_insert, person, "messages", row)):
                self.accepted[expected.message_id] = expected
            if question.cancels_after is not None:
                group.create_task(self._later(person, expected.message_id, question.cancels_after, "cancel_message"))
            if question.retries_after is not None:
                group.create_task(self._later(person, expected.message_id, question.retries_after, "retry_message"))

    async def _open_session(self, person: Person, question: Question) -> str:
        session_id = str(uuid.uuid4())
        row = {"id": session_id, "function": question.function, "title": f"session {question.session}"}
        await self._call(partial(_insert, person, "sessions", row))
        if self._follows and question.session % self._follows == 0:
            with contextlib.suppress(PermissionError, TimeoutError, OSError):  # Realtime or Postgres is down
                self._ears[session_id] = await person.listen(f"session:{session_id}", "delta", "message")
        return session_id

    async def _later(self, person: Person, message_id: str, seconds: float, function: str) -> None:
        await asyncio.sleep(seconds)
        before = self.accepted[message_id]
        # recorded before the call, which may take effect even if its response is lost
        if function == "cancel_message":
            self.accepted[message_id] = replace(before, cancelled=True)
        retried = message_id if function == "retry_message" else None
        await self._call(partial(_rpc, person, function, message_id), retried)

    async def _call(self, call: Callable[[], Awaitable[object]], retried: str | None = None) -> bool:
        """Repeat a call until there is a response; return whether it was accepted, now or when a response was lost."""
        while True:
            if retried is not None:
                before = self.accepted[retried]
                self.accepted[retried] = replace(before, retries=before.retries + 1)
            try:
                await call()
            except APIError as error:
                if error.code == "23505":
                    return True
                if (error.code or "").startswith(("PT", "42", "22", "23")):
                    self.refused.append(f"{error.code} {error.message}")
                    return False
            except httpx.HTTPError:
                pass  # Postgres or REST is down, and will be back
            else:
                return True
            if time.monotonic() > self._until + GIVE_UP_SECONDS:
                raise TimeoutError("REST still fails, although every fault has ended")
            await asyncio.sleep(0.2)


async def _insert(person: Person, table: str, row: dict[str, Any]) -> None:
    await person.client.table(table).insert(row).execute()


async def _rpc(person: Person, function: str, message_id: str) -> None:
    await person.client.rpc(function, {"message_id": message_id}).execute()
