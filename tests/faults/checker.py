"""Checks the ledger of a run: was anything lost, doubled, out of order, or written under a lost lease?

The ledger is plain values: the expected replies, the rows at the end, and every write in order (`audit.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from tests.faults.audit import Write
from tests.support.database import Row
from tests.support.users import ENDED

Kind = Literal[
    "lost",
    "doubled",
    "wrong",
    "out of order",
    "two at once",
    "late write",
    "repeated",
    "changed",
    "taken back",
    "stuck",
]  # fmt: skip
Pieces = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """An accepted question, and the reply that its script prescribes.

    `mark` is a word that occurs once in the text. If the user cancelled the question, a part of the text is enough.
    """

    message_id: str
    session_id: str
    text: str = ""
    mark: str = ""
    data: Any = None
    files: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None  # the code that it must fail with
    cancelled: bool = False
    retries: int = 0  # calls of retry_message that were accepted
    pieces: Sequence[Pieces] = ()  # in the place of `text`: the parts of the text, each time one of several

    def fits(self, text: str, *, partly: bool = False) -> bool:
        """Whether a reply has this text; `partly`: whether it begins with it."""
        pieces = self.pieces or [(self.text,)]
        ends = {0}  # where the pieces so far may end
        for piece in pieces:
            if partly and any(one.startswith(text[end:]) for end in ends for one in piece):
                return True
            ends = {end + len(one) for end in ends for one in piece if text.startswith(one, end)}
        return len(text) in ends


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a run left behind."""

    expected: Sequence[Expected]
    messages: Sequence[Row]
    writes: Sequence[Write] = ()
    files: Mapping[tuple[str, str], str] = field(default_factory=dict)  # by session and path
    runs: Sequence[Row] = ()
    jobs: Sequence[str] = ()  # questions that have not ended


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    kind: Kind
    message_id: str
    detail: str


def check(ledger: Ledger) -> list[Violation]:
    """All violations."""
    questions = {row["id"]: row for row in ledger.messages if row["role"] == "user"}
    replies: dict[str, list[Row]] = defaultdict(list)
    for row in ledger.messages:
        if row["role"] == "assistant":
            replies[row["reply_to"]].append(row)
    finished = Counter(run["message_id"] for run in ledger.runs if run["outcome"] == "done")
    waiting = set(ledger.jobs)
    found: list[Violation] = []
    for item in ledger.expected:
        found += _check_reply(
            item, questions.get(item.message_id), replies[item.message_id], item.message_id in waiting
        )
        if finished[item.message_id] > 1 + item.retries:
            found.append(Violation("doubled", item.message_id, f"finished {finished[item.message_id]} times"))
        for path, content in item.files.items():
            written = ledger.files.get((item.session_id, path))
            if replies[item.message_id] and replies[item.message_id][0]["status"] == "done" and written != content:
                found.append(Violation("wrong", item.message_id, f"file {path} is {written!r}"))
    writes = sorted(ledger.writes, key=lambda write: write.id)
    return found + late_writes(writes) + out_of_order(writes) + two_at_once(writes)


def _check_reply(item: Expected, question: Row | None, replies: Sequence[Row], waits: bool) -> Iterable[Violation]:
    if question is None:
        yield Violation("lost", item.message_id, "the accepted question no longer exists")
        return
    if waits or question["status"] not in ENDED:
        yield Violation("lost", item.message_id, f"still {question['status']}")
        return
    if not replies:
        if not (item.cancelled and question["status"] == "cancelled"):
            yield Violation("lost", item.message_id, f"{question['status']}, but without a reply")
        return
    if len(replies) > 1:
        yield Violation("doubled", item.message_id, f"{len(replies)} replies")
    reply = replies[0]
    status, text = reply["status"], reply["content"]
    if status != question["status"]:
        yield Violation("wrong", item.message_id, f"the question is {question['status']}, the reply {status}")
    if item.mark and text.count(item.mark) > 1:
        yield Violation("doubled", item.message_id, f"{item.mark} occurs {text.count(item.mark)} times: {text!r}")
    elif status == "cancelled" and item.cancelled:
        if not item.fits(text, partly=True):
            yield Violation("wrong", item.message_id, f"the text is no part of the expected text: {text!r}")
    elif item.error is not None:
        code = (reply["error"] or {}).get("code")
        if (status, code) != ("failed", item.error):
            yield Violation("wrong", item.message_id, f"{status} ({code}), not failed ({item.error})")
    elif status != "done":
        yield Violation("lost", item.message_id, f"{status}: {reply['error']}")
    elif not item.fits(text) or (item.data is not None and reply["data"] != item.data):
        yield Violation("wrong", item.message_id, f"the reply is {text!r} {reply['data']!r}")


