"""Deltas and checkpoints of a reply, and the seq that joins them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import stream as cutting
from bridge.model import Partial
from bridge.sanitize import truncate_utf8
from bridge.stream import FIELD_BYTES, Stream


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
    assert (reply.seq, reply._sent_text) == (checkpoint.seq, checkpoint.text) == (1, "a")


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
