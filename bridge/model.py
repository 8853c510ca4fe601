"""The values that modules of the bridge pass to each other: frozen, plain data.

Where a value mirrors a row, its fields are named as the columns in `supabase/schemas`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

Role = Literal["user", "assistant"]
Outcome = Literal["done", "failed", "cancelled", "released", "waiting"]
StepKind = Literal["done", "failed", "begun", "ask", "sleep", "run"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `public.sessions`, as far as functions need it."""

    id: str
    user_id: str
    title: str | None
    function: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that a message names, or that a handler yields: `Attachment("chart.png", data, "image/png")`.

    `type` is its media type. Of a question's, `data` is None: `await turn.read(attachment)` reads it. `path` is where
    Storage keeps it, and `size` how many bytes it has.
    """

    name: str
    data: bytes | None = field(repr=False)
    type: str
    path: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        if self.data is not None:
            object.__setattr__(self, "size", len(self.data))


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation, as the model sees it.

    `data` is a reply's structured part, without its text and its files; None if it has none. Only questions have
    `attachments`.
    """

    role: Role
    content: str
    data: Any = None
    attachments: tuple[Attachment, ...] = ()


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


class Answer(dict[str, Any]):
    """A user's answer to `Turn.ask`: the JSON object that was sent."""

    @property
    def approved(self) -> bool:
        """Whether its key `approved` is true."""
        return self.get("approved") is True


class Opened(NamedTuple):
    """What a model gets of an attachment: the `url` of its bytes, or the bytes as base64, or its text."""

    attachment: Attachment
    url: str = ""
    base64: str | None = None
    text: str | None = None


class Objects(Protocol):
    """The bytes of attachments: `bridge.attachments.Attachments`."""

    async def read(self, attachment: Attachment) -> bytes:
        """All bytes of an attachment. Raises TurnFailure."""

    async def store(self, path: str, attachment: Attachment) -> None:
        """Store its data under a path, again if need be. Raises TurnFailure."""

    def share(self, attachments: Sequence[Attachment]) -> "Share":
        """Get in line to open these."""


class Share(Protocol):
    """The right to have so many bytes in a call. It begins where it is entered, and ends there."""

    def __enter__(self) -> Self:
        """Get in line."""

    def __exit__(self, *_: object) -> None:
        """Give the bytes back, or leave the line."""

    async def open(self, optional: Collection[Attachment] = ()) -> tuple[Opened, ...]:
        """Wait for its turn, and open the attachments. Of the `optional`, those that cannot be had are left out.

        Raises TurnFailure.
        """


class StepRunner(Protocol):
    """What runs the steps of a handler: `bridge.steps.Steps`."""

    async def step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], *, seconds: float | None, once: bool
    ) -> Any:
        """See `Turn.step`."""

    async def tool(self, name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """See `Turn.tool`."""

    async def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any], *, is_said: bool
    ) -> Any:
        """See `Turn.call` and `Turn.say`."""

    async def ask(
        self, name: str, prompt: str | Mapping[str, Any], choices: Sequence[str] | None, within: float | None
    ) -> Answer:
        """See `Turn.ask`."""

    async def sleep(self, name: str, seconds: float) -> None:
        """See `Turn.sleep`."""

    async def run(self, function: str, message: str, data: Mapping[str, Any] | None, within: float) -> Message:
        """See `Turn.run`."""

    def show(self, part: Mapping[str, Any]) -> None:
        """See `Turn.show`."""

    async def read(self, attachment: Attachment) -> bytes:
        """See `Turn.read`."""


