"""Which attachments a function gets, what their bytes say, and whose turn it is to open some."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.attachments import MOST_ATTACHMENTS, MOST_BYTES, Attachments, choose
from bridge.baml.context import shorten
from bridge.byte_budget import ByteBudget
from bridge.errors import BadAttachment, StoreUnavailable, TurnFailure
from bridge.handlers import run_handler
from bridge.media_types import EXTENSIONS, FIRST_BYTES, TEXTS, TYPES, fits, read_text
from bridge.model import Attachment, Message, Partial, Session, Turn
from tests.support.objects import FILES, Objects

SIZES = st.integers(1, MOST_BYTES) | st.integers(1, 2000) | st.sampled_from([MOST_BYTES // 2, MOST_BYTES // 2 + 1])
OWN = st.lists(st.tuples(st.sampled_from(TYPES), SIZES), max_size=8)


def turn(own: Sequence[Attachment] = (), messages: Sequence[Message] = ()) -> Turn:
    return Turn("F", "?", tuple(messages), (), Session("s", "u", None, "F", {}), "u", attachments=tuple(own))


def attachment(kind: str, size: int, path: str) -> Attachment:
    return Attachment(f"{path}.{EXTENSIONS[kind]}", None, kind, path, size)


# -- which, and how much -------------------------------------------------------------------------------------


@given(OWN, st.lists(OWN, max_size=8), st.sets(st.sampled_from(TYPES)), st.integers(0, 99))
def test_question_comes_whole_and_earlier_ones_while_there_is_room(
    own: list[tuple[str, int]], earlier: list[list[tuple[str, int]]], kinds: set[str], again: int
) -> None:
    mine = [attachment(kind, size, f"own{n}") for n, (kind, size) in enumerate(own)]
    before = [[attachment(kind, size, f"{q}.{n}") for n, (kind, size) in enumerate(e)] for q, e in enumerate(earlier)]
    if before and before[-1] and again < 30:
        mine.append(before[-1][0])  # asked again about the same upload
    messages = [m for e in before for m in (Message("user", "", attachments=tuple(e)), Message("assistant", "a"))]
    asked = turn(mine, messages)
    if any(found.type not in kinds for found in mine):
        with pytest.raises(BadAttachment):
            choose(asked, kinds, with_history=True)
        return
    chosen = choose(asked, kinds, with_history=True)
    assert chosen[len(chosen) - len(mine) :] == tuple(mine), "the question's own, in their order, last"
    rest = chosen[: len(chosen) - len(mine)]
    assert choose(asked, kinds, with_history=False) == tuple(mine)
    paths = [found.path for found in chosen]
    assert len(set(paths)) == len(paths)
    assert not rest or sum(found.size for found in chosen) <= MOST_BYTES
    assert not rest or len(chosen) <= MOST_ATTACHMENTS
    possible = [[f for f in e if f.type in kinds and f not in mine] for e in before]
    newest = [found for e in possible for found in e]
    assert rest == tuple(newest[len(newest) - len(rest) :]), "the newest, oldest first"
    left_out = newest[: len(newest) - len(rest)]
    if left_out:  # the next older question would have been too much, with all that it has
        (question,) = (e for e in possible if left_out[-1] in e)
        assert question[-1] == left_out[-1], "a question comes whole or not at all"
        is_too_large = sum(f.size for f in (*chosen, *question)) > MOST_BYTES
        assert is_too_large or len(chosen) + len(question) > MOST_ATTACHMENTS


def test_history_loses_its_attachments_before_its_messages() -> None:
    png = attachment("image/png", 5, "a")
    asked = turn([png], [Message("user", "", attachments=(png, png)), Message("assistant", "b")])
    first = shorten(asked, ["messages", "images"])
    assert first is not None
    assert first.messages == (Message("user", "[a.png] [a.png]"), Message("assistant", "b"))
    assert first.attachments == (png,)
    second = shorten(first, ["messages", "images"])
    assert second is not None
    assert second.messages == ()
    other = shorten(asked, ["messages"])  # a function that takes none of them
    assert other is not None
    assert other.messages == ()


# -- what the bytes say --------------------------------------------------------------------------------------


@given(st.sampled_from(TYPES), st.sampled_from(TYPES), st.binary(max_size=40))
def test_only_bytes_of_the_type_fit(kind: str, real: str, tail: bytes) -> None:
    data = FILES[real] + tail
    if real not in TEXTS and kind not in TEXTS:
        assert fits(kind, data[:FIRST_BYTES]) == (kind == real)


@given(st.sampled_from(TYPES), st.integers(0, FIRST_BYTES), st.integers(1, 255))
def test_bytes_that_are_changed_in_the_signature_do_not_fit(kind: str, at: int, by: int) -> None:
    signature = {"image/png": 8, "image/jpeg": 3, "image/gif": 4, "application/pdf": 5, "audio/mpeg": 3}.get(kind, 0)
    if at < signature:
        data = bytearray(FILES[kind])
        data[at] ^= by
        assert not fits(kind, bytes(data[:FIRST_BYTES]))


@given(st.binary(max_size=60))
def test_text_is_utf8_without_nul(data: bytes) -> None:
    text = read_text(data)
    assert fits("text/plain", data)
    try:
        expected = data.decode()
    except UnicodeDecodeError:
        assert text is None
    else:
        assert text == (None if "\0" in expected else expected.removeprefix("\ufeff"))


@given(st.sampled_from(TYPES), st.binary(max_size=80) | st.sampled_from(list(FILES.values())), st.booleans())
def test_whatever_lies_is_refused_or_left_out(kind: str, data: bytes, is_optional: bool) -> None:
    async def main() -> None:
        stored = Objects()
        found = stored.add(kind, data)
        attachments = Attachments(stored, MOST_BYTES)
        is_true = fits(kind, data) and (kind not in TEXTS or read_text(data) is not None)
        with attachments.share([found]) as share:
            if is_true:
                (opened,) = await share.open()
                assert opened.url or opened.base64 == b64encode(data).decode() or opened.text == read_text(data)
            elif is_optional:
                assert await share.open([found]) == ()
            else:
                with pytest.raises(BadAttachment):
                    await share.open()
        assert attachments.budget.in_use == 0

    asyncio.run(main())


@pytest.mark.parametrize("size", [12, 3 << 17, (3 << 17) + 1, (6 << 17) - 1, MOST_BYTES])
async def test_recording_is_encoded_in_pieces(size: int) -> None:
    """10 MiB at once would hold up the loop."""
    stored = Objects()
    data = (FILES["audio/wav"] + bytes(range(251)) * (size // 251))[:size]
    found = stored.add("audio/wav", data)
    turns = 0
    with Attachments(stored, MOST_BYTES).share([found]) as share:
        opening = asyncio.create_task(share.open())
        while not opening.done():
            turns += 1
            await asyncio.sleep(0)
    assert opening.result()[0].base64 == b64encode(data).decode()
    assert turns >= size / (3 << 17)


# -- whose turn it is ----------------------------------------------------------------------------------------

MOVES = st.lists(st.tuples(st.sampled_from(["join", "leave", "leave"]), st.integers(0, 12), st.integers(0, 9)))


@given(MOVES)
def test_budget_is_kept_and_given_in_the_order_of_arrival(moves: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        budget = ByteBudget(10)
        line = []
        for move, count, which in moves:
            if move == "join":
                place = budget.reserve(count)
                assert place.count == min(count, 10)
                place.__enter__()
                line.append(place)
            elif line:
                line.pop(which % len(line)).__exit__()
            served = [place.is_served for place in line]
            assert served == sorted(served, reverse=True), "nobody is served before who came first"
            assert budget.in_use == sum(place.count for place in line if place.is_served) <= 10
            waiting = next((place for place in line if not place.is_served), None)
            assert waiting is None or budget.in_use + waiting.count > 10, "who could be served is"
        for place in line:
            place.__exit__()
        assert budget.in_use == 0

    asyncio.run(main())


async def test_share_that_is_cancelled_while_it_waits_leaves_the_line() -> None:
    attachments = Attachments(Objects(), MOST_BYTES)
    large, small = attachment("image/png", MOST_BYTES, "a"), attachment("image/png", 1, "b")

    async def wait() -> None:
        with attachments.share([large]) as share:
            await share.open()

    with attachments.share([small]):
        waiting = asyncio.create_task(wait())
        behind = asyncio.create_task(wait())
        for _ in range(5):
            await asyncio.sleep(0)
        assert [waiting.done(), behind.done()] == [False, False]
        for task in (waiting, behind):
            task.cancel()
        await asyncio.gather(waiting, behind, return_exceptions=True)
        with attachments.share([small]) as share, pytest.raises(BadAttachment):  # its turn came: it is gone
            await share.open()
    assert attachments.budget.in_use == 0


# -- handlers ------------------------------------------------------------------------------------------------


async def parts(pieces: Sequence[object], stored: Objects) -> list[Mapping[str, object]]:
    async def gives(asked: Turn) -> AsyncIterator[object]:
        for piece in pieces:
            yield piece

    asked = replace(turn(), objects=Attachments(stored, MOST_BYTES))
    given = [piece async for piece in run_handler(gives, asked)]
    return [piece.part for piece in given if isinstance(piece, Partial) and piece.part]


@pytest.mark.parametrize(
    "wrong",
    [
        Attachment("a.png", None, "image/png"),
        Attachment("a.png", None, "image/png", "other/a.png"),
        Attachment("a.exe", b"x", "application/x-msdownload"),
        Attachment("a/b.png", b"x", "image/png"),
        Attachment("", b"x", "image/png"),
        Attachment("a\n.png", b"x", "image/png"),
        Attachment("a.png", "text", "image/png"),  # type: ignore[arg-type]
        Attachment("a.png", b"x" * (MOST_BYTES + 1), "image/png"),
    ],
)
async def test_attachment_that_cannot_be_stored_is_a_bug(wrong: Attachment) -> None:
    stored = Objects()
    with pytest.raises(TurnFailure) as caught:
        await parts([wrong], stored)
    assert caught.value.code == "internal"
    assert not caught.value.retryable
    assert "an Attachment" in caught.value.detail
    assert stored.uploads == []


async def test_attachment_is_stored_before_it_is_shown() -> None:
    stored = Objects()
    mine = Attachment("a.png", None, "image/png", "s/b.png", 3)
    found = await parts(["text", Attachment("c.txt", b"hello", "text/plain"), mine], stored)
    (path,) = stored.uploads
    assert [part["url"] for part in found] == [f"attachments/{path}", "attachments/s/b.png"]
    stored.error = StoreUnavailable("away")
    with pytest.raises(TurnFailure) as caught:
        await parts([Attachment("c.txt", b"hello", "text/plain")], stored)
    assert (caught.value.code, caught.value.retryable) == ("attachment_unavailable", True)


async def test_one_that_fails_ends_the_look_at_the_others() -> None:
    ended = asyncio.Event()

    class Hanging:
        async def sign(self, paths: Sequence[str], seconds: int) -> Mapping[str, str]:
            return {path: path for path in paths}

        async def fetch(self, url: str, most: int) -> bytes | None:
            if url == "gone":
                return None
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return b""

        async def upload(self, path: str, data: bytes, kind: str) -> None:
            raise AssertionError

    hanging, gone = (Attachment("a.png", None, "image/png", path, 10) for path in ("hanging", "gone"))
    with pytest.raises(BadAttachment), Attachments(Hanging(), MOST_BYTES).share([hanging, gone]) as share:
        await share.open()
    assert ended.is_set()
