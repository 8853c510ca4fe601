"""Deltas and checkpoints of a reply, and the seq that joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import stream as cutting
from bridge.model import Checkpoint, Partial
from bridge.sanitize import sanitize_json, sanitize_text, truncate_utf8
from bridge.stream import FIELD_BYTES, SMALL_GROWTH, Stream


def stream() -> Stream:
    return Stream("question", "reply", "session", attempt=3)


def read(deltas: list[dict[str, Any]]) -> str | None:
    """The text that a client assembles from these deltas; None if it must read the row."""
    text: str | None = ""
    for delta in deltas:
        if "omitted" in delta:
            text = None
        elif "content" in delta:
            text = delta["content"]
        elif text is not None:
            text += delta.get("text", "")
    return text


def test_delta_names_its_reply_and_question() -> None:
    reply = stream()
    reply.set_partial(Partial("Hi"))
    assert reply.next_delta() == {"message_id": "reply", "reply_to": "question", "attempt": 3, "seq": 1, "text": "Hi"}
    assert reply.next_delta() is None


def test_cutting_a_delta_reads_no_more_than_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a long text must not grow with the square of its length."""
    read_characters: list[int] = []

    def truncate(text: str, limit: int) -> str:
        read_characters.append(len(text))
        return truncate_utf8(text, limit)

    monkeypatch.setattr(cutting, "truncate_utf8", truncate)
    reply = stream()
    reply.set_partial(Partial("ä" * 300_000))
    while reply.next_delta() is not None:
        pass
    assert sum(read_characters) < 3 * 300_000


def test_revised_text_is_sent_whole() -> None:
    reply = stream()
    reply.set_partial(Partial("Hello wrld"))
    reply.next_delta()
    reply.set_partial(Partial("Hello world"))
    delta = reply.next_delta()
    assert delta is not None
    assert (delta["seq"], delta["content"]) == (2, "Hello world")


def test_data_is_sent_once_after_text() -> None:
    reply = stream()
    reply.set_partial(Partial("Hi", {"rows": 1}))
    first, second = reply.next_delta(), reply.next_delta()
    assert first is not None
    assert second is not None
    assert (first["text"], second["data"], second["seq"]) == ("Hi", {"rows": 1}, 2)
    assert reply.next_delta() is None


def test_data_too_large_for_an_event_is_named_as_omitted() -> None:
    reply = stream()
    reply.set_partial(Partial("", {"rows": "x" * FIELD_BYTES}))
    delta = reply.next_delta()
    assert delta is not None
    assert delta["omitted"] == ["data"]
    assert "data" not in delta


def test_undone_delta_is_sent_with_next_one() -> None:
    reply = stream()
    reply.set_partial(Partial("a"))
    reply.next_delta()
    reply.set_partial(Partial("ab"))
    reply.next_delta()
    reply.undo_delta()
    reply.set_partial(Partial("abc"))
    delta = reply.next_delta()
    assert delta is not None
    assert (delta["seq"], delta["text"]) == (2, "bc")


def test_delta_in_checkpoint_cannot_be_undone() -> None:
    reply = stream()
    reply.set_partial(Partial("a"))
    reply.next_delta()
    checkpoint = reply.checkpoint(undelivered=False)
    reply.undo_delta()
    assert (reply.seq, reply._read(reply._sent)) == (checkpoint.seq, checkpoint.text) == (1, "a")


def test_checkpoint_is_written_once_unless_forgotten() -> None:
    reply = stream()
    assert reply.checkpoint(undelivered=False).seq is None
    reply.set_partial(Partial("a"))
    assert reply.checkpoint(undelivered=False).seq is None  # no delta has it yet
    assert reply.checkpoint(undelivered=True).seq == 1
    assert reply.checkpoint(undelivered=True).seq is None
    reply.forget_checkpoint()
    assert reply.checkpoint(undelivered=True).seq == 1


def grow(reply: Stream, text: str, data: Any = None) -> int | None:
    """Send all deltas of a partial, and return the seq that the next beat writes."""
    reply.set_partial(Partial(text, data))
    while reply.next_delta() is not None:
        pass
    return reply.checkpoint(undelivered=False).seq


def test_long_text_that_grew_little_skips_one_beat() -> None:
    reply = stream()
    assert grow(reply, "x" * 800) == 1
    assert grow(reply, "x" * 899) is None
    assert grow(reply, "x" * 900) == 3  # only once
    assert grow(reply, "x" * 1012) is None
    assert reply.checkpoint(undelivered=False).seq == 4  # written although it stopped growing
    assert grow(reply, "x" * 1139) == 5  # it grew by an eighth


def test_data_and_undelivered_text_skip_no_beat() -> None:
    reply = stream()
    assert grow(reply, "x" * 800) == 1
    assert grow(reply, "x" * 801, {"rows": 1}) == 3
    reply.set_partial(Partial("x" * 802, {"rows": 1}))
    assert reply.checkpoint(undelivered=True).seq == 4


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.text(max_size=30)),
            st.tuples(st.just("revise"), st.text(max_size=30)),
            st.tuples(st.sampled_from(["send", "fail", "checkpoint", "append long"]), st.just("")),
        ),
        max_size=60,
    )
)
def test_deltas_up_to_checkpoint_make_up_its_text(steps: list[tuple[str, str]]) -> None:
    reply, sent, so_far = stream(), list[dict[str, Any]](), ""
    for step, text in steps:
        if step in ("append", "append long"):
            so_far += text if step == "append" else "é" * FIELD_BYTES
            reply.set_partial(Partial(so_far))
        elif step == "revise":
            so_far = text
            reply.set_partial(Partial(so_far))
        elif step == "checkpoint":
            checkpoint = reply.checkpoint(undelivered=False)
            if checkpoint.seq is not None:
                assert read(sent[: checkpoint.seq]) in (checkpoint.text, None)
        elif (delta := reply.next_delta()) is not None:
            if step == "send":
                sent.append(delta)
            else:
                reply.undo_delta()
        assert [delta["seq"] for delta in sent] == list(range(1, len(sent) + 1))
        assert all(len(delta.get("text", "").encode()) <= FIELD_BYTES for delta in sent)


