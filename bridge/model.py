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
class Completion:
    """The whole reply, as the model ended it."""

    text: str
    data: Any = None
    files: tuple[FileWrite, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed question. Every write about it carries `attempt`, the fence.

    `broken` tells why its payload could not be built (None: it could); `revisions` names the revision
    of every file of the session, of those too large to be in `turn.files` as well. `taken_over` says that another
    worker held it and vanished. `queued_ms` counts from the insert, `ready_ms` from when it could have been claimed.
    """

    message_id: str
    attempt: int
    failures: int
    cancel: bool
    taken_over: bool = False
    reply_id: str = ""
    queued_ms: int = 0
    ready_ms: int = 0
    turn: Turn | None = None
    revisions: Mapping[str, int] = field(default_factory=dict)
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions a claim has seen: `pg_current_snapshot()` of Postgres 13 and newer."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def read(cls, text: str) -> Snapshot:
        """From its text form, `xmin:xmax:xip,xip`. Raises ValueError."""
        xmin, xmax, in_progress = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in in_progress.split(",") if xid))

    def sees(self, xid: int) -> bool:
        """Whether a transaction that has committed was visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought: jobs, seconds until something falls due (None: nothing), live workers, what it saw."""

    jobs: tuple[Job, ...]
    next_in: float | None
    workers: int
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A lease to extend, and with `seq` the reply as the deltas up to `seq` make it."""

    message_id: str
    attempt: int
    seq: int | None = None
    text: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class Run:
    """What an attempt cost and how long it took, in milliseconds."""

    function: str | None = None
    usage: Usage = Usage()
    queue_ms: int | None = None
    first_delta_ms: int | None = None
    duration_ms: int | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. `text` None keeps the text that the last checkpoint wrote.

    `error` is `{code, message}`, safe to show; `retry_ms` (of a failed one) asks for another attempt. `user_id` pays
    for what was spent, even if the session is gone.
    """

    message_id: str
    attempt: int
    outcome: Outcome
    text: str | None = None
    data: Any = None
    seq: int | None = None
    files: tuple[FileWrite, ...] = ()
    revisions: Mapping[str, int] = field(default_factory=dict)
    error: Mapping[str, str] | None = None
    retry_ms: int | None = None
    run: Run = Run()
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What a batched call said of each item, by message id, and the outlook of `Claim`.

    `ready` tells whether there was something to claim; None: it did not say.
    """

    states: Mapping[str, str]
    next_in: float | None
    workers: int
    ready: bool | None = None