def late_writes(writes: Sequence[Write]) -> list[Violation]:
    """Writes of an attempt after a later one was opened, or of a worker that does not hold the question."""
    held: dict[str, tuple[int, str | None]] = {}
    handed_on: dict[str, int] = {}  # by question, the transaction in which its holder gave it to another worker
    found = []
    for write in writes:
        attempt, holder = held.get(write.message_id, (0, None))
        if write.relation == "jobs" and write.worker is not None and write.attempt > attempt:  # claimed or dispatched
            held[write.message_id] = (write.attempt, write.worker)
            if write.caller == holder and write.caller_attempt == attempt:
                handed_on[write.message_id] = write.transaction
            continue
        is_update = write.relation == "jobs" and write.operation == "update"
        if is_update and write.worker is None and write.attempt < attempt and write.caller_attempt is None:
            held[write.message_id] = (write.attempt, None)  # its worker could not be told of it
            continue
        if write.call not in ("bridge_beat", "bridge_finish", "bridge_step"):
            continue
        if write.caller_attempt is None:
            continue  # a job that a finish promoted, not one that it was called for
        if write.transaction and write.transaction == handed_on.get(write.message_id):
            continue  # the same call opens the next attempt
        if write.caller_attempt < attempt or write.caller != holder:
            found.append(
                Violation(
                    "late write", write.message_id,
                    f"{write.call} of {write.caller}, attempt {write.caller_attempt}, wrote to {write.relation} at "
                    f"{write.at:%H:%M:%S.%f}, when {holder} held attempt {attempt}",
                )
            )  # fmt: skip
    return found


@dataclass(slots=True)
class _Job:
    ordinal: int
    queued_id: int


def out_of_order(writes: Sequence[Write]) -> list[Violation]:
    """Attempts that were opened although an earlier question, queued before it, had not ended."""
    queues: dict[str, dict[str, _Job]] = defaultdict(dict)
    attempts: dict[str, int] = {}
    found = []
    for write in writes:
        if write.relation != "jobs":
            continue
        queue = queues[write.session_id]
        if write.operation == "insert":
            queue[write.message_id] = _Job(write.ordinal, write.id)
            if write.worker is None:
                attempts[write.message_id] = write.attempt
        if write.operation == "delete":
            queue.pop(write.message_id, None)
        elif write.attempt > attempts.get(write.message_id, 0):
            attempts[write.message_id] = write.attempt
            this = queue.get(write.message_id)
            for other_id, other in queue.items():
                if this and other.ordinal < this.ordinal and other.queued_id < this.queued_id:
                    found.append(
                        Violation("out of order", write.message_id, f"opened before {other_id}, which was asked first")
                    )
    return found


def two_at_once(writes: Sequence[Write]) -> list[Violation]:
    """Attempts of one session that overlap in time, by the database's clock."""
    running: dict[str, tuple[str, int, datetime]] = {}
    found = []
    for write in sorted(
        (write for write in writes if write.relation == "jobs"), key=lambda write: (write.at, write.id)
    ):
        held = running.get(write.session_id)
        if write.operation == "delete" or write.worker is None:
            if held and held[0] == write.message_id:
                del running[write.session_id]
        elif held is None or (held[0] == write.message_id and write.attempt > held[1]):
            running[write.session_id] = (write.message_id, write.attempt, write.at)
        elif held[0] != write.message_id:
            detail = f"opened at {write.at:%H:%M:%S.%f}, although {held[0]} was running since {held[2]:%H:%M:%S.%f}"
            found.append(Violation("two at once", write.message_id, detail))
            running[write.session_id] = (write.message_id, write.attempt, write.at)
    return found
