"""Attachments of a worker: which of them a function gets, and their bytes, as many at once as BRIDGE_MEDIA_BYTES says.

What users upload need not be what it says. So the first bytes are looked at before a model is asked: a provider would
refuse the whole question, and a history with such an attachment would make every further one fail.
"""

import asyncio
import logging
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, Self

from bridge.byte_budget import ByteBudget
from bridge.errors import AttachmentUnavailable, BadAttachment, StoreError, TurnFailure
from bridge.media_types import FIRST_BYTES, TEXTS, fits, read_text
from bridge.model import Attachment, Opened, Turn

log = logging.getLogger(__name__)

MOST_BYTES = 10_485_760  # of a question's attachments, and of those of earlier questions with them
MOST_ATTACHMENTS = 20  # of one call: eight are the question's, at most
TEXT_BYTES = 262_144  # of one text
SIGNED_SECONDS = 600
# As baml-py 0.226.3 takes a WAV for an `audio/x-wav`, which providers do not know, it gets the bytes and not the URL.
_READ_WHOLE = (*TEXTS, "audio/wav")
_PIECE_BYTES = 3 << 17  # a multiple of three, so that the base64 of pieces is that of the whole


class Storage(Protocol):
    """Where objects are kept: `bridge.storage.Storage`. Each call raises StoreError."""

    async def sign(self, paths: Sequence[str], seconds: int) -> Mapping[str, str]:
        """URLs of these objects by their paths. Those that are gone have none."""

    async def fetch(self, url: str, most: int) -> bytes | None:
        """The first bytes of an object, at most so many; None if it is gone."""

    async def upload(self, path: str, data: bytes, kind: str) -> None:
        """Store an object, in place of one that has the path already."""


def choose(turn: Turn, kinds: Collection[str], *, with_history: bool) -> tuple[Attachment, ...]:
    """The attachments that a function gets which reads these types: of earlier questions, oldest first, and its own.

    Earlier questions are taken from the newest on, each with all that it has or not at all, while there is room. Raises
    BadAttachment if one of the question's own is of another type.
    """
    for attachment in turn.attachments:
        check_kind(attachment, kinds)
    taken = list(turn.attachments)
    paths = {attachment.path for attachment in taken}
    room = MOST_BYTES - sum(attachment.size for attachment in taken)
    for message in reversed(turn.messages if with_history else ()):
        earlier = [found for found in message.attachments if found.type in kinds and found.path not in paths]
        room -= sum(attachment.size for attachment in earlier)
        if room < 0 or len(earlier) + len(taken) > MOST_ATTACHMENTS:
            break
        taken = earlier + taken
        paths |= {attachment.path for attachment in earlier}
    return tuple(taken)


def check_kind(attachment: Attachment, kinds: Collection[str]) -> None:
    """Raise BadAttachment if the attachment is of none of these types."""
    if attachment.type not in kinds:
        problem = f"“{attachment.name}” is of a type that cannot be read here."
        raise BadAttachment("unsupported_attachment", problem, detail=f"the function does not read {attachment.type}")


