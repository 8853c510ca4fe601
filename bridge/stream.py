"""One attempt's reply as a sequence of deltas: what was said, what of it was cut, what a checkpoint holds.

A delta gets its `seq` when it is cut, and what could not be sent stays with the next one, so a checkpoint
`(seq, text)` holds exactly the deltas up to its `seq`: that joins the fast lane and the durable one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge.model import Checkpoint, Partial
from bridge.wire import fit, fit_json

# A checkpoint writes the whole text. One that grew by less than this share since may wait for the next beat, once:
# otherwise what a long reply costs the database would grow with the square of its length.
LITTLE = 1 / 8
# Fields above this are left out of an event and named in `omitted`; see bridge.event_payload in supabase/schemas.
FIELD_BYTES = 32_768


@dataclass(slots=True, eq=False)
class Stream:
    """One attempt's reply on its way to the session's topic."""

    message_id: str
    reply_id: str
    session_id: str
    attempt: int
    seq: int = 0
    first_sent_at: float | None = None
    due: float = 0.0  # when the outbox may send the next delta, in monotonic seconds
    is_queued: bool = False  # the outbox is going to look at it
    joins_until: float = 0.0  # up to when its channel may be on its way for the first time, in monotonic seconds
    _text: str = ""
    _data: Any = None
    _sent_text: str = ""
    _sent_data: Any = None
    _before: tuple[int, str, Any] = (0, "", None)
    _checkpointed: int = 0
    _stored: tuple[str, Any] = ("", None)  # what the last checkpoint had
    _waited: bool = False  # the last beat had something to write and left it to the next one
    _told: int = 0  # the highest seq that a checkpoint ever had, whether it arrived or not

    def put(self, partial: Partial) -> None:
        """Take the reply so far."""
        self._text = fit(partial.text)
        if partial.data is not None and (data := fit_json(partial.data)) != self._data:
            self._data = data

    @property
    def text(self) -> str:
        """The text as the deltas up to `seq` make it."""
        return self._sent_text

    @property
    def newest(self) -> Partial:
        """All that was put in, sent or not."""
        return Partial(self._text, self._data)

    @property
    def is_dirty(self) -> bool:
        """Whether there is more than was cut."""
        return self._text != self._sent_text or self._data is not self._sent_data

    def cut(self) -> dict[str, Any] | None:
        """The next delta's payload, or None. Text comes before data; long text in several pieces."""
        delta: dict[str, Any]
        self._before = (self.seq, self._sent_text, self._sent_data)
        if self._text != self._sent_text:
            if self._text.startswith(self._sent_text):
                piece = _head(self._text[len(self._sent_text) :])
                self._sent_text += piece
                delta = {"text": piece}
            else:  # the model took something back: all of it anew
                self._sent_text = self._text
                delta = {"content": self._text}
        elif self._data is not self._sent_data:
            self._sent_data = self._data
            delta = {"data": self._data}
        else:
            return None
        self.seq += 1
        return {
            "message_id": self.reply_id,
            "reply_to": self.message_id,
            "attempt": self.attempt,
            "seq": self.seq,
            **_slim(delta),
        }

    def undo(self) -> None:
        """The last cut was not sent: it stays with the next one. But what a checkpoint has holds for good."""
        if self._told < self.seq:
            self.seq, self._sent_text, self._sent_data = self._before

    def checkpoint(self, *, unheard: bool) -> Checkpoint:
        """The lease's extension, with the reply so far if it grew since the last one.

        With `unheard`, what nobody could be sent is cut all the same, so that readers of the row see it.
        """
        while unheard and self.cut() is not None:
            pass
        if self.seq == self._checkpointed:
            return Checkpoint(self.message_id, self.attempt)
        self._waited = not unheard and not self._waited and self._grew_little()
        if self._waited:
            return Checkpoint(self.message_id, self.attempt)
        self._stored = (self._sent_text, self._sent_data)
        self._checkpointed = self._told = self.seq
        return Checkpoint(self.message_id, self.attempt, self.seq, self._sent_text, self._sent_data)

    def _grew_little(self) -> bool:
        text, data = self._stored
        return self._sent_data is data and len(self._sent_text) - len(text) < LITTLE * len(text)

    def forget_checkpoint(self) -> None:
        """The last checkpoint did not arrive: the next beat carries one again."""
        self._checkpointed = -1
        self._stored = ("", None)


def _head(text: str) -> str:
    """As much of the text as fits into a field."""
    if len(text) * 4 <= FIELD_BYTES or len(data := text.encode()) <= FIELD_BYTES:
        return text
    return data[:FIELD_BYTES].decode("utf-8", "ignore")


def _slim(delta: dict[str, Any]) -> dict[str, Any]:
    """Leave a field out that is too large for an event, and name it."""
    (name, value), *_ = delta.items()
    if name == "text" or len(repr(value)) <= FIELD_BYTES:
        return delta
    return {"omitted": [name]}
