"""A headless worker: answers messages in a Supabase table with BAML functions, and streams the replies back.

The command `bridge` runs it. To answer with Python code instead of a BAML function, write a handler:

    from bridge import FileWrite, Turn, handler

`bridge.handlers` has an example. `defuse` makes users' text safe for a BAML prompt. The worker passes all arguments of
BAML functions through it; a handler that calls a BAML function itself must do the same.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

# baml-py reads this when it is first imported. Unset, or with the value that some shells set, it prints prompts.
os.environ["BAML_LOG"] = "off"

if TYPE_CHECKING:
    from bridge.baml.delimiters import defuse
    from bridge.errors import BadRequest, MaybeDone, NoAnswer, ToolFailed, TurnFailure
    from bridge.handlers import handler
    from bridge.model import Answer, Attachment, CodeFile, FileWrite, Message, Session, Turn, Usage
    from bridge.steps import step_key

__all__ = [
    "Answer", "Attachment", "BadRequest", "CodeFile", "FileWrite", "MaybeDone", "Message", "NoAnswer", "Session",
    "ToolFailed", "Turn", "TurnFailure", "Usage", "defuse", "handler", "step_key",
]  # fmt: skip

_HOMES = ("bridge.model", "bridge.errors", "bridge.steps", "bridge.handlers", "bridge.baml.delimiters")


def __getattr__(name: str) -> object:
    """Import what is asked for: the command starts here, and must not spend a second before it can be stopped."""
    if name in __all__:
        for home in _HOMES:
            if (found := getattr(import_module(home), name, None)) is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
