"""What is left out of a conversation that is too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.baml.context import shorten
from bridge.model import CodeFile, Message, Session, Turn

SIZES = st.lists(st.integers(0, 50), max_size=12)


@given(SIZES, SIZES)
def test_context_gets_shorter_until_nothing_is_left(replies: list[int], files: list[int]) -> None:
    messages = tuple(
        message
        for size in replies
        for message in (Message("user", "?" * size), Message("assistant", "", data={"a": "x" * size}))
    )
    kept = tuple(CodeFile(f"{n}.txt", "x" * size) for n, size in enumerate(files))
    turn: Turn | None = Turn("F", "question", messages, kept, Session("s", "u", None, "F", {}), "u")
    steps = 0
    while turn is not None:
        assert turn.messages == messages[len(messages) - len(turn.messages) :], "the oldest go first"
        assert not turn.messages or turn.messages[0].role == "user"
        assert turn.messages == () or turn.files == kept, "files go last"
        before = (len(turn.messages), len(turn.files))
        turn = shorten(turn, ["messages", "files"])
        assert turn is None or (len(turn.messages), len(turn.files)) < before
        steps += 1
    assert steps <= 2 + len(messages) + len(files)


def test_only_what_the_function_takes_is_left_out() -> None:
    turn = Turn("F", "q", (Message("user", "a"),), (CodeFile("a", ""),), Session("s", "u", None, "F", {}), "u")
    assert shorten(turn, ["message"]) is None
    found = shorten(turn, ["files"])
    assert found is not None
    assert (found.messages, found.files) == (turn.messages, ())
