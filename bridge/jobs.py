"""The jobs that a worker holds, as a state machine without I/O.

    claimed ──start──▶ running ──request_stop──▶ stopping
       │                  │                          │
       └──────────────────┴────────── report ◀───────┘      (a reported result can be replaced: it was refused)
                                        │
                                    reporting ──acknowledge──▶ ended

A job stays in `Jobs` from its claim until the database has acknowledged its result. The first reason to stop wins.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bridge.model import AttemptStats, Job, Outcome, Result, Usage

if TYPE_CHECKING:  # the states know nothing of Realtime
    from bridge.realtime.publisher import OutgoingReply

State = Literal["claimed", "running", "stopping", "reporting", "ended"]
StopReason = Literal["cancelled", "released", "lost"]

# How long to remember a cancel for a question that is not held yet: the claim that returns it may be in flight.
EARLY_CANCEL_SECONDS = 10.0
# Realtime may bring a dispatch a moment before other transactions see its commit. For so long, the database may not
# know of a job that nobody has confirmed.
VISIBLE_SECONDS = 3.0
# How many attempts to remember: a claim and a dispatch may both bring one, the second after the first has ended.
REMEMBERED = 10_000


@dataclass(slots=True, eq=False)
class RunningJob:
    """One attempt at a question."""

    job: Job
    reply: "OutgoingReply"
    claimed_at: float  # monotonic seconds
    beaten_at: float
    state: State = "claimed"
    stop_reason: StopReason | None = None
    reannounced: bool = False  # its question was announced again: claim again after this attempt
    usage: Usage = field(default_factory=Usage)  # what the provider has reported so far
    prompt_characters: int = 0  # about how many characters a model was asked to read
    thought: int = 0  # how many characters the model has thought
    busy_pause: float = 0.0  # seconds until its result is sent again, because its user keeps the session locked

    @property
    def is_confirmed(self) -> bool:
        """Whether the database has shown that it knows that this worker has the job."""
        return self.beaten_at > -math.inf

    @property
    def may_be_invisible(self) -> bool:
        """Whether its dispatch may not be visible in the database yet."""
        return not self.is_confirmed and time.monotonic() < self.claimed_at + VISIBLE_SECONDS

    def start(self) -> bool:
        """Begin to answer; False if a stop was requested first."""
        assert self.state == "claimed", self.state
        self.state = "running" if self.stop_reason is None else "stopping"
        return self.stop_reason is None

    def request_stop(self, reason: StopReason) -> bool:
        """Ask the attempt to stop; True if it is running and must be interrupted now."""
        if self.state not in ("claimed", "running") or self.stop_reason is not None:
            return False
        self.stop_reason = reason
        if self.state == "claimed":  # `start` will see it
            return False
        self.state = "stopping"
        return True

    def report(self) -> None:
        """Its result is on the way to the database."""
        assert self.state != "ended"
        self.state = "reporting"

    def result(
        self, outcome: Outcome, usage: Usage | None = None, detail: dict[str, str] | None = None, **fields: Any
    ) -> Result:
        """Build the attempt's result. `detail` is the error for operators; `fields` are those of `Result`."""
        job, sent_at = self.job, self.reply.first_sent_at
        stats = AttemptStats(
            function=job.turn.function if job.turn is not None else None,
            usage=usage or Usage(),
            queue_ms=job.queued_ms,
            first_delta_ms=None if sent_at is None else int((sent_at - self.claimed_at) * 1000),
            duration_ms=int((time.monotonic() - self.claimed_at) * 1000),
            error=detail,
        )
        user_id = job.turn.user_id if job.turn is not None else None
        return Result(job.question_id, job.attempt, outcome, user_id, stats=stats, **fields)

    @property
    def log_fields(self) -> dict[str, object]:
        """Fields that identify this attempt in log lines."""
        session_id = self.job.turn.session.id if self.job.turn is not None else None
        return {"question_id": self.job.question_id, "session_id": session_id, "attempt": self.job.attempt}


class JobEvents(Protocol):
    """What the owner of `Jobs` learns."""

    def on_added(self, running: RunningJob) -> None:
        """A job was claimed: start it."""

    def on_stop(self, running: RunningJob) -> None:
        """A running job must be interrupted; `stop_reason` says why."""

    def on_ended(self, running: RunningJob, result: Result, state: str, *, is_untitled: bool) -> None:
        """The database acknowledged the result of a job, with `state`; `is_untitled`: its session needs a title."""


