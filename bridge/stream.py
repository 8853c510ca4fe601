"""One attempt's reply as a sequence of numbered deltas, joined to its checkpoints.

A delta gets its `seq` when it is cut, and text that could not be sent stays for the next one. So a checkpoint
`(seq, text)` holds exactly the deltas up to its `seq`: a client reads the row and continues with the next delta.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from bridge.model import Checkpoint, Kept, Partial, Settled
from bridge.sanitize import sanitize_json, sanitize_text, truncate_utf8

# A checkpoint writes the whole text. If the text grew by less than this share since the last one, it may skip one beat:
# otherwise the cost of a long reply in the database would grow with the square of its length.
SMALL_GROWTH = 1 / 8
# Larger fields are left out of an event and named in `omitted`; as `bridge.event_payload` in supabase/schemas.
FIELD_BYTES = 32_768
# Of all parts of a reply, as JSON. What does not fit is not shown; messages_parts_size allows twice as much.
PARTS_BYTES = 1 << 20
CHARACTER_BYTES = 6  # of a character in JSON, at most
# More are not shown, whatever they are: each one is looked for among all others, and sent in an event of its own.
MOST_PARTS = 1000
STEP_START: Mapping[str, Any] = {"type": "step-start"}  # what finished steps have shown ends here
LEFT_OUT = "(left out: the reply has too many parts)"
# Of what the model thinks in one go; and all of it takes at most half of the room, as other parts matter more.
REASONING_BYTES = 1 << 16
REASONING_CUT = "\n\n(The rest of the reasoning is left out.)"

Part = Mapping[str, Any]


class _Place(NamedTuple):
    """A place in a text that is kept in pieces: so many characters of it stand before."""

    characters: int = 0
    piece: int = 0
    offset: int = 0  # in that piece


_START = _Place()


class _Before(NamedTuple):
    """What was sent before the last delta, and the part that this one has."""

    seq: int
    sent: "_Sent"
    data: Any
    parts: tuple[Part, ...]
    closed: int
    added_bytes: int = 0  # by this delta, to all parts
    part: Part | str | None = None  # text: of reasoning


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
    _parts: tuple[Part, ...] = ()  # of what was sent; text behind them is open
    _closed: int = 0  # characters of the text that are in parts
    # Parts to send, behind so many characters of text; what is a text itself is a piece of reasoning.
    _pending: deque[tuple[int, Part | str]] = field(default_factory=deque)
    _part_bytes: int = 0  # of all parts, sent or not, and of the texts that they close
    _begins_step: bool = False  # what comes next was not shown by a finished step
    _stored_seq: int = 0  # the row is known to have so much, and these parts
    _stored_parts: tuple[Part, ...] = ()
    _before_delta: "_Before" = field(default_factory=lambda: _Before(0, _START, None, (), 0))
    _checkpointed_seq: int = 0
    _written: tuple[int, Any] = (0, None)  # the characters and the data of the last checkpoint
    _skipped: bool = False  # the last beat left a small growth to the next one
    _highest_seq: int = 0  # the highest seq of any checkpoint, whether it arrived or not

    def set_partial(self, partial: Partial) -> None:
        """Take what is new of the reply."""
        text = sanitize_text(partial.text)  # piece by piece, as no character depends on another
        place = self._length if partial.is_added else self._replace(text)
        if partial.reasoning:
            self._think(sanitize_text(partial.reasoning), place)
        if partial.is_added and text:
            self._begin_step()
            self._pieces.append(text)
            self._length += len(text)
        if partial.part is not None:
            self._show(sanitize_json(partial.part))
        if partial.data is not None and (data := sanitize_json(partial.data)) != self._data:
            self._data = data

    def resume(self, kept: Kept) -> None:
        """Begin behind what earlier attempts have shown and the row keeps."""
        text = sanitize_text(kept.text)
        self.seq = self._checkpointed_seq = self._highest_seq = self._stored_seq = kept.seq
        self._pieces, self._length = [text], len(text)
        self._sent = _Place(len(text), 1)
        self._data = self._sent_data = kept.data
        self._written = (len(text), kept.data)
        self._parts = self._stored_parts = kept.parts
        self._closed = sum(len(part["text"]) for part in kept.parts if part.get("type") == "text")
        self._part_bytes = sum(map(_size, kept.parts))
        self._begins_step = True
        self._before_delta = self._snapshot()

    def has_part(self, key: str) -> bool:
        """Whether a part of this key was shown."""
        return any(part_key(part) == key for part in self._parts) or self._is_pending(key)

    def _is_pending(self, key: object) -> bool:
        return any(not isinstance(part, str) and part_key(part) == key for _, part in self._pending)

    def _begin_step(self) -> None:
        if self._begins_step:
            self._begins_step = False
            if (self._length or self._parts or self._pending) and self._has_room and self._fits(_size(STEP_START)):
                self._append(STEP_START)

    def _show(self, part: Part) -> None:
        """Take a part. One that is too much is shown without its output, or not at all."""
        key = part_key(part)
        if not isinstance(key, str) or not self.has_part(key):
            if not self._has_room:
                return
            self._begin_step()
        elif part in self._parts and not self._is_pending(key):
            return  # shown already
        if not self._fits(_size(part)) and "output" in part:
            part = {**part, "output": LEFT_OUT}
        if self._fits(_size(part)):
            self._append(part)

    def _think(self, text: str, place: int) -> None:
        """Take a piece of reasoning, behind so many characters of the text. If there is no room, it is not shown."""
        self._begin_step()
        size = _inner_size(text)
        has_room = self._part_bytes + size <= PARTS_BYTES // 2 and self._count < MOST_PARTS // 2
        if not has_room or not self._fits(size):
            return
        self._part_bytes += size
        if self._pending and isinstance(last := self._pending[-1][1], str) and self._pending[-1][0] == place:
            self._pending[-1] = (place, last + text)
        else:
            self._pending.append((place, text))
        if isinstance(self._sent, _Place) and place < self._sent.characters:
            self._sent = self._read(self._sent)  # what was sent behind it comes again

    @property
    def _has_room(self) -> bool:
        """Whether one more part can be shown."""
        return self._count < MOST_PARTS

    @property
    def _count(self) -> int:
        return len(self._parts) + len(self._pending)

    def _fits(self, size: int = 0) -> bool:
        """Whether there is room for a part of so many bytes, and for the text that it closes."""
        room = PARTS_BYTES - self._part_bytes - size - (len(self._pending) + 1) * _FRAMES
        characters = self._length - self._closed
        if characters * CHARACTER_BYTES <= room:
            return True
        return characters <= room and _size("".join(self._pieces)[self._closed :]) <= room

    def _append(self, part: Part) -> None:
        self._part_bytes += _size(part)
        self._pending.append((self._length, part))

    def _place_part(self, part: Part) -> None:
        """Put a part that was cut into its place: that of the same key, or behind the text, which it closes."""
        key = part_key(part)
        for at, other in enumerate(self._parts):
            if key is not None and part_key(other) == key:
                self._part_bytes -= _size(other)
                self._parts = (*self._parts[:at], part, *self._parts[at + 1 :])
                return
        self._close_text()
        self._parts = (*self._parts, part)

    def _cut_thought(self) -> str:
        """Cut the next piece of reasoning: for the part that grows, or for a new one, which closes the text."""
        at, text = self._pending.popleft()
        assert isinstance(text, str)
        growing, room = self._growing, self._room_to_think
        piece = truncate_utf8(text, min(room, FIELD_BYTES))
        if piece != text and room > FIELD_BYTES:
            self._pending.appendleft((at, text[len(piece) :]))
            self._part_bytes -= _inner_size(piece)
        else:
            self._part_bytes -= _inner_size(text)
            piece += REASONING_CUT if piece != text else ""
        if growing is None:
            self._close_text()
            part = _thought_part(piece)
            self._part_bytes += _size(part)
            self._parts = (*self._parts, part)
        else:
            self._part_bytes += _inner_size(piece)
            self._parts = (*self._parts[:-1], {**growing, "text": growing["text"] + piece})
        return piece

    @property
    def _growing(self) -> Part | None:
        """The part to which reasoning is added: the last one, if nothing is behind it."""
        is_last = self._parts and isinstance(self._sent, _Place) and self._sent.characters == self._closed
        return self._parts[-1] if is_last and self._parts[-1].get("type") == "reasoning" else None

    @property
    def _room_to_think(self) -> int:
        """How many bytes may be added to the part of reasoning; less than 0: it was cut."""
        room = REASONING_BYTES - len(REASONING_CUT)
        if self._growing is None:
            return room
        text = self._growing.get("text")  # of a handler's part, anything
        return room - len(text.encode()) if isinstance(text, str) else -1

    def _reopen(self, text: str) -> bool:
        """Open the texts in parts from where the model has revised them; False if it has not."""
        parts: list[Part] = []
        closed, is_revised = 0, False
        for part in self._parts:
            if part.get("type") != "text":
                parts.append(part)
                continue
            same = 0 if is_revised else _common_length(part["text"], text[closed : closed + len(part["text"])])
            is_revised = is_revised or same < len(part["text"])
            if same:
                parts.append({**part, "text": part["text"][:same]})
            closed += same
        if is_revised:
            self._part_bytes += sum(map(_size, parts)) - sum(map(_size, self._parts))
            self._parts, self._closed = tuple(parts), closed
        return is_revised

    def _close_text(self) -> None:
        text = self._read(self._sent)[self._closed :]
        if text:
            self._closed += len(text)
            closed = _text_part(text)
            self._part_bytes += _size(closed)
            self._parts = (*self._parts, closed)

    def _replace(self, text: str) -> int:
        """Take another text. Returns with how many characters of the one before it begins."""
        sent, before = self._read(self._sent), self._read(self._before_delta.sent)
        old = "".join(self._pieces)
        if text != old:
            self._begin_step()
        same = len(old)
        if not text.startswith(old):
            same = _common_length(old, text)
            self._pending = deque((min(at, same), part) for at, part in self._pending)
        self._pieces, self._length = [text], len(text)
        self._sent, self._before_delta = self._find(sent), self._before_delta._replace(sent=self._find(before))
        return same

    def _read(self, sent: _Sent) -> str:
        if isinstance(sent, str):
            return sent
        pieces = list(islice(self._pieces, sent.piece))
        if sent.offset:
            pieces.append(self._pieces[sent.piece][: sent.offset])
        return "".join(pieces)

    def _find(self, sent: str) -> _Sent:
        """The place up to which a text was cut, if the text in one piece begins with it, and no part comes before."""
        (text,) = self._pieces
        is_behind = bool(self._pending) and self._pending[0][0] < len(sent)
        return _Place(len(sent), 0, len(sent)) if text.startswith(sent) and not is_behind else sent

    @property
    def newest(self) -> Partial:
        """The reply so far, cut into deltas or not."""
        return Partial("".join(self._pieces), self._data)

    @property
    def is_dirty(self) -> bool:
        """Whether there is more than was cut."""
        return self._has_text or bool(self._pending) or self._data is not self._sent_data

    @property
    def _has_text(self) -> bool:
        if isinstance(self._sent, str):  # by what was added since, the text may begin with it
            self._replace("".join(self._pieces))
        return isinstance(self._sent, str) or self._sent.characters != self._length

    def next_delta(self) -> dict[str, Any] | None:
        """Cut the next delta: its payload, or None.

        Text, reasoning and parts come in their order, and before data; long text in several pieces.
        """
        delta: dict[str, Any]
        has_text = self._has_text
        while isinstance(part := self._next_part, str) and self._room_to_think < 0:
            self._pending.popleft()
            self._part_bytes -= _inner_size(part)
        self._before_delta, part_bytes, taken = self._snapshot(), self._part_bytes, part
        if isinstance(part, str):
            count = len(self._pending)
            delta = {"reasoning": self._cut_thought()}
            taken = part if len(self._pending) < count else delta["reasoning"]
        elif part is not None:
            self._pending.popleft()
            self._place_part(part)
            delta = {"part": part}
        elif has_text and isinstance(self._sent, _Place):
            delta = {"text": self._cut(self._sent)}
        elif has_text:  # the model revised what it wrote before: send all of it, up to the next part
            (text,) = self._pieces
            end = self._pending[0][0] if self._pending else self._length
            self._sent = _Place(end, 0, end)
            # no delta takes parts back: readers of one that leaves them out read the row
            delta = {"omitted": ["parts"]} if self._reopen(text[:end]) else {"content": text[:end]}
        elif self._data is not self._sent_data:
            self._sent_data = self._data
            delta = {"data": self._data}
        else:
            return None
        if taken is not None or self._part_bytes != part_bytes:
            self._before_delta = self._before_delta._replace(part=taken, added_bytes=self._part_bytes - part_bytes)
        self.seq += 1
        about = {"message_id": self.reply_id, "reply_to": self.question_id, "attempt": self.attempt, "seq": self.seq}
        return about | _omit_large_field(delta)

    @property
    def _next_part(self) -> Part | str | None:
        """The part to cut next: all text before it was cut."""
        if not self._pending or isinstance(self._sent, str):
            return None
        at, part = self._pending[0]
        return part if at <= self._sent.characters else None

    def _cut(self, place: _Place) -> str:
        """Cut text for one delta, at most FIELD_BYTES, and not beyond the next part."""
        taken, room = [], FIELD_BYTES
        if self._pending:
            room = min(room, self._pending[0][0] - place.characters)
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
            self._before_delta = self._snapshot()

    def _move(self, place: _Place, count: int) -> _Place:
        at, offset, left = place.piece, place.offset, count
        while left and left >= len(self._pieces[at]) - offset:
            left -= len(self._pieces[at]) - offset
            at, offset = at + 1, 0
        return _Place(place.characters + count, at, offset + left)

    def undo_delta(self) -> None:
        """The last delta was not sent: it becomes part of the next one, unless a checkpoint holds it already."""
        if self._highest_seq < self.seq:
            before = self._before_delta
            self.seq, self._sent, self._sent_data, self._parts, self._closed, added_bytes, part = before
            self._part_bytes -= added_bytes
            if part is not None and isinstance(before.sent, _Place):
                at = before.sent.characters
                if isinstance(part, str) and isinstance(rest := self._next_part, str):
                    self._pending.popleft()
                    part += rest
                self._pending.appendleft((at, part))

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
        text = self._write()
        return Checkpoint(self.question_id, self.attempt, self.seq, text, self._sent_data, self._unstored_parts)

    def settle(self) -> Settled:
        """Cut all that there is: the reply for a write that the next attempt begins behind."""
        while self.next_delta() is not None:
            pass
        text = self._write()
        self._begins_step = True
        if self.seq == self._stored_seq:
            return Settled(len(text), len(self._parts))
        return Settled(len(text), len(self._parts), self.seq, text, self._sent_data, self._unstored_parts)

    def on_stored(self, seq: int, parts: tuple[Part, ...] | None) -> None:
        """The row has the reply up to `seq`, and these parts of it."""
        if seq > self._stored_seq:
            self._stored_seq = seq
            if parts is not None:
                self._stored_parts = parts

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that were cut."""
        return self._parts

    def end(self) -> tuple[Part, ...]:
        """The parts of a reply that has ended, with the rest of its text if there is room."""
        if self._parts and self._fits():
            self._close_text()
        return self._parts

    def _snapshot(self) -> _Before:
        return _Before(self.seq, self._sent, self._sent_data, self._parts, self._closed)

    @property
    def _unstored_parts(self) -> tuple[Part, ...] | None:
        return None if self._parts is self._stored_parts else self._parts

    def _write(self) -> str:
        """The text that was cut, for a checkpoint."""
        text = self._read(self._sent)
        self._written = (len(text), self._sent_data)
        self._checkpointed_seq = self._highest_seq = self.seq
        self._join(text)
        return text

    def forget_checkpoint(self) -> None:
        """The last checkpoint did not arrive: the next beat carries one again."""
        self._checkpointed_seq = -1
        self._written = (0, None)

    def _grew_little(self) -> bool:
        stored, data = self._written
        length = len(self._sent) if isinstance(self._sent, str) else self._sent.characters
        has_parts = self._parts is not self._stored_parts
        return not has_parts and self._sent_data is data and length - stored < SMALL_GROWTH * stored


def part_key(part: Part) -> object:
    """What a part is known by; None: nothing."""
    return part.get("toolCallId") or part.get("id")


def _text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def _thought_part(text: str) -> Part:
    return {"type": "reasoning", "text": text}


def _common_length(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a.startswith(b[:middle]) else (low, middle - 1)
    return low


def _inner_size(text: str) -> int:
    return _size(text) - 2  # without its quotes


def _size(part: Part | str) -> int:
    return len(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode())


_FRAMES = _size(_text_part("")) + _size(_thought_part(REASONING_CUT))  # that a pending part may add, beside its texts


def _omit_large_field(delta: dict[str, Any]) -> dict[str, Any]:
    (name, value), *_ = delta.items()
    if name in ("text", "reasoning") or len(repr(value)) <= FIELD_BYTES:
        return delta
    return {"omitted": [name]}
