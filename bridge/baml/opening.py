"""Opens the attachments of a call, with signs of life while it waits for its share of BRIDGE_MEDIA_BYTES."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bridge.attachments import MOST_BYTES, Attachments
from bridge.model import Attachment, Opened, Partial, Turn

SIGN_SECONDS = 1.0  # how often a call that waits shows a sign of life
_SIGN = Partial("", has_begun=False, is_added=True)


class Opening:
    """Attachments that are being opened, in a task; None if there are none."""

    def __init__(self, task: asyncio.Task[tuple[Opened, ...]] | None) -> None:
        self._task = task

    async def signs(self) -> AsyncGenerator[Partial, None]:
        """Give signs of life until they are open."""
        if self._task is not None:
            while not (await asyncio.wait({self._task}, timeout=SIGN_SECONDS))[0]:
                yield _SIGN

    @property
    def result(self) -> tuple[Opened, ...]:
        """The attachments. Raises TurnFailure."""
        return () if self._task is None else self._task.result()

    @property
    def copied(self) -> int:
        """How many bytes of them are arguments themselves, and not behind a URL. Raises TurnFailure."""
        return sum(len(one.base64 or "") for one in self.result)


@contextmanager
def opening(turn: Turn, attachments: Sequence[Attachment], optional: Collection[Attachment] = ()) -> Iterator[Opening]:
    """Open attachments for a call of a model, which is made within the block: there they hold their share."""
    if not attachments:
        yield Opening(None)
        return
    objects = turn.objects or Attachments(_Nowhere(), MOST_BYTES)
    with objects.share(attachments) as share:
        task = asyncio.create_task(share.open(optional))
        try:
            yield Opening(task)
        finally:
            if not task.cancel() and not task.cancelled():
                task.exception()  # nobody may have asked for it


class _Nowhere:
    """Storage outside of a worker, as in a test: attachments come with their data."""

    async def sign(self, paths: Sequence[str], seconds: int) -> Mapping[str, str]:
        """There is none."""
        return {}

    async def fetch(self, url: str, most: int) -> bytes | None:
        """There is none."""
        return None

    async def upload(self, path: str, data: bytes, kind: str) -> None:
        """It is not kept."""
