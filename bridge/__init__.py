"""A headless worker: rows of a Supabase table in, answers of BAML functions out, streamed through Realtime.

The command `bridge` runs it. Python code that answers in the place of a BAML function needs what is here:

    from bridge import FileWrite, Turn, handler

`handler` and its examples: `bridge.handlers`. `defuse` makes users' text safe for a BAML prompt: the worker passes all
arguments of BAML functions through it, and a handler that calls one itself does the same.
"""

import os

# Before baml-py is first imported, which reads it then: unset, or as some have it in their shell, it prints prompts.
os.environ["BAML_LOG"] = "off"

from bridge.delimiters import defuse
from bridge.errors import BadRequest, TurnFailure
from bridge.handlers import handler
from bridge.model import CodeFile, FileWrite, Message, Session, Turn, Usage

__all__ = [
    "BadRequest",
    "CodeFile",
    "FileWrite",
    "Message",
    "Session",
    "Turn",
    "TurnFailure",
    "Usage",
    "defuse",
    "handler",
]
