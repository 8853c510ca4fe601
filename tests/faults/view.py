"""A client as a frontend is told to write one: rows and deltas joined by attempt and seq.

It keeps every text that it would have shown, so that a test can say what no person ever saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.database import Row
from tests.support.users import ENDED, Ear, Person
from tests.support.waiting import until

CHECKPOINT_SECONDS = 0.2
SILENCE_SECONDS = 5.0


@dataclass
class View:
    """The reply to one question, as one person sees it."""

    message_id: str
    attempt: int = 0
    seq: int = 0
    text: str = ""
    status: str = "queued"
    shown: list[tuple[int, str]] = field(default_factory=list)  # attempt and text, in order
    deltas: int = 0  # applied
    _kept: list[Row] = field(default_factory=list)
    _lacks: bool = False

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def needs_rows(self) -> bool:
        """Whether a gap is open."""
        return self._lacks

    def row(self, row: Row) -> None:
        """A row that was read, or heard of."""
        if row.get("reply_to") != self.message_id or row["attempt"] < self.attempt:
            return
        if row["attempt"] > self.attempt or row["seq"] >= self.seq or row["status"] in ENDED:
            if "content" in row:
                self.attempt, self.seq, self.text = row["attempt"], row["seq"], row["content"]
            self.status = row["status"]
            self._show()
        self._apply()

    def delta(self, delta: Row) -> None:
        """A delta that was heard."""
        if delta.get("reply_to") == self.message_id:
            self._kept.append(delta)
            self._apply()

    def _apply(self) -> None:
        progress = True
        while progress:
            progress = False
            for delta in self._kept:
                attempt, seq = delta["attempt"], delta["seq"]
                begins = attempt > self.attempt and seq == 1
                if begins or (attempt == self.attempt and seq == self.seq + 1 and not self.has_ended):
                    if begins:
                        self.text, self.status = "", "running"
                    self.text = delta["content"] if "content" in delta else self.text + delta.get("text", "")
                    self.attempt, self.seq = attempt, seq
                    self.deltas += 1
                    self._show()
                    progress = True
                    break
        self._kept = [d for d in self._kept if (d["attempt"], d["seq"]) > (self.attempt, self.seq)]
        self._lacks = bool(self._kept) and not self.has_ended

    def _show(self) -> None:
        if not self.shown or self.shown[-1] != (self.attempt, self.text):
            self.shown.append((self.attempt, self.text))


@asynccontextmanager
async def watching(person: Person, session_id: str, message_id: str) -> AsyncIterator[View]:
    """Watch a reply, from before the question is asked."""
    view = View(message_id)
    ear = await person.listen(f"session:{session_id}", "delta", "message")
    following = asyncio.create_task(_follow(person, view, ear))
    try:
        yield view
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def _follow(person: Person, view: View, ear: Ear) -> None:
    heard_to = 0
    heard_at = read_at = 0.0
    while not view.has_ended:
        ear.changed.clear()
        for event, payload in ear.heard[heard_to:]:
            heard_at = time.monotonic()
            heard_to += 1
            view.delta(payload) if event == "delta" else view.row(payload)
        now = time.monotonic()
        silent = now - max(heard_at, read_at) > SILENCE_SECONDS
        if silent or (view.needs_rows and now - read_at > CHECKPOINT_SECONDS):
            read_at = now
            rows: list[dict[str, Any]] = await person.rows("messages", reply_to=view.message_id)
            for row in rows:
                view.row(row)
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECKPOINT_SECONDS):
                await ear.changed.wait()


async def ended(view: View, within: float = 30) -> None:
    """Wait until the person sees that the reply has ended."""
    await until(lambda: view.has_ended, within)
