"""The values that travel between the rooms of the bridge: plain, frozen, without behaviour.

Field names are the columns of `supabase/migrations` wherever a value mirrors a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


Role = Literal["user", "assistant"]
Outcome = Literal["done", "failed", "cancelled", "released"]


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `public.sessions`, as far as a function may want to know it."""

    id: str
    user_id: str
    title: str | None
    function: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation, as the model is to see it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A row of `public.code_files`. `revision` is the one the reply is made from."""

    path: str
    content: str
    language: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class FileWrite:
    """A file that a reply writes."""

    path: str
    content: str
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a BAML function or a handler gets: one question with all that belongs to it.

    `messages` is the conversation before the question, oldest first; `message` is the
    question's text; `data` holds the extra named arguments of the question.
    """

    function: str
    message: str
    messages: tuple[Message, ...]
    files: tuple[CodeFile, ...]
    session: Session
    user_id: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost. Token counts are None where the provider did not tell them."""

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """The reply so far: all of its text, and a snapshot of its structured part (None if it has none)."""

    text: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole reply, as the model ended it."""

    text: str
    data: Any = None
    files: tuple[FileWrite, ...] = ()
    usage: Usage = Usage()
