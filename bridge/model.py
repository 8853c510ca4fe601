"""The values that modules of the bridge pass to each other: frozen, plain data.

Where a value mirrors a row, its fields are named as the columns in `supabase/schemas`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Role = Literal["user", "assistant"]
Outcome = Literal["done", "failed", "cancelled", "released"]


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `public.sessions`, as far as functions need it."""

    id: str
    user_id: str
    title: str | None
    function: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation, as the model sees it.

    `data` is a reply's structured part, without its text and its files; None if it has none.
    """

    role: Role
    content: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A row of `public.code_files`; the reply is based on this `revision`."""

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
    """The input of a BAML function or a handler: one question with its context.

    `question_id` is the same in every attempt at a question, also when its user asks for another reply. So a tool that
    must not act twice can use it as a key. `attempt` grows with each attempt.
    """

    function: str
    message: str  # the question's text
    messages: tuple[Message, ...]  # the conversation before it, oldest first
    files: tuple[CodeFile, ...]
    session: Session
    user_id: str
    data: Mapping[str, Any] = field(default_factory=dict)  # the question's extra named arguments
    question_id: str = ""  # a UUID; empty outside of a worker
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost. Token counts are None where the provider did not report them."""

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """The reply so far: its whole text, and a snapshot of its structured part (None: as it was).

    With `is_added`, the text is only what was written since the partial before it. `has_begun` is False while the
    provider shows signs of life, but the model has written no word and no thought. `usage` is what was reported so far.
    """

    text: str
    data: Any = None
    has_begun: bool = True
    usage: Usage = Usage()
    is_added: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The complete reply. `is_truncated` means that the model reached its output limit in a plain text."""

    text: str
    data: Any = None
    files: tuple[FileWrite, ...] = ()
    usage: Usage = Usage()
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed question. Every write about it carries `attempt`, the fence."""

    question_id: str
    attempt: int
    failures: int
    cancel: bool
    taken_over: bool = False  # another worker held it and vanished
    reply_id: str = ""
    queued_ms: int = 0  # since the insert
    ready_ms: int = 0  # since it could first be claimed
    turn: Turn | None = None
    revisions: Mapping[str, int] = field(default_factory=dict)  # of all files, also of those too large for `turn.files`
    broken: str | None = None  # why its payload could not be built
    is_used_up: bool = False  # its user has used up the tokens of the day


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A question that the database handed to this worker. `job` is None if its payload was too large to be sent."""

    question_id: str
    attempt: int
    job: Job | None
    at: float  # the time in the database, in seconds since 1970


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions a claim has seen: `pg_current_snapshot()` of Postgres 13 and newer."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read its text form, `xmin:xmax:xip,xip`. Raises ValueError."""
        xmin, xmax, in_progress = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in in_progress.split(",") if xid))

    def sees(self, xid: int) -> bool:
        """Whether a committed transaction was visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)


@dataclass(frozen=True, slots=True)
class QueueHints:
    """What the answer to every call says of the queue."""

    next_in: float | None  # seconds until a job may fall due for this worker; None: nothing is scheduled
    fleet_size: int  # how many workers are live
    ready: bool | None = None  # whether this worker can claim a question now; None: unknown
    lease_in: float | None = None  # seconds until another worker's lease ends, if `tells_leases`; None: none does
    tells_leases: bool = False
    watches: bool = True  # whether this worker is one of the few that hear of inserts by postgres_changes
    missed: bool = False  # the database took this worker for one that does not hear its topic
    at: float | None = None  # the time in the database, in seconds since 1970


@dataclass(frozen=True, slots=True)
class Claim:
    """The jobs that a claim took, and the snapshot that it saw.

    `is_held_back`: there are more, which can be claimed when a reply has ended. `elsewhere`: the functions that other
    workers answer well.
    """

    jobs: tuple[Job, ...]
    hints: QueueHints
    snapshot: Snapshot | None = None
    is_held_back: bool = False
    elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A lease to extend, and with `seq` the reply that the deltas up to `seq` make up."""

    question_id: str
    attempt: int
    seq: int | None = None
    text: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class AttemptStats:
    """What an attempt cost and how long it took, in milliseconds."""

    function: str | None = None
    usage: Usage = Usage()
    queue_ms: int | None = None
    first_delta_ms: int | None = None
    duration_ms: int | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended."""

    question_id: str
    attempt: int
    outcome: Outcome
    user_id: str | None = None  # pays for the tokens, even if the session was deleted
    text: str | None = None  # None keeps the text of the last checkpoint
    data: Any = None
    seq: int | None = None
    files: tuple[FileWrite, ...] = ()
    revisions: Mapping[str, int] = field(default_factory=dict)
    error: Mapping[str, str] | None = None  # {code, message}, safe to show
    retry_ms: int | None = None  # of a failed one: requests another attempt
    hand_over_ms: int | None = None  # of a failed one: another attempt, if another worker can make it
    is_of_model: bool = False  # of a failed one: the model or the way to it is out of order, whatever was asked
    wants_title: bool = False  # of a done one: its session may need a title
    is_unconfirmed: bool = False  # the database may not see yet that it was dispatched
    stats: AttemptStats = AttemptStats()


@dataclass(frozen=True, slots=True)
class BatchAck:
    """The state of each item of a batched call, by question id.

    `untitled`: those whose session needs a title. `dispatches`: the next questions of their sessions.
    """

    states: Mapping[str, str]
    hints: QueueHints
    untitled: frozenset[str] = frozenset()
    dispatches: tuple[Dispatch, ...] = ()
