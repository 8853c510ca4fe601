"""Whatever a reply is made of, its deltas up to a seq make up the checkpoint of that seq."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from bridge import stream as cutting
from bridge.model import Kept, Partial
from bridge.sanitize import truncate_utf8
from bridge.stream import FIELD_BYTES, MOST_PARTS, PARTS_BYTES, REASONING_BYTES, REASONING_CUT, Stream

Part = Mapping[str, Any]
TEXTS = st.text('aé🙂"\x01', max_size=6) | st.integers(1, 3).map(lambda n: "x" * (n * FIELD_BYTES // 2))
THOUGHTS = st.just("") | TEXTS
ROOMY = 1 << 23  # bytes: of all parts, so that nothing is left out
VALUES = st.integers(0, 3) | st.sampled_from([20, 300, 700, FIELD_BYTES]).map(lambda n: "x" * n)
PARTS = st.one_of(
    st.builds(lambda id_, data: {"type": "data-a", "id": id_, "data": data}, st.sampled_from("abc"), VALUES),
    st.builds(lambda data: {"type": "data-b", "data": data}, VALUES),
    st.builds(
        lambda id_, output: {"type": "dynamic-tool", "toolCallId": id_, "output": output}, st.sampled_from("de"), VALUES
    ),
)


@dataclass(frozen=True)
class Shown:
    """A reply as a client shows it: the parts, the text behind them, and the data."""

    parts: tuple[Part, ...] = ()
    open: str = ""
    data: Any = None

    @property
    def text(self) -> str:
        return texts(self.parts) + self.open

    @property
    def order(self) -> list[Part]:
        """Texts, reasoning and parts in their order, without the beginnings of steps."""
        found: list[Part] = []
        for part in (*self.parts, {"type": "text", "text": self.open}):
            if part["type"] in ("text", "reasoning") and found and found[-1]["type"] == part["type"]:
                found[-1] = {"type": part["type"], "text": found[-1]["text"] + part["text"]}
            elif part["type"] != "step-start" and part.get("text") != "":
                found.append(part)
        return found

    def fold(self, delta: Mapping[str, Any]) -> Shown | None:
        """What a delta makes of it; None: the row has to be read."""
        match delta:
            case {"omitted": _}:
                return None
            case {"text": text}:
                return replace(self, open=self.open + text)
            case {"content": text}:
                assert text.startswith(texts(self.parts)), "text in parts is revised"
                return replace(self, open=text[len(texts(self.parts)) :])
            case {"data": data}:
                return replace(self, data=data)
            case {"reasoning": text}:
                closed = ({"type": "text", "text": self.open},) if self.open else ()
                parts = (*self.parts, *closed)
                if not parts or parts[-1]["type"] != "reasoning":
                    return replace(self, parts=(*parts, {"type": "reasoning", "text": text}), open="")
                grown = {**parts[-1], "text": parts[-1]["text"] + text}
                return replace(self, parts=(*parts[:-1], grown), open="")
        part = delta["part"]
        key = part.get("toolCallId") or part.get("id")
        at = next((n for n, p in enumerate(self.parts) if key and key in (p.get("toolCallId"), p.get("id"))), None)
        if at is not None:
            return replace(self, parts=(*self.parts[:at], part, *self.parts[at + 1 :]))
        closed = ({"type": "text", "text": self.open},) if self.open else ()
        return replace(self, parts=(*self.parts, *closed, part), open="")


def texts(parts: tuple[Part, ...]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def common_length(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def without_texts(shown: Shown) -> list[Part]:
    return Shown(tuple(part for part in shown.parts if part["type"] != "text")).order


def size(parts: tuple[Part, ...]) -> int:
    return sum(len(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()) for part in parts)


@dataclass
class Row:
    """What the database has."""

    seq: int = 0
    shown: Shown = field(default_factory=Shown)


class Replies(RuleBasedStateMachine):
    """One reply, in several attempts."""

    most = ROOMY  # bytes of all parts
    most_of_a_thought = ROOMY

    @initialize()
    def begin(self) -> None:
        self.stream = Stream("question", "reply", "session", 1)
        self.row, self.client, self.given = Row(), Shown(), Shown()
        self.kept: tuple[int, int] | None = None  # characters and parts of the last settled reply that arrived
        self.said: int | None = None  # a call that streams began behind so many characters
        self.text = ""
        self.is_revised = False  # a text before a thought or a part: their places are not told

    # what is added

    @precondition(lambda self: self.said is None)
    @rule(text=TEXTS, thought=THOUGHTS)
    def add(self, text: str, thought: str) -> None:
        self.stream.set_partial(Partial(text, is_added=True, reasoning=thought))
        self._give(self.given.open, thought, text)
        self.text += text

    def _give(self, text: str, thought: str, rest: str) -> None:
        """The open text is this one, followed by a thought and the rest."""
        self.given = replace(self.given, open=text)
        if thought:
            self.given = self.given.fold({"reasoning": thought}) or self.given
        self.given = replace(self.given, open=self.given.open + rest)

    @precondition(lambda self: self.said is None)
    @rule(part=PARTS)
    def show(self, part: Part) -> None:
        self.stream.set_partial(Partial("", is_added=True, part=part))
        self.given = self.given.fold({"part": part}) or self.given

    @rule(data=VALUES)
    def give(self, data: Any) -> None:
        self.stream.set_partial(Partial("", {"data": data}, is_added=True))

    @rule(text=TEXTS, thought=THOUGHTS)
    def say(self, text: str, thought: str) -> None:
        before = self.stream.newest.text
        self.said = len(before) if self.said is None else self.said
        self.text = before[: self.said] + text
        self.stream.set_partial(Partial(self.text, reasoning=thought))
        closed, same = len(texts(self.given.parts)), common_length(before, self.text)
        if same < closed:
            self.is_revised = True
            self._give("", thought, "")
        else:
            self._give(self.text[closed:same], thought, self.text[same:])

    @precondition(lambda self: self.said is not None)
    @rule()
    def have_said(self) -> None:
        self.said = None

    # what is sent and stored

    @rule(is_sent=st.booleans())
    def cut(self, is_sent: bool) -> None:
        before = self.client
        self._cut()
        if not is_sent:
            seq = self.stream.seq
            self.stream.undo_delta()
            if self.stream.seq < seq:
                self.client = before

    def _cut(self) -> bool:
        seq = self.stream.seq
        delta = self.stream.next_delta()
        if delta is None:
            assert self.stream.seq == seq
            return False
        assert delta["seq"] == self.stream.seq == seq + 1
        stream = self.stream
        rest = stream._read(stream._sent)[len(texts(stream.parts)) :]
        # a client that misses a large field reads the row
        self.client = self.client.fold(delta) or Shown(stream.parts, rest, stream._sent_data)
        return True

    @rule(is_undelivered=st.booleans(), arrives=st.booleans())
    def checkpoint(self, is_undelivered: bool, arrives: bool) -> None:
        while is_undelivered and self._cut():
            pass
        checkpoint = self.stream.checkpoint(undelivered=is_undelivered)
        if checkpoint.seq is None:
            return
        self._store(checkpoint.seq, checkpoint.text, checkpoint.data, checkpoint.parts, arrives=arrives)
        if not arrives:
            self.stream.forget_checkpoint()

    @precondition(lambda self: self.said is None)
    @rule(arrives=st.booleans())
    def settle(self, arrives: bool) -> None:
        while self._cut():
            pass
        settled = self.stream.settle()
        if settled.seq is not None:
            self._store(settled.seq, settled.text, settled.data, settled.parts, arrives=arrives)
        if arrives or settled.seq is None:
            assert (len(self.row.shown.text), len(self.row.shown.parts)) >= (settled.chars, settled.part_count)
            self.kept = (settled.chars, settled.part_count)

    def _store(self, seq: int, text: str, data: Any, parts: tuple[Part, ...] | None, *, arrives: bool) -> None:
        assert (seq, text, data) == (self.stream.seq, self.client.text, self.client.data)
        if parts is None:
            assert self.row.shown.parts == self.client.parts
        else:
            assert parts == self.client.parts
        assert size(self.client.parts) <= self.most
        thoughts = [part["text"] for part in self.client.parts if part["type"] == "reasoning"]
        assert all(len(text.encode()) <= self.most_of_a_thought for text in thoughts)
        if arrives:
            self.row = Row(seq, self.client)
            self.stream.on_stored(seq, parts)

    @precondition(lambda self: self.kept is not None)
    @rule()
    def take_over(self) -> None:
        assert self.kept is not None
        chars, count = self.kept
        shown = self.row.shown
        parts = shown.parts[:count]
        self.client = Shown(parts, shown.text[len(texts(parts)) : chars], shown.data)
        assert len(self.client.text) == chars
        self.row, self.given = Row(1, self.client), self.client
        self.stream = Stream("question", "reply", "session", self.stream.attempt + 1)
        self.stream.resume(Kept(1, self.client.text, self.client.data, self.client.parts))
        self.said, self.text = None, self.client.text

    def teardown(self) -> None:
        """The reply ends: everything is there."""
        if not hasattr(self, "stream"):
            return
        while self._cut():
            pass
        assert self.client.text == self.text
        if self.most == ROOMY and not self.is_revised:
            assert self.client.order == self.given.order
        elif self.most == ROOMY:
            assert without_texts(self.client) == without_texts(self.given)
        parts = self.stream.end()
        assert parts[: len(self.client.parts)] == self.client.parts
        assert self.client.text.startswith(texts(parts))
        assert size(parts) <= self.most
        if not parts[len(self.client.parts) :]:
            return
        (last,) = parts[len(self.client.parts) :]
        assert last == {"type": "text", "text": self.client.open}


def run(replies: type[Replies]) -> None:
    patch = partial(mock.patch.object, cutting)
    with patch("PARTS_BYTES", replies.most), patch("REASONING_BYTES", replies.most_of_a_thought):
        run_state_machine_as_test(replies, settings=settings(max_examples=200, stateful_step_count=30))


def test_deltas_make_up_the_checkpoints() -> None:
    run(Replies)


def test_parts_never_exceed_their_limit() -> None:
    class Small(Replies):
        most = 800
        most_of_a_thought = 60

    run(Small)


def think(stream: Stream, text: str) -> None:
    stream.set_partial(Partial("", is_added=True, reasoning=text))


def test_reasoning_beyond_its_limit_is_cut_at_a_character_with_a_note() -> None:
    stream = Stream("q", "r", "s", 1)
    whole = "é" * REASONING_BYTES
    for at in range(0, len(whole), 1000):
        think(stream, whole[at : at + 1000])
    stream.set_partial(Partial("Hello", is_added=True, reasoning="?"))
    stream.set_partial(Partial("", is_added=True, reasoning="Another."))
    stream.settle()
    first, text, second = stream.end()
    kept = first["text"].removesuffix(REASONING_CUT)
    assert kept == truncate_utf8(whole, REASONING_BYTES - len(REASONING_CUT))
    assert text == {"type": "text", "text": "Hello"}
    assert second == {"type": "reasoning", "text": "Another."}
    assert not stream.is_dirty


def test_reasoning_that_was_cut_keeps_nothing_to_send() -> None:
    stream = Stream("q", "r", "s", 1)
    think(stream, "x" * 2 * REASONING_BYTES)
    while stream.next_delta():
        pass
    think(stream, "more")
    assert stream.is_dirty
    assert stream.next_delta() is None
    assert not stream.is_dirty


def test_reasoning_leaves_room_for_other_parts() -> None:
    stream = Stream("q", "r", "s", 1)
    for number in range(40):
        think(stream, "x" * (REASONING_BYTES - 100))
        stream.set_partial(Partial(f"{number}. ", is_added=True))
    stream.settle()
    assert PARTS_BYTES // 2 - REASONING_BYTES < size(stream.parts) < PARTS_BYTES // 2 + 4000
    stream.set_partial(Partial("", is_added=True, part={"type": "data-a", "data": "x" * (PARTS_BYTES // 3)}))
    stream.settle()
    assert stream.parts[-1]["type"] == "data-a"


def test_text_that_turns_out_to_be_reasoning_becomes_it() -> None:
    stream = Stream("q", "r", "s", 1)
    stream.set_partial(Partial("It may be so."))
    assert stream.next_delta() is not None
    stream.set_partial(Partial("Yes", reasoning="It may be so."))
    deltas = [delta for _ in range(4) if (delta := stream.next_delta())]
    shown = [{name: delta[name] for name in ("content", "reasoning", "text") if name in delta} for delta in deltas]
    assert shown == [{"content": ""}, {"reasoning": "It may be so."}, {"text": "Yes"}]


def test_parts_beyond_their_number_are_not_shown() -> None:
    stream = Stream("q", "r", "s", 1)
    for number in range(MOST_PARTS + 5):
        stream.set_partial(Partial("", is_added=True, part={"type": "data-n", "id": str(number), "data": number}))
    stream.set_partial(Partial("", is_added=True, part={"type": "data-n", "id": "0", "data": "replaced"}))
    stream.set_partial(Partial("The end.", is_added=True))
    stream.settle()
    assert len(stream.parts) == MOST_PARTS
    assert stream.parts[0]["data"] == "replaced"
    assert stream.newest.text == "The end."
