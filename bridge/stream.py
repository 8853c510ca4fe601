"""One attempt's reply as a sequence of numbered deltas, joined to its checkpoints.

A delta gets its `seq` when it is cut, and text that could not be sent stays for the next one. So a checkpoint
`(seq, text)` holds exactly the deltas up to its `seq`: a client reads the row and continues with the next delta.
"""

from dataclasses import dataclass
from typing import Any

from bridge.model import Checkpoint, Partial
from bridge.sanitize import sanitize_json, sanitize_text, truncate_utf8

# A checkpoint writes the whole text. If the text grew by less than this share since the last one, it may skip one beat:
# otherwise the cost of a long reply in the database would grow with the square of its length.
SMALL_GROWTH = 1 / 8
# Larger fields are left out of an event and named in `omitted`; as `bridge.event_payload` in supabase/schemas.
FIELD_BYTES = 32_768


@dataclass(slots=True, eq=False)
class Stream:
    """One attempt's reply: the text so far, what of it was cut into deltas, what a checkpoint holds."""

    question_id: str
    reply_id: str
    session_id: str
    attempt: int
    seq: int = 0
    _text: str = ""
    _data: Any = None
    _sent_text: str = ""
    _sent_data: Any = None
    _before_delta: tuple[int, str, Any] = (0, "", None)
    _checkpointed_seq: int = 0
    _stored: tuple[str, Any] = ("", None)  # the text and data of the last checkpoint
    _skipped: bool = False  # the last beat left a small growth to the next one
    _highest_seq: int = 0  # the highest seq of any checkpoint, whether it arrived or not

    def set_partial(self, partial: Partial) -> None:
        """Take the reply so far."""
        self._text = sanitize_text(partial.text)
        if partial.data is not None and (data := sanitize_json(partial.data)) != self._data:
            self._data = data

    @property
    def newest(self) -> Partial:
        """The reply so far, cut into deltas or not."""
        return Partial(self._text, self._data)

    @property
    def is_dirty(self) -> bool:
        """Whether there is more than was cut."""
        return self._text != self._sent_text or self._data is not self._sent_data

    def next_delta(self) -> dict[str, Any] | None:
        """Cut the next delta: its payload, or None. Text comes before data; long text in several pieces."""
        delta: dict[str, Any]
        self._before_delta = (self.seq, self._sent_text, self._sent_data)
        if self._text != self._sent_text:
            if self._text.startswith(self._sent_text):
                start = len(self._sent_text)
                piece = truncate_utf8(self._text[start : start + FIELD_BYTES], FIELD_BYTES)
                self._sent_text += piece
                delta = {"text": piece}
            else:  # the model revised what it wrote before: send all of it
                self._sent_text = self._text
                delta = {"content": self._text}
        elif self._data is not self._sent_data:
            self._sent_data = self._data
            delta = {"data": self._data}
        else:
            return None
        self.seq += 1
        about = {"message_id": self.reply_id, "reply_to": self.question_id, "attempt": self.attempt, "seq": self.seq}
        return about | _omit_large_field(delta)

    def undo_delta(self) -> None:
        """The last delta was not sent: it becomes part of the next one, unless a checkpoint holds it already."""
        if self._highest_seq < self.seq:
            self.seq, self._sent_text, self._sent_data = self._before_delta

    def checkpoint(self, *, undelivered: bool) -> Checkpoint:
        """The lease's extension, with the reply so far if it grew since the last one.

        With `undelivered`, text that could not be sent is cut as well, so that readers of the row see it.
        """
        while undelivered and self.next_delta() is not None:
            pass
        if self.seq == self._checkpointed_seq:
            return Checkpoint(self.question_id, self.attempt)
        self._skipped = not undelivered and not self._skipped and self._grew_little()
        if self._skipped:
            return Checkpoint(self.question_id, self.attempt)
        self._stored = (self._sent_text, self._sent_data)
        self._checkpointed_seq = self._highest_seq = self.seq
        return Checkpoint(self.question_id, self.attempt, self.seq, self._sent_text, self._sent_data)

    def forget_checkpoint(self) -> None:
        """The last checkpoint did not arrive: the next beat carries one again."""
        self._checkpointed_seq = -1
        self._stored = ("", None)

    def _grew_little(self) -> bool:
        text, data = self._stored
        return self._sent_data is data and len(self._sent_text) - len(text) < SMALL_GROWTH * len(text)


def _omit_large_field(delta: dict[str, Any]) -> dict[str, Any]:
    (name, value), *_ = delta.items()
    if name == "text" or len(repr(value)) <= FIELD_BYTES:
        return delta
    return {"omitted": [name]}
