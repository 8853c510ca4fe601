"""A client as the docs describe it: it joins rows and deltas by attempt and seq.

It records every text that it would have shown, so that a test can assert what no user ever saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from postgrest.exceptions import APIError

from tests.support.database import Row
from tests.support.users import ENDED, Ear, Person
from tests.support.waiting import until

CHECKPOINT_SECONDS = 0.2
SILENCE_SECONDS = 5.0


@dataclass
class View:
    """The reply to one question, as one user sees it."""

    message_id: str
    attempt: int = 0
    seq: int = 0
    text: str = ""
    status: str = "queued"
    shown: list[tuple[int, str]] = field(default_factory=list)  # attempt and text, in order
    deltas: int = 0  # applied
    _pending: list[Row] = field(default_factory=list)  # deltas that do not follow yet

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def needs_rows(self) -> bool:
        """Whether a delta is missing."""
        return bool(self._pending) and not self.has_ended

    def on_row(self, row: Row) -> None:
        """Take a row that was read or broadcast."""
        if row.get("reply_to") != self.message_id or row["attempt"] < self.attempt:
            return
        if row["attempt"] > self.attempt or row["seq"] >= self.seq or row["status"] in ENDED:
            if "content" in row:
                self.attempt, self.seq, self.text = row["attempt"], row["seq"], row["content"]
            self.status = row["status"]
            self._show()
        self._apply()

    def on_delta(self, delta: Row) -> None:
        """Take a delta."""
        if delta.get("reply_to") == self.message_id:
            self._pending.append(delta)
            self._apply()

    def _apply(self) -> None:
        for delta in sorted(self._pending, key=lambda delta: (delta["attempt"], delta["seq"])):
            attempt, seq = delta["attempt"], delta["seq"]
            is_first = attempt > self.attempt and seq == 1
            if is_first or (attempt == self.attempt and seq == self.seq + 1 and not self.has_ended):
                if is_first:
                    self.text, self.status = "", "running"
                self.text = delta["content"] if "content" in delta else self.text + delta.get("text", "")
                self.attempt, self.seq = attempt, seq
                self.deltas += 1
                self._show()
        self._pending = [d for d in self._pending if (d["attempt"], d["seq"]) > (self.attempt, self.seq)]

    def _show(self) -> None:
        if not self.shown or self.shown[-1] != (self.attempt, self.text):
            self.shown.append((self.attempt, self.text))


@asynccontextmanager
async def watching(person: Person, session_id: str, message_id: str) -> AsyncIterator[View]:
    """Follow a reply. Enter this before the question is asked."""
    view = View(message_id)
    events = await person.listen(f"session:{session_id}", "delta", "message")
    following = asyncio.create_task(follow(person, view, events))
    try:
        yield view
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def follow(person: Person, view: View, events: Ear) -> None:
    """Follow a reply to its end, by the events of its session and the row."""
    taken = 0
    received_at = read_at = 0.0
    while not view.has_ended:
        events.changed.clear()
        for event, payload in events.heard[taken:]:
            received_at = time.monotonic()
            taken += 1
            view.on_delta(payload) if event == "delta" else view.on_row(payload)
        now = time.monotonic()
        is_silent = now - max(received_at, read_at) > SILENCE_SECONDS
        if is_silent or (view.needs_rows and now - read_at > CHECKPOINT_SECONDS):
            read_at = now
            with contextlib.suppress(APIError, httpx.HTTPError):  # REST is down, and will be back
                for row in await person.rows("messages", reply_to=view.message_id):
                    view.on_row(row)
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECKPOINT_SECONDS):
                await events.changed.wait()


async def ended(view: View, within: float = 30) -> None:
    """Wait until the user sees the reply's end."""
    await until(lambda: view.has_ended, within)