@dataclass(frozen=True, slots=True)
class Description:
    """What users see of a function: a row of `public.functions`. `parameters` and `result` are JSON schemas.

    One that `is_internal` is for handlers or the worker alone, and is not shown.
    """

    name: str
    title: str | None = None
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    suggestions: Sequence[str] = ()
    reads_files: bool = False
    is_internal: bool = False
    accepts: Sequence[str] = ()  # the media types of the attachments that it reads


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of a BAML function or a handler: one question with its context.

    `question_id` is the same in every attempt at a question, also when its user asks for another reply. `attempt` grows
    with each attempt.

    A handler's worker may vanish at any time, and another one runs the handler again from its first line. What the
    methods here gave is remembered under a name, and given again at once: each is a *step*. The second step of a name
    is `name#2`. Steps that run side by side need names of their own. What a step gives must be JSON, a pydantic model
    or a dataclass; it comes back in the type of the function's return annotation. See docs/functions.md.
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
    steps: StepRunner | None = field(default=None, repr=False, compare=False)  # of a handler, in a worker
    attachments: tuple[Attachment, ...] = ()  # the question's
    objects: Objects | None = field(default=None, repr=False, compare=False)  # their bytes, in a worker
    model: str | None = None  # that the user has chosen: the name of a client in baml_src

    async def step(
        self, name: str, function: Callable[..., Any], *args: Any, seconds: float | None = None, once: bool = False
    ) -> Any:
        """Run `function(*args)`, and remember what it gives.

        It may run again if its worker vanishes before that is remembered: use `step_key()` as an idempotency key. With
        `once`, it never runs twice: if nobody knows whether it has run, MaybeDone is raised. `seconds` is how long it
        may take (BRIDGE_STEP_SECONDS by default). If the function raises ToolFailed, that is remembered and raised
        again; any other exception ends the attempt, and the next one tries this step again.
        """
        return await self._runner.step(name, function, args, seconds=seconds, once=once)

    async def tool(self, name: str, function: Callable[..., Any], **given: Any) -> Any:
        """Run `function(**given)` as a step that the user sees: its name, its input, and what it gave."""
        return await self._runner.tool(name, function, given)

    async def call(self, function: Callable[..., Awaitable[Value]], *args: Any, **named: Any) -> Value:
        """Call a BAML function, `turn.call(b.Plan, turn.message)`, as a step: charged, cancelled and made safe."""
        value: Value = await self._runner.call(function, args, named, is_said=False)
        return value

    async def say(self, function: Callable[..., Awaitable[Value]], *args: Any, **named: Any) -> Value:
        """As `call`, and stream what it gives into the reply: its text, and all other fields as data."""
        value: Value = await self._runner.call(function, args, named, is_said=True)
        return value

    async def ask(
        self,
        name: str,
        prompt: str | Mapping[str, Any],
        choices: Sequence[str] | None = None,
        within: float | None = None,
    ) -> Answer:
        """Ask the user, and wait up to `within` seconds (BRIDGE_ASK_SECONDS by default, 90 days at most).

        No worker holds the question meanwhile: the handler is cancelled here, and runs again with the answer. Raises
        NoAnswer if there is none in time.
        """
        return await self._runner.ask(name, prompt, choices, within)

    async def sleep(self, name: str, seconds: float) -> None:
        """Go on after so many seconds, 90 days at most. No worker holds the question meanwhile."""
        await self._runner.sleep(name, seconds)

    async def run(
        self, function: str, message: str, data: Mapping[str, Any] | None = None, within: float = 86_400
    ) -> Message:
        """Ask another function, in a session of its own, and wait for its reply without holding a slot.

        Raises ToolFailed if it failed or was cancelled, and NoAnswer if it has not ended `within` so many seconds.
        """
        return await self._runner.run(function, message, data, within)

    def show(self, part: Mapping[str, Any]) -> None:
        """Add a part of the AI SDK to the reply, or replace the one with the same `toolCallId` or `id`."""
        self._runner.show(part)

    async def read(self, attachment: Attachment) -> bytes:
        """Return the bytes of an attachment. They are read again in every attempt."""
        return attachment.data if attachment.data is not None else await self._runner.read(attachment)

    @property
    def _runner(self) -> StepRunner:
        if self.steps is None:
            raise RuntimeError("This turn has no worker. Run the handler with `bridge.handlers.run_handler`.")
        return self.steps


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
    `reasoning` is what the model has thought since the partial before, and before what is new of the text; it is empty
    unless it is to be shown. `thought` is how many characters of reasoning there are so far, shown or not.
    """

    text: str
    data: Any = None
    has_begun: bool = True
    usage: Usage = Usage()
    is_added: bool = False
    part: Mapping[str, Any] | None = None  # to add behind the text so far, or to replace the one of the same key
    attachment: Attachment | None = None  # to be stored before its part is shown
    reasoning: str = ""
    thought: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The complete reply. `is_truncated` means that the model reached its output limit in a plain text.

    `thought` is how many characters of reasoning the model has written beside it.
    """

    text: str
    data: Any = None
    files: tuple[FileWrite, ...] = ()
    usage: Usage = Usage()
    is_truncated: bool = False
    thought: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What an attempt keeps of what earlier ones have shown."""

    seq: int
    text: str
    data: Any
    parts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that an earlier attempt has done, or waits for: a row of `bridge.steps`.

    `is_due`: nobody has given it in time.
    """

    name: str
    ordinal: int
    kind: StepKind
    value: Any
    is_done: bool
    is_due: bool
    emitted_before: int
    emitted: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A reply at a moment: how much of it there is, and whatever of it the row may not have.

    `seq` is None if the row has all of it; `parts` if it has these.
    """

    chars: int
    part_count: int
    seq: int | None = None
    text: str = ""
    data: Any = None
    parts: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class StepWrite:
    """A step to remember, with the reply as it is then."""

    question_id: str
    attempt: int
    name: str
    ordinal: int
    kind: StepKind
    value: Any
    emitted_before: int
    emitted: int
    settled: Settled
    usage: Usage | None = None  # of a model call


@dataclass(frozen=True, slots=True)
class StepAck:
    """The state of each step that was sent, by question and name, and whose users have used up their tokens."""

    states: Mapping[tuple[str, str], str]
    used_up: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that somebody else gives: a user, the clock, or another reply (`value` says which)."""

    name: str
    ordinal: int
    kind: StepKind
    value: Any
    emitted_before: int
    emitted: int
    within_ms: float


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
    since: int = 0  # the attempt after which its steps began
    steps: int = 0  # how many are remembered
    known: tuple[Step, ...] | None = None  # these; None: they are too large for its payload
    kept: Kept | None = None


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
    orphans: bool = False  # there may be objects to remove
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
    parts: tuple[Mapping[str, Any], ...] | None = None  # None: the row has them


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
    parts: tuple[Mapping[str, Any], ...] = ()
    waits: tuple[Wait, ...] = ()  # of one that waits


@dataclass(frozen=True, slots=True)
class BatchAck:
    """The state of each item of a batched call, by question id.

    `untitled`: those whose session needs a title. `dispatches`: the next questions of their sessions.
    """

    states: Mapping[str, str]
    hints: QueueHints
    untitled: frozenset[str] = frozenset()
    dispatches: tuple[Dispatch, ...] = ()
