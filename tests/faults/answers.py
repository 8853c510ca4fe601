"""Users who answer what replies ask them: at once, or near the deadline, and sometimes from two devices at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from postgrest.exceptions import APIError

from tests.faults.agent_plan import LATE, LATE_SECONDS, NEVER
from tests.support.database import Row
from tests.support.users import Person

POLL_SECONDS = 0.2
DEVICES = (1, 1, 2)


@dataclass(frozen=True, slots=True)
class Given:
    """A call of `answer_message`, and what it returned: None if there was no response, and it may have been taken."""

    question_id: str
    ask: str
    value: Any
    state: str | None


class Answers:
    """Answers as all of these users until it is cancelled."""

    def __init__(self, people: Sequence[Person], seed: int) -> None:
        self.given: list[Given] = []
        self._people = people
        self._seed = seed

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            for person in self._people:
                group.create_task(self._watch(person, group))

    async def _watch(self, person: Person, group: asyncio.TaskGroup) -> None:
        seen: set[tuple[str, str, int]] = set()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                rows = await person.rows("messages", role="assistant", status="waiting")
            except (APIError, httpx.HTTPError):
                continue  # Postgres or REST is down, and will be back
            for row in rows:
                for ask in _open_asks(row):
                    key = (row["reply_to"], ask, row["attempt"])
                    if key not in seen and not ask.startswith(NEVER):
                        seen.add(key)
                        rng = random.Random(f"{self._seed} {key}")
                        for _ in range(rng.choice(DEVICES)):
                            most = LATE_SECONDS * 1.2 if ask.startswith(LATE) else 0.2
                            pause, value = rng.uniform(0, most), {"approved": rng.random() < 0.5}
                            group.create_task(self._give(person, row["reply_to"], ask, value, pause))

    async def _give(self, person: Person, question_id: str, ask: str, value: Any, pause: float) -> None:
        await asyncio.sleep(pause)
        arguments = {"message_id": question_id, "ask": ask, "answer": value}
        state: str | None = None
        while state is None:
            try:
                state = str((await person.client.rpc("answer_message", arguments).execute()).data)
            except APIError as error:
                state = error.code if (error.code or "").startswith("PT") else None
            except httpx.HTTPError:
                pass
            self.given.append(Given(question_id, ask, value, state))
            if state is None:
                await asyncio.sleep(POLL_SECONDS)


def _open_asks(row: Row) -> list[str]:
    return [part["toolCallId"] for part in row["parts"] or [] if part.get("state") == "approval-requested"]
