"""A question that a handler answers in several attempts: the real steps, reply and stream, and a database in memory.

Whatever happens there can be the last thing that happens in an attempt: its worker is killed, or freezes, so that
another one takes over while it goes on. `seed` decides how long everything takes, differently in each attempt.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from bridge.errors import TurnFailure
from bridge.handlers import Handler, run_handler
from bridge.model import (
    Attachment,
    Completion,
    Job,
    Kept,
    Partial,
    Session,
    Share,
    Step,
    StepKind,
    StepWrite,
    Turn,
    Usage,
    Wait,
)
from bridge.realtime.publisher import DeltaPublisher, OutgoingReply
from bridge.steps import Steps, Waiting, step_key
from bridge.stream import Stream

QUESTION = "5f4ff3c2-7a5e-4c53-9d0b-5b1b8a3c9a01"
Part = Mapping[str, Any]
# (after so much of an attempt, how its worker ends)
End = tuple[int, Literal["kill", "freeze"]]


@dataclass
class Remembered:
    """A row of `bridge.steps`."""

    name: str
    ordinal: int
    kind: StepKind
    value: Any
    is_done: bool
    chars: int
    parts: int
    emitted_before: int
    emitted: int
    due_at: float | None = None


@dataclass
class Row:
    """The reply, as it is stored."""

    attempt: int = 0
    seq: int = 0
    text: str = ""
    data: Any = None
    parts: tuple[Part, ...] = ()


@dataclass
class Database:
    """What Postgres does: every write is fenced, and a step carries the reply as it was."""

    row: Row = field(default_factory=Row)
    steps: dict[str, Remembered] = field(default_factory=dict)
    now: float = 0.0
    kept: list[tuple[str, int, int]] = field(default_factory=list)  # text, characters, parts of each write of a step
    given: dict[str, Any] = field(default_factory=dict)  # the values that were remembered

    def open(self, attempt: int) -> Kept | None:
        row, self.row = self.row, Row(attempt)
        if not self.steps:
            return None
        last = max(self.steps.values(), key=lambda step: step.ordinal)
        assert len(row.text) >= last.chars, "the row has less than a finished step has shown"
        assert len(row.parts) >= last.parts
        self.row = Row(attempt, 1, row.text[: last.chars], row.data, row.parts[: last.parts])
        assert self.row.text.startswith(self.kept[-1][0])
        return Kept(1, self.row.text, self.row.data, self.row.parts)

    def read(self) -> list[Step]:
        return [
            Step(
                *(s.name, s.ordinal, s.kind, s.value, s.is_done),
                *(s.due_at is not None and s.due_at <= self.now, s.emitted_before, s.emitted),
            )
            for s in self.steps.values()
        ]

    def checkpoint(self, attempt: int, seq: int, text: str, data: Any, parts: tuple[Part, ...] | None) -> None:
        if attempt == self.row.attempt and seq > self.row.seq:
            assert not self.kept or text.startswith(self.kept[-1][0]), "what a finished step has shown was taken back"
            self.row.seq, self.row.text = seq, text
            self.row.data = self.row.data if data is None else data
            self.row.parts = self.row.parts if parts is None else parts

    def remember(self, write: StepWrite) -> bool:
        if write.attempt != self.row.attempt:
            return False
        settled, known = write.settled, self.steps.get(write.name)
        if known is not None and known.is_done:
            return True  # sent again
        if settled.seq is not None:
            self.checkpoint(write.attempt, settled.seq, settled.text, settled.data, settled.parts)
        step = Remembered(
            *(write.name, write.ordinal, write.kind, write.value, write.kind != "begun"),
            *(settled.chars, settled.part_count, write.emitted_before, write.emitted),
        )
        if known is not None:
            step.emitted_before, step.due_at = known.emitted_before, known.due_at
        self.steps[write.name] = step
        if step.is_done:
            assert self.given.setdefault(write.name, write.value) == write.value
        self._keep(settled.chars, settled.part_count)
        return True

    def _keep(self, chars: int, parts: int) -> None:
        assert len(self.row.text) >= chars
        assert len(self.row.parts) >= parts
        text = self.row.text[:chars]
        if self.kept and self.kept[-1][1] > chars:  # it comes after one that ended later
            assert self.kept[-1][0].startswith(text)
        else:
            assert not self.kept or text.startswith(self.kept[-1][0]), "what a finished step has shown was taken back"
            self.kept.append((text, chars, parts))

    def wait(self, attempt: int, waits: Sequence[Wait], text: str, data: Any, parts: tuple[Part, ...]) -> bool:
        if attempt != self.row.attempt:
            return False
        self.row.text, self.row.data, self.row.parts = text, data, parts
        for wait in waits:
            known = self.steps.get(wait.name)
            if known is None:
                self.steps[wait.name] = Remembered(
                    *(wait.name, wait.ordinal, wait.kind, wait.value, False, len(text), len(parts)),
                    *(wait.emitted_before, wait.emitted, self.now + wait.within_ms / 1000),
                )
            else:
                known.ordinal, known.chars, known.parts = wait.ordinal, len(text), len(parts)
                known.emitted = wait.emitted
        self._keep(len(text), len(parts))
        return True

    @property
    def waiting(self) -> list[Remembered]:
        return [s for s in self.steps.values() if not s.is_done and s.kind != "begun"]


class Attempts:
    """Everything about one question. `ends` are those of the first attempts; an attempt without one goes on."""

    def __init__(self, handler: Callable[[Attempts], Handler], seed: int, ends: Sequence[End], answers: Any) -> None:
        self.handler = handler(self)
        self.seed, self.ends, self.answers = seed, list(ends), answers
        self.database = Database()
        self.attempt = 0
        self.effects: dict[str, list[tuple[int, str]]] = defaultdict(list)  # attempt and key of each run
        self.seen: dict[str, list[Any]] = defaultdict(list)  # what steps gave to the handler
        self.tries: Counter[str] = Counter()
        self.objects: dict[str, bytes] = {}  # what was stored, by the URL of its part
        self.ended = asyncio.Event()
        self.how = ""
        self._left = 0

    def chance(self, most: int, *about: Any) -> int:
        """A number from 0 to `most`, which differs between attempts if `about` does."""
        return zlib.crc32(repr((self.seed, *about)).encode()) % (most + 1)

    async def pause(self, *about: Any) -> None:
        """Take a moment: no time at all, some turns of the event loop, or a part of a second."""
        self.happen()
        match self.chance(5, "pause", self.attempt, *about):
            case 0 | 1 | 2:
                pass
            case 3 | 4:
                for _ in range(1 + self.chance(6, "turns", self.attempt, *about)):
                    await asyncio.sleep(0)
            case 5:
                await asyncio.sleep(0.01 * (1 + self.chance(9, "time", self.attempt, *about)))
        self.happen()

    def happen(self) -> None:
        """Something happens, perhaps as the last thing in this attempt."""
        self._left -= 1
        if self._left == 0:
            self.ended.set()

    # -- what the parts of a worker need --------------------------------------------------------------------

    async def effect(self, name: str, *, once: bool = False) -> None:
        """What a step does outside: noted with its attempt and key."""
        turn_attempt = _attempt.get()
        runs = self.effects[name]
        known = self.database.steps.get(name)
        assert known is None or not known.is_done or turn_attempt < self.attempt, f"{name} is remembered"
        assert all(attempt != turn_attempt for attempt, _ in runs), f"{name} ran twice in an attempt"
        assert not (once and runs), f"{name} may run once only"
        assert all(key == step_key() for _, key in runs)
        runs.append((turn_attempt, step_key()))
        await self.pause("effect", name)

    def note(self, name: str, value: Any) -> None:
        """What a step gave is always the same."""
        assert all(value == earlier for earlier in self.seen[name]), (name, value, self.seen[name])
        self.seen[name].append(value)

    async def answer_all(self) -> Row:
        """Run attempts until the reply is done."""
        for self.attempt in range(1, 60):
            if await self._attempt():
                return self.database.row
            self._pass_time()
        raise AssertionError("it never ends")

    def _pass_time(self) -> None:
        """Answer one of the questions, or let the time pass until something is due."""
        while waiting := self.database.waiting:
            if any(step.due_at is not None and step.due_at <= self.database.now for step in waiting):
                return
            open_ = [step for step in waiting if step.kind == "ask" and self.answers[step.name] is not None]
            if open_:
                self._answer(open_[self.chance(len(open_) - 1, "answer", self.attempt, len(open_))])
            else:
                self.database.now = min(step.due_at for step in waiting if step.due_at is not None)

    def _answer(self, step: Remembered) -> None:
        step.is_done, step.value = True, self.answers[step.name]
        self.database.given[step.name] = step.value

    async def _attempt(self) -> bool:
        """One attempt; whether the reply is done."""
        self._left, how = self.ends.pop(0) if self.ends else (-1, "")
        self.ended.clear()
        token = _attempt.set(self.attempt)
        running = asyncio.create_task(self._run(self.attempt))
        _attempt.reset(token)
        watching = asyncio.create_task(self.ended.wait())
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        self._left = -1
        if running.done():
            return running.result()
        if how == "kill":
            me = asyncio.current_task()
            while tasks := asyncio.all_tasks() - {me}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        return False

    async def _run(self, attempt: int) -> bool:
        kept = self.database.open(attempt)
        known = self.database.read()
        turn = Turn("Walk", "", (), (), Session("", "", None, "Walk", {}), "", question_id=QUESTION, attempt=attempt)
        job = Job(QUESTION, attempt, 0, False, turn=turn, steps=len(known), kept=kept)
        stream = Stream(QUESTION, "reply", "session", attempt)
        if kept is not None:
            stream.resume(kept)
        worker = _Worker(self, attempt, stream, kept)
        turn = replace(turn, objects=worker)
        reply = OutgoingReply(cast(DeltaPublisher, worker), stream)
        steps = Steps(job, known, worker, reply, worker, worker.read_pieces, ask_seconds=1000, objects=worker)
        try:
            async for piece in run_handler(self.handler, turn, steps):
                self.happen()
                if isinstance(piece, Completion):
                    reply.publish(Partial(piece.text))
                    await reply.flush()
                    if attempt != self.database.row.attempt:
                        return False
                    self.database.row = Row(attempt, stream.seq, piece.text, piece.data, stream.end())
                    return True
                reply.publish(piece)
                worker.beat()
        except Waiting as waiting:
            await reply.flush()
            self.happen()
            newest = stream.newest
            self.database.wait(attempt, waiting.waits, newest.text, newest.data, stream.parts)
            self.happen()
        except TurnFailure as failure:
            cause = failure.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            if not isinstance(cause, ConnectionError):
                raise
        return False


_attempt: ContextVar[int] = ContextVar("attempt")  # of the task that asks


class _Worker:
    """What a worker has beside the handler: a publisher, a memory, and BAML functions."""

    def __init__(self, attempts: Attempts, attempt: int, stream: Stream, kept: Kept | None) -> None:
        self.attempts, self.attempt, self.stream = attempts, attempt, stream
        self.kept_parts = kept.parts if kept is not None else ()
        self.task = asyncio.current_task()
        self.count = 0

    def _chance(self, most: int, *about: Any) -> int:
        self.count += 1
        return self.attempts.chance(most, self.attempt, self.count, *about)

    # the publisher

    def enqueue(self, reply: OutgoingReply) -> None:
        """The pump: it sends some of what is new."""
        for _ in range(self._chance(2, "pump")):
            self._cut()

    def connection(self, reply: OutgoingReply) -> Any:
        return self if self._chance(9, "joined") else None

    def is_joining(self, reply: OutgoingReply) -> bool:
        return False

    async def send(self, connection: Any, reply: OutgoingReply) -> bool:
        is_sent = self._cut()
        if is_sent and self._chance(4, "sends") == 0:
            await asyncio.sleep(0)
        return is_sent

    def _cut(self) -> bool:
        """Cut a delta; False if its socket does not take it."""
        if self.stream.next_delta() is not None and self._chance(9, "sent") == 0:
            self.stream.undo_delta()
            return False
        return True

    def beat(self) -> None:
        """A checkpoint, now and then; it may not arrive."""
        if self._chance(3, "beat") == 0:
            checkpoint = self.stream.checkpoint(undelivered=self._chance(2, "undelivered") == 0)
            if checkpoint.seq is not None and self._chance(4, "arrives"):
                self.attempts.database.checkpoint(
                    self.attempt, checkpoint.seq, checkpoint.text, checkpoint.data, checkpoint.parts
                )
                self.stream.on_stored(checkpoint.seq, checkpoint.parts)
            elif checkpoint.seq is not None:
                self.stream.forget_checkpoint()

    # the memory

    async def remember(self, write: StepWrite) -> str:
        await self.attempts.pause("write", write.name, write.kind)
        if not self.attempts.database.remember(write):
            if self.task is not None and not self.task.cancelling():
                self.task.cancel()
            await asyncio.get_running_loop().create_future()
        await self.attempts.pause("written", write.name, write.kind)
        if write.settled.seq is not None:
            self.stream.on_stored(write.settled.seq, write.settled.parts)
        return "ok"

    def has_used_up(self, question_id: str) -> bool:
        return False

    # Storage

    async def store(self, path: str, attachment: Attachment) -> None:
        assert attachment.data is not None
        assert all(part.get("filename") != attachment.name for part in self.kept_parts), "it was stored before"
        await self.attempts.pause("store", path)
        self.attempts.objects[f"attachments/{path}"] = attachment.data
        await self.attempts.pause("stored", path)

    async def read(self, attachment: Attachment) -> bytes:
        raise AssertionError

    def share(self, attachments: Sequence[Attachment]) -> Share:
        raise AssertionError

    # BAML functions

    def result_of(self, function: Callable[..., Any]) -> Any:
        return str

    async def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> AsyncGenerator[Partial | Completion, None]:
        """Says `args[0]` in pieces, some of which it revises."""
        name, (text,) = function.__name__, args
        for n in range(self._chance(4, "pieces")):
            await self.attempts.pause("piece", name, n)
            end = self._chance(len(text), "piece")
            yield Partial(text[:end] + "~" * (self._chance(2, "revised") == 0))
        await self.attempts.pause("said", name)
        yield Completion(text, usage=Usage())

    async def read_pieces(
        self, pieces: AsyncGenerator[Partial | Completion, None], on_piece: Callable[[Partial], None]
    ) -> Completion:
        async for piece in pieces:
            if isinstance(piece, Completion):
                return piece
            on_piece(piece)
        raise AssertionError
