"""Calls of functions: the turn to run, and what the call gives."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest

from bridge.errors import TurnFailure
from bridge.functions import Functions
from bridge.model import CodeFile, Completion, Message, Partial, Session, Turn

KEY = "sk-very-secret-key"


def variables(url: str) -> dict[str, str]:
    """The variables of a client that calls the model at `url`."""
    return {"LLM_BASE_URL": url, "LLM_API_KEY": KEY, "LLM_MODEL": "demo"}


def turn(
    message: str,
    function: str = "Chat",
    messages: tuple[Message, ...] = (),
    files: tuple[CodeFile, ...] = (),
) -> Turn:
    """A turn without arguments of its own."""
    return Turn(function, message, messages, files, Session("s", "u", None, function, {}), "u")


async def collect(functions: Functions, asked: Turn) -> tuple[list[Partial], Completion]:
    """Run a turn to its end: each partial with the whole text. Raises TurnFailure."""
    partials: list[Partial] = []
    text = ""
    completion: Completion | None = None
    async with aclosing(functions.run(asked)) as pieces:
        async for piece in pieces:
            assert completion is None, "something came after the completion"
            if isinstance(piece, Completion):
                completion = piece
            else:
                text = text + piece.text if piece.is_added else piece.text
                partials.append(replace(piece, text=text, is_added=False))
    assert completion is not None
    return partials, completion


async def fail(functions: Functions, message: str, function: str = "Chat") -> TurnFailure:
    """Run a turn that fails. The failure contains neither the key nor the prompt."""
    with pytest.raises(TurnFailure) as caught:
        await collect(functions, turn(message, function))
    shown = f"{caught.value.code} {caught.value.message} {caught.value.detail}"
    assert KEY not in shown
    assert "[[" not in shown, "the failure shows the prompt"
    assert "\n" not in caught.value.message
    return caught.value