class Attachments:
    """The attachments of a worker. `signed_seconds` is how long a call may need them."""

    def __init__(self, storage: Storage, most_bytes: int, signed_seconds: int = SIGNED_SECONDS) -> None:
        self.budget = ByteBudget(most_bytes)
        self._storage, self._seconds = storage, max(SIGNED_SECONDS, signed_seconds)

    def share(self, attachments: Sequence[Attachment]) -> "Share":
        """Get in line to open these."""
        return Share(self, attachments)

    async def read(self, attachment: Attachment) -> bytes:
        """All bytes of an attachment. Raises TurnFailure."""
        if attachment.data is not None:
            return attachment.data
        try:
            urls = await self._storage.sign([attachment.path], self._seconds)
            url = urls.get(attachment.path)
            data = None if url is None else await self._storage.fetch(url, max(attachment.size, 1))
        except StoreError as error:
            raise _unavailable(error) from error
        if data is None:
            raise _gone(attachment)
        return data

    async def store(self, path: str, attachment: Attachment) -> None:
        """Store the data of an attachment under a path, again if need be. Raises TurnFailure."""
        try:
            await self._storage.upload(path, attachment.data or b"", attachment.type)
        except StoreError as error:
            raise _unavailable(error) from error

    async def open(self, attachments: Sequence[Attachment], optional: Collection[Attachment]) -> tuple[Opened, ...]:
        """See `bridge.model.Share.open`."""
        try:
            paths = [attachment.path for attachment in attachments if attachment.data is None]
            urls = await self._storage.sign(paths, self._seconds) if paths else {}
            return await self._open_all(attachments, urls, optional)
        except StoreError as error:
            raise _unavailable(error) from error

    async def _open_all(
        self, attachments: Sequence[Attachment], urls: Mapping[str, str], optional: Collection[Attachment]
    ) -> tuple[Opened, ...]:
        looks = [
            asyncio.create_task(self._open(one, urls.get(one.path), is_optional=one in optional)) for one in attachments
        ]
        try:
            return tuple(one for one in await asyncio.gather(*looks) if one is not None)
        finally:  # if one fails, the others end with it
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _open(self, attachment: Attachment, url: str | None, *, is_optional: bool) -> Opened | None:
        try:
            return await self._look_at(attachment, url)
        except BadAttachment as failure:
            if is_optional:
                log.info("an attachment of an earlier question is left out: %s", failure.code)
                return None
            raise

    async def _look_at(self, attachment: Attachment, url: str | None) -> Opened:
        """Look at the first bytes, or at all of a text. Raises BadAttachment and StoreError."""
        is_text = attachment.type in TEXTS
        if is_text and attachment.size > TEXT_BYTES:
            raise BadAttachment(
                "bad_attachment", f"“{attachment.name}” is too long: a text file may have {TEXT_BYTES >> 10} KiB."
            )
        data = attachment.data
        if data is None:
            most = max(attachment.size, 1) if attachment.type in _READ_WHOLE else FIRST_BYTES
            data = None if url is None else await self._storage.fetch(url, most)
            if data is None:
                raise _gone(attachment)
        text = read_text(data) if is_text else None
        if not fits(attachment.type, data) or (is_text and text is None):
            problem = f"“{attachment.name}” is damaged, or not the kind of file that its name says."
            raise BadAttachment("bad_attachment", problem, detail=f"its bytes are not {attachment.type}")
        if is_text:
            return Opened(attachment, text=text)
        if attachment.data is not None or attachment.type in _READ_WHOLE:
            return Opened(attachment, base64=await _encode(data))
        return Opened(attachment, url or "")


class Share:
    """The right to have so many bytes in a call."""

    def __init__(self, owner: Attachments, attachments: Sequence[Attachment]) -> None:
        self._owner, self._attachments = owner, attachments
        self._place = owner.budget.reserve(sum(attachment.size for attachment in attachments))

    def __enter__(self) -> Self:
        """Get in line."""
        self._place.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the bytes back, or leave the line."""
        self._place.__exit__()

    async def open(self, optional: Collection[Attachment] = ()) -> tuple[Opened, ...]:
        """See `bridge.model.Share.open`."""
        await self._place.served.wait()
        return await self._owner.open(self._attachments, optional)


async def _encode(data: bytes) -> str:
    """The base64 of these bytes, a piece in each turn of the loop: 10 MiB at once would hold it for 50 ms."""
    pieces = []
    for start in range(0, len(data), _PIECE_BYTES):
        pieces.append(b64encode(data[start : start + _PIECE_BYTES]).decode("ascii"))
        await asyncio.sleep(0)
    return "".join(pieces)


def _gone(attachment: Attachment) -> TurnFailure:
    return BadAttachment("attachment_gone", f"“{attachment.name}” is no longer there. Attach it again.")


def _unavailable(error: StoreError) -> TurnFailure:
    return AttachmentUnavailable(
        "attachment_unavailable", "The attachments cannot be reached at the moment.", detail=str(error)
    )