class Simple:
    """A stream by its definition: the whole text is looked at each time."""

    def __init__(self) -> None:
        self.written = self.sent_text = ""
        self.data: Any = None
        self.sent_data: Any = None
        self.seq = self.checkpointed = self.highest = 0
        self.before: tuple[int, str, Any] = (0, "", None)
        self.stored: tuple[str, Any] = ("", None)
        self.skipped = False

    @property
    def text(self) -> str:
        return sanitize_text(self.written)

    def set_partial(self, partial: Partial) -> None:
        self.written = self.written + partial.text if partial.is_added else partial.text
        if partial.data is not None and (data := sanitize_json(partial.data)) != self.data:
            self.data = data

    @property
    def is_dirty(self) -> bool:
        return self.text != self.sent_text or self.data is not self.sent_data

    def next_delta(self) -> dict[str, Any] | None:
        delta: dict[str, Any]
        self.before = (self.seq, self.sent_text, self.sent_data)
        if self.text != self.sent_text and self.text.startswith(self.sent_text):
            delta = {"text": truncate_utf8(self.text[len(self.sent_text) :], FIELD_BYTES)}
            self.sent_text += delta["text"]
        elif self.text != self.sent_text:
            delta = {"content": self.text} if len(repr(self.text)) <= FIELD_BYTES else {"omitted": ["content"]}
            self.sent_text = self.text
        elif self.data is not self.sent_data:
            delta = {"data": self.data} if len(repr(self.data)) <= FIELD_BYTES else {"omitted": ["data"]}
            self.sent_data = self.data
        else:
            return None
        self.seq += 1
        return {"message_id": "reply", "reply_to": "question", "attempt": 3, "seq": self.seq} | delta

    def undo_delta(self) -> None:
        if self.highest < self.seq:
            self.seq, self.sent_text, self.sent_data = self.before

    def checkpoint(self, *, undelivered: bool) -> Checkpoint:
        while undelivered and self.next_delta() is not None:
            pass
        text, data = self.stored
        grew_little = self.sent_data is data and len(self.sent_text) - len(text) < SMALL_GROWTH * len(text)
        if self.seq == self.checkpointed:
            return Checkpoint("question", 3)
        self.skipped = not undelivered and not self.skipped and grew_little
        if self.skipped:
            return Checkpoint("question", 3)
        self.stored = (self.sent_text, self.sent_data)
        self.checkpointed = self.highest = self.seq
        return Checkpoint("question", 3, self.seq, self.sent_text, self.sent_data)

    def forget_checkpoint(self) -> None:
        self.checkpointed, self.stored = -1, ("", None)


Either = Stream | Simple
TEXTS = st.text(st.sampled_from("aab\0é😀\ud83d\ude00"), max_size=4) | st.sampled_from(
    ["a" * 20_000, "é" * 20_000, "😀" * 9_000]
)
PARTIALS = st.builds(Partial, TEXTS, st.sampled_from([None, None, {"n": 1}, {"n": 2}]), is_added=st.booleans())
STEPS: st.SearchStrategy[Callable[[Either], object]] = st.one_of(
    PARTIALS.map(lambda partial: lambda it: it.set_partial(partial)),
    st.sampled_from(
        [
            lambda it: it.next_delta(),
            lambda it: it.next_delta(),
            lambda it: it.undo_delta() if it.seq else None,
            lambda it: it.checkpoint(undelivered=False),
            lambda it: it.checkpoint(undelivered=True),
            lambda it: it.forget_checkpoint(),
            lambda it: it.is_dirty,
        ]
    ),
)


@given(st.lists(STEPS, max_size=40))
def test_deltas_and_checkpoints_are_those_of_the_definition(steps: list[Callable[[Either], object]]) -> None:
    fast, simple = stream(), Simple()
    for step in steps:
        assert step(fast) == step(simple)
        assert (fast.is_dirty, fast.seq) == (simple.is_dirty, simple.seq)
    assert fast.newest == Partial(simple.text, simple.data)


def test_taking_text_reads_only_what_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    read_characters: list[int] = []

    def sanitize(text: str) -> str:
        read_characters.append(len(text))
        return sanitize_text(text)

    monkeypatch.setattr(cutting, "sanitize_text", sanitize)
    monkeypatch.setattr(cutting, "truncate_utf8", lambda text, limit: truncate_utf8(sanitize(text), limit))
    reply = stream()
    for _ in range(10_000):
        reply.set_partial(Partial("wörd ", is_added=True))
        reply.next_delta()
    assert sum(read_characters) == 2 * 50_000
    assert reply.checkpoint(undelivered=False).text == "wörd " * 10_000
    assert len(reply._pieces) == 1  # it is kept in one piece, and not in ten thousand


def test_what_follows_a_settled_reply_begins_a_step() -> None:
    """Also what is added before its write is answered: the next attempt keeps what was settled."""
    reply = stream()
    reply.set_partial(Partial("a", is_added=True))
    assert (reply.settle().chars, reply.parts) == (1, ())
    reply.set_partial(Partial("b", is_added=True))
    reply.settle()
    reply.set_partial(Partial("c", is_added=True))
    reply.settle()
    assert reply.end() == (
        {"type": "text", "text": "a"},
        {"type": "step-start"},
        {"type": "text", "text": "b"},
        {"type": "step-start"},
        {"type": "text", "text": "c"},
    )
