"""What a step gives is bounded before it is sent: a tool may return whatever its user has asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.errors import TurnFailure
from bridge.handlers import run_handler
from bridge.model import Session, Turn


@pytest.mark.parametrize("value", ["x" * 2_000_000, ["x"] * 500_000], ids=["a text", "a list"])
def test_step_that_gives_too_much_ends_the_reply(value: Any) -> None:
    async def fetch() -> Any:
        return value

    async def handle(turn: Turn) -> Any:
        await turn.tool("fetch", fetch)
        yield "unreached"

    async def main() -> None:
        session = Session("s", "u", None, "Big", {})
        turn = Turn("Big", "hello", (), (), session, "u")
        with pytest.raises(TurnFailure) as failure:
            _ = [piece async for piece in run_handler(handle, turn)]
        assert failure.value.code == "step_too_large"

    asyncio.run(main())
