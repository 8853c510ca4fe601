"""Handlers for tests that read and give attachments, to name in BRIDGE_HANDLERS: `Read`, `Give`, and `Walk` too."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from typing import Any

from bridge import Attachment, Turn, handler
from tests.support.agents import walk
from tests.support.objects import PNG

__all__ = ["ATTACHING", "digest", "give", "read", "walk"]
ATTACHING: dict[str, Any] = {"handlers": "tests.support.attaching", "functions": "Read,Give,Walk,Chat"}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@handler("Read", accepts=["text/plain", "image/png"])
async def read(turn: Turn) -> AsyncGenerator[str, None]:
    """Say what each attachment holds, as a digest."""
    for attachment in turn.attachments:
        yield f"{attachment.name} {digest(await turn.read(attachment))}\n"


@handler("Give")
async def give(turn: Turn) -> AsyncGenerator[str | Attachment, None]:
    """Draw in a step, give the drawing, and remember that it was given."""

    async def draw() -> str:
        return "dot"

    async def note() -> str:
        return "noted"

    yield f"{await turn.step('draw', draw)} "
    yield Attachment("dot.png", PNG, "image/png")
    yield await turn.step("note", note)
