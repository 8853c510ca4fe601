"""One attempt's reply as a sequence of numbered deltas, joined to its checkpoints.

A delta gets its `seq` when it is cut, and text that could not be sent stays for the next one. So a checkpoint
`(seq, text)` holds exactly the deltas up to its `seq`: a client reads the row and continues with the next delta.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from bridge.model import Checkpoint, Partial
from bridge.sanitize import sanitize_json, sanitize_text, truncate_utf8

# A checkpoint writes the whole text. If the text grew by less than this share since the last one, it may skip one beat:
# otherwise the cost of a long reply in the database would grow with the square of its length.
SMALL_GROWTH = 1 / 8
# Larger fields are left out of an event and named in `omitted`; as `bridge.event_payload` in supabase/schemas.
FIELD_BYTES = 32_768


class _Place(NamedTuple):
    """A place in a text that is kept in pieces: so many characters of it stand before."""

    characters: int = 0
    piece: int = 0
    offset: int = 0  # in that piece


_START = _Place()
# What of the text was cut: up to a place in it, or a text of its own, which the model has revised since.
_Sent = _Place | str


@dataclass(slots=True, eq=False)
class Stream:
    """One attempt's reply: the text so far, what of it was cut into deltas, what a checkpoint holds.

    To take a piece of text and to cut a delta costs as much as the piece is long, however long the text is: handlers
    may write one word at a time.
    """

    question_id: str
    reply_id: str
    session_id: str
    attempt: int
    seq: int = 0
    _pieces: list[str] = field(default_factory=list)
    _length: int = 0  # characters of all pieces
    _data: Any = None
    _sent: _Sent = _START
    _sent_data: Any = None
    _before_delta: tuple[int, _Sent, Any] = (0, _START, None)
    _checkpointed_seq: int = 0
    _stored: tuple[int, Any] = (0, None)  # the characters and the data of the last checkpoint
    _skipped: bool = False  # the last beat left a small growth to the next one
    _highest_seq: int = 0  # the highest seq of any checkpoint, whether it arrived or not

    def set_partial(self, partial: Partial) -> None:
        """Take what is new of the reply."""
        text = sanitize_text(partial.text)  # piece by piece, as no character depends on another
        if not partial.is_added:
            self._replace(text)
        elif text:
            self._pieces.append(text)
            self._length += len(text)
        if partial.data is not None and (data := sanitize_json(partial.data)) != self._data:
            self._data = data

    def _replace(self, text: str) -> None:
        seq, place, data = self._before_delta
        sent, before = self._read(self._sent), self._read(place)
        self._pieces, self._length = [text], len(text)
        self._sent, self._before_delta = self._find(sent), (seq, self._find(before), data)

    def _read(self, sent: _Sent) -> str:
        if isinstance(sent, str):
            return sent
        pieces = list(islice(self._pieces, sent.piece))
        if sent.offset:
            pieces.append(self._pieces[sent.piece][: sent.offset])
        return "".join(pieces)

    def _find(self, sent: str) -> _Sent:
        """The place up to which a text was cut, if the text in one piece begins with it."""
        (text,) = self._pieces
        return _Place(len(sent), 0, len(sent)) if text.startswith(sent) else sent

    @property
    def newest(self) -> Partial:
        """The reply so far, cut into deltas or not."""
        return Partial("".join(self._pieces), self._data)

    @property
    def is_dirty(self) -> bool:
        """Whether there is more than was cut."""
        return self._has_text or self._data is not self._sent_data

    @property
    def _has_text(self) -> bool:
        if isinstance(self._sent, str):  # by what was added since, the text may begin with it
            self._replace("".join(self._pieces))
        return isinstance(self._sent, str) or self._sent.characters != self._length

    def next_delta(self) -> dict[str, Any] | None:
        """Cut the next delta: its payload, or None. Text comes before data; long text in several pieces."""
        delta: dict[str, Any]
        has_text = self._has_text
        self._before_delta = (self.seq, self._sent, self._sent_data)
        if has_text and isinstance(self._sent, _Place):
            delta = {"text": self._cut(self._sent)}
        elif has_text:  # the model revised what it wrote before: send all of it
            (text,) = self._pieces
            self._sent = _Place(self._length, 0, self._length)
            delta = {"content": text}
        elif self._data is not self._sent_data:
            self._sent_data = self._data
            delta = {"data": self._data}
        else:
            return None
        self.seq += 1
        about = {"message_id": self.reply_id, "reply_to": self.question_id, "attempt": self.attempt, "seq": self.seq}
        return about | _omit_large_field(delta)

    def _cut(self, place: _Place) -> str:
        """Cut text for one delta, at most FIELD_BYTES."""
        taken, room = [], FIELD_BYTES
        at, offset = place.piece, place.offset
        while room and at < len(self._pieces):
            taken.append(self._pieces[at][offset : offset + room])
            room -= len(taken[-1])
            at, offset = at + 1, 0
        text = truncate_utf8("".join(taken), FIELD_BYTES)
        self._sent = self._move(place, len(text))
        return text

    def _join(self, text: str) -> None:
        """Keep what was cut in one piece. The last delta can no longer be undone."""
        if isinstance(self._sent, _Place):
            _, at, offset = self._sent
            self._pieces[: at + 1] = [text, *(piece[offset:] for piece in self._pieces[at : at + 1])]
            self._sent = _Place(len(text), 1)
            self._before_delta = (self.seq, self._sent, self._sent_data)

    def _move(self, place: _Place, count: int) -> _Place:
        at, offset, left = place.piece, place.offset, count
        while left and left >= len(self._pieces[at]) - offset:
            left -= len(self._pieces[at]) - offset
            at, offset = at + 1, 0
        return _Place(place.characters + count, at, offset + left)

    def undo_delta(self) -> None:
        """The last delta was not sent: it becomes part of the next one, unless a checkpoint holds it already."""
        if self._highest_seq < self.seq:
            self.seq, self._sent, self._sent_data = self._before_delta

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
        text = self._read(self._sent)
        self._stored = (len(text), self._sent_data)
        self._checkpointed_seq = self._highest_seq = self.seq
        self._join(text)
        return Checkpoint(self.question_id, self.attempt, self.seq, text, self._sent_data)

    def forget_checkpoint(self) -> None:
        """The last checkpoint did not arrive: the next beat carries one again."""
        self._checkpointed_seq = -1
        self._stored = (0, None)

    def _grew_little(self) -> bool:
        stored, data = self._stored
        length = len(self._sent) if isinstance(self._sent, str) else self._sent.characters
        return self._sent_data is data and length - stored < SMALL_GROWTH * stored


def _omit_large_field(delta: dict[str, Any]) -> dict[str, Any]:
    (name, value), *_ = delta.items()
    if name == "text" or len(repr(value)) <= FIELD_BYTES:
        return delta
    return {"omitted": [name]}
