"""Deltas, checkpoints and what joins them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.model import Partial
from bridge.stream import FIELD_BYTES, Stream


def stream() -> Stream:
    return Stream("question", "reply", "session", attempt=3)


def read(deltas: list[dict[str, Any]]) -> str | None:
    """What a client makes of deltas that all arrived; None if it has to read the row."""
    text: str | None = ""
    for delta in deltas:
        if "omitted" in delta:
            text = None
        elif "content" in delta:
            text = delta["content"]
        elif text is not None:
            text += delta.get("text", "")
    return text


def test_a_delta_says_whose_it_is() -> None:
    reply = stream()
    reply.set_partial(Partial("Hi"))
    assert reply.next_delta() == {"message_id": "reply", "reply_to": "question", "attempt": 3, "seq": 1, "text": "Hi"}
    assert reply.next_delta() is None


def test_text_that_is_taken_back_comes_whole() -> None:
    reply = stream()
    reply.set_partial(Partial("Hello wrld"))
    reply.next_delta()
    reply.set_partial(Partial("Hello world"))
    delta = reply.next_delta()
    assert delta is not None
    assert (delta["seq"], delta["content"]) == (2, "Hello world")


def test_data_comes_after_text_and_once() -> None:
    reply = stream()
    reply.set_partial(Partial("Hi", {"rows": 1}))
    first, second = reply.next_delta(), reply.next_delta()
    assert first is not None
    assert second is not None
    assert (first["text"], second["data"], second["seq"]) == ("Hi", {"rows": 1}, 2)
    assert reply.next_delta() is None


def test_what_is_too_large_for_an_event_is_named() -> None:
    reply = stream()
    reply.set_partial(Partial("", {"rows": "x" * FIELD_BYTES}))
    delta = reply.next_delta()
    assert delta is not None
    assert delta["omitted"] == ["data"]
    assert "data" not in delta


def test_an_undone_cut_stays_with_the_next_one() -> None:
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


def test_a_cut_that_a_checkpoint_holds_is_not_undone() -> None:
    reply = stream()
    reply.set_partial(Partial("a"))
    reply.next_delta()
    checkpoint = reply.checkpoint(undelivered=False)
    reply.undo_delta()
    assert (reply.seq, reply.text) == (checkpoint.seq, checkpoint.text) == (1, "a")


def test_a_checkpoint_is_written_once_and_again_if_it_was_lost() -> None:
    reply = stream()
    assert reply.checkpoint(undelivered=False).seq is None
    reply.set_partial(Partial("a"))
    assert reply.checkpoint(undelivered=False).seq is None  # not cut yet
    assert reply.checkpoint(undelivered=True).seq == 1
    assert reply.checkpoint(undelivered=True).seq is None
    reply.forget_checkpoint()
    assert reply.checkpoint(undelivered=True).seq == 1


def grow(reply: Stream, text: str, data: Any = None) -> int | None:
    """Say all of it, and give the seq that the next beat writes."""
    reply.set_partial(Partial(text, data))
    while reply.next_delta() is not None:
        pass
    return reply.checkpoint(undelivered=False).seq


def test_a_long_text_that_grew_by_little_waits_for_one_beat() -> None:
    reply = stream()
    assert grow(reply, "x" * 800) == 1
    assert grow(reply, "x" * 899) is None
    assert grow(reply, "x" * 900) == 3  # once
    assert grow(reply, "x" * 1012) is None
    assert reply.checkpoint(undelivered=False).seq == 4  # it says no more, and is written all the same
    assert grow(reply, "x" * 1139) == 5  # an eighth


def test_data_and_what_nobody_heard_do_not_wait() -> None:
    reply = stream()
    assert grow(reply, "x" * 800) == 1
    assert grow(reply, "x" * 801, {"rows": 1}) == 3
    reply.set_partial(Partial("x" * 802, {"rows": 1}))
    assert reply.checkpoint(undelivered=True).seq == 4


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.text(max_size=30)),
            st.tuples(st.just("revise"), st.text(max_size=30)),
            st.tuples(st.sampled_from(["cut", "fail", "checkpoint", "long"]), st.just("")),
        ),
        max_size=60,
    )
)
def test_deltas_up_to_a_checkpoint_make_its_text(steps: list[tuple[str, str]]) -> None:
    reply, sent, said = stream(), list[dict[str, Any]](), ""
    for step, text in steps:
        if step in ("say", "long"):
            said += text if step == "say" else "é" * FIELD_BYTES
            reply.set_partial(Partial(said))
        elif step == "revise":
            said = text
            reply.set_partial(Partial(said))
        elif step == "checkpoint":
            checkpoint = reply.checkpoint(undelivered=False)
            if checkpoint.seq is not None:
                assert read(sent[: checkpoint.seq]) in (checkpoint.text, None)
        elif (delta := reply.next_delta()) is not None:
            if step == "cut":
                sent.append(delta)
            else:
                reply.undo_delta()
        assert [delta["seq"] for delta in sent] == list(range(1, len(sent) + 1))
        assert all(len(delta.get("text", "").encode()) <= FIELD_BYTES for delta in sent)