class Jobs:
    """All jobs that a worker holds, by question id."""

    def __init__(self, concurrency: int, open_reply: "Callable[[Job], OutgoingReply]", events: JobEvents) -> None:
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self.not_empty = asyncio.Event()
        self.has_unconfirmed = asyncio.Event()  # a job was added that the next beat has to confirm
        self.has_room = asyncio.Event()
        self.has_room.set()
        self._concurrency = concurrency
        self._open_reply = open_reply
        self._events = events
        self._running: dict[str, RunningJob] = {}
        self._early_cancels: dict[str, float] = {}
        self._attempts: OrderedDict[str, int] = OrderedDict()  # the newest of each question, the oldest question first
        self._is_releasing = False

    def __iter__(self) -> Iterator[RunningJob]:
        return iter(list(self._running.values()))

    @property
    def question_ids(self) -> list[str]:
        """The questions held."""
        return list(self._running)

    @property
    def count(self) -> int:
        """How many jobs are held."""
        return len(self._running)

    @property
    def free_slots(self) -> int:
        """How many more jobs can be held."""
        return max(0, self._concurrency - len(self._running))

    def get(self, question_id: str, attempt: int | None = None) -> RunningJob | None:
        """The job of a question, if it is held (with `attempt`: under this one)."""
        running = self._running.get(question_id)
        return running if running is None or attempt in (None, running.job.attempt) else None

    def is_new(self, question_id: str, attempt: int) -> bool:
        """Whether this attempt has not been added yet."""
        return attempt > self._attempts.get(question_id, 0)

    def is_known(self, question_id: str) -> bool:
        """Whether some attempt at a question was added."""
        return question_id in self._attempts

    def add(self, job: Job, *, is_confirmed: bool = True) -> None:
        """Hold a job. One whose earlier attempt is still being reported is claimed again later.

        `is_confirmed`: the database knows that this worker has it.
        """
        if (known := self._running.get(job.question_id)) is not None:
            known.reannounced |= job.attempt > known.job.attempt
            return
        if not self.is_new(job.question_id, job.attempt):
            return
        self._attempts[job.question_id] = job.attempt
        self._attempts.move_to_end(job.question_id)
        while len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)
        now = time.monotonic()
        beaten_at = now if is_confirmed else -math.inf
        running = self._running[job.question_id] = RunningJob(job, self._open_reply(job), now, beaten_at)
        if not is_confirmed:
            self.has_unconfirmed.set()
        self._update()
        is_cancelled = self._early_cancels.pop(job.question_id, None) is not None
        if is_cancelled or self._is_releasing:
            running.request_stop("cancelled" if is_cancelled else "released")
        self._events.on_added(running)

    def is_news(self, question_ids: tuple[str, ...], *, announced: bool) -> bool:
        """Whether an event says that there is more to claim than the jobs held; `announced`: it was a broadcast."""
        for question_id in question_ids:
            if announced and (running := self._running.get(question_id)) is not None:
                running.reannounced = True
        return not question_ids or any(id_ not in self._running for id_ in question_ids)

    def cancel(self, question_id: str) -> None:
        """The user stopped the reply to a question, which may not be held yet."""
        if (running := self._running.get(question_id)) is not None:
            self.stop(running, "cancelled")
            return
        now = time.monotonic()
        self._early_cancels = {id_: at for id_, at in self._early_cancels.items() if now - at < EARLY_CANCEL_SECONDS}
        self._early_cancels[question_id] = now

    def stop(self, running: RunningJob, reason: StopReason) -> None:
        """Stop a job; it still reports a result."""
        if running.request_stop(reason):
            self._events.on_stop(running)

    def release_all(self) -> None:
        """Give back every job, and from now on whatever a claim still brings."""
        self._is_releasing = True
        for running in self:
            self.stop(running, "released")

    def acknowledge(self, running: RunningJob, result: Result, state: str, *, is_untitled: bool = False) -> None:
        """The database has the result: the job is held no more."""
        running.state = "ended"
        running.reply.close()
        del self._running[running.job.question_id]
        self._update()
        self._events.on_ended(running, result, state, is_untitled=is_untitled)

    def _update(self) -> None:
        states = {self.is_empty: not self._running, self.not_empty: bool(self._running), self.has_room: self.free_slots}
        for event, is_set in states.items():
            (event.set if is_set else event.clear)()
