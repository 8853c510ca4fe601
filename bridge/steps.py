"""The steps of one attempt: what a handler has done is remembered, so that the next attempt does not do it again.

    attempt 1   "Hello. " ─ plan ─ "I fetch. " ─ fetch ✕         plan is remembered, with "Hello. I …" as it was shown
    attempt 2   (Hello. ) ─ plan returns ─ "I fetch. " ─ fetch ─ …

A handler runs again from its first line, and catches up: steps that are remembered return in the order in which they
ended. Meanwhile nothing else begins, and what the handler adds to the reply is held back. Then all is shown that was
not shown before. Texts may differ from attempt to attempt, and so may their number: whatever was added before the
handler came to a remembered step was shown. What it adds while steps run side by side is known by its number: each
remembered step has the numbers at which it began and ended. Parts that a task beside the handler shows have no number,
as they come at any time: they are known by their keys, or by what they are.

Nothing is kept of a step that fails with another exception than ToolFailed. The attempt ends, and the next one, which
comes after the pause of every failed attempt, tries the step again.
"""

import asyncio
import inspect
import logging
import uuid
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, Self

from bridge.errors import (
    HandlerFailed,
    MaybeDone,
    NoAnswer,
    ToolFailed,
    TurnFailure,
    Unstorable,
    UsedUp,
)
from bridge.media_types import EXTENSIONS
from bridge.model import (
    Answer,
    Attachment,
    Completion,
    Job,
    Message,
    Objects,
    Partial,
    Settled,
    Step,
    StepKind,
    StepWrite,
    Turn,
    Usage,
    Wait,
)
from bridge.sanitize import sanitize_json, truncate_utf8
from bridge.step_values import (
    SHOWN_BYTES,
    broken,
    check_call,
    json_size,
    length_of,
    message_of,
    result_hint,
    result_of,
    shown_of,
    to_json,
    without_text,
)
from bridge.stream import part_key
from bridge.unremembered import Unremembered

log = logging.getLogger(__name__)

NAME_BYTES = 200
PROMPT_BYTES = 16_384
# Of what a step gives, as JSON: as steps_value_size in supabase/schemas. More is not sent: a call that takes too long
# is repeated, with the steps of others in it.
VALUE_BYTES = 1 << 20
LONGEST_WAIT_SECONDS = 90 * 86_400.0
CHARACTERS_PER_TOKEN = 4
THREADS = 64  # in which functions of steps run that are no coroutine functions
# How long the handler may take to come to the next remembered step. If it does not, its code has changed.
PATIENCE_SECONDS = 2.0
# Turns of the event loop after which whatever follows the end of a step has begun.
TURNS = 3

# Reads what a function says to its end, hands each piece on, and gives up on one that is silent.
Read = Callable[[AsyncGenerator[Partial | Completion, None], Callable[[Partial], None]], Awaitable[Completion]]

# Not those of asyncio, few of which it has: it looks up the addresses of hosts in them, also the worker's own.
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="step")
_key: ContextVar[str | None] = ContextVar("step_key", default=None)
# How many times the handler had added to the reply when the task that asks was made, or last added to it.
_added: ContextVar[int] = ContextVar("added", default=0)


def step_key() -> str:
    """The key of the step that runs: a UUID, the same however often the step is tried. Use it as an idempotency key.

    Raises RuntimeError outside of a step.
    """
    key = _key.get()
    if key is None:
        raise RuntimeError("step_key() is called outside a step. Call it in a function that a step runs.")
    return key


class Calls(Protocol):
    """The BAML functions that a handler can call: `bridge.baml.functions.BamlFunctions`."""

    def result_of(self, function: Callable[..., Any]) -> Any:
        """The type that a BAML function returns. Raises HandlerBroken if it is none of these."""

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> AsyncGenerator[Partial | Completion, None]:
        """Call it with these arguments: partials as they come, and the completion last. Raises TurnFailure."""


class Store(Protocol):
    """Where steps are remembered."""

    async def remember(self, write: StepWrite) -> str:
        """Write a step. Returns `ok`, or the limit that refuses it. Does not return if the attempt has to stop."""

    def has_used_up(self, question_id: str) -> bool:
        """Whether its user has used up the tokens of the day."""


class Reply(Protocol):
    """The reply as it is shown."""

    async def settle(self) -> Settled:
        """Send all that there is, and return it."""

    def has_part(self, key: str) -> bool:
        """Whether a part of this key was shown."""


class Waiting(Exception):
    """The attempt ends here: somebody else has to give what it needs."""

    def __init__(self, waits: tuple[Wait, ...]) -> None:
        super().__init__()
        self.waits = waits


class Steps:
    """The steps of one attempt, and all that its handler adds to the reply.

    `news` is set whenever there is something to `take`, or somebody to wait for. `task` runs the handler.
    """

    task: asyncio.Task[Any] | None = None

    def __init__(
        self,
        job: Job,
        known: Sequence[Step],
        store: Store,
        reply: Reply,
        calls: Calls,
        read: Read,
        *,
        step_seconds: float = 120,
        ask_seconds: float = 86_400,
        on_progress: Callable[[], None] = lambda: None,
        objects: Objects | None = None,
    ) -> None:
        self.news = asyncio.Event()
        self._job, self._store, self._reply, self._calls, self._read = job, store, reply, calls, read
        self._step_seconds, self._ask_seconds, self._on_progress = step_seconds, ask_seconds, on_progress
        self._objects = objects
        self._known = {step.name: step for step in known}  # those that the handler has not come to
        self._order = [step.name for step in sorted(known, key=lambda step: step.ordinal)]  # that have not returned
        self._ordinal = max((step.ordinal for step in known), default=0)
        self._emitted = max(known, key=lambda step: step.ordinal).emitted if known else 0  # was shown before
        self._names: Counter[str] = Counter()
        self._count = 0  # how many times the handler has added to the reply in this attempt
        self._place = (0, 0)  # what has this number in this attempt had that one in the attempts before
        self._shown = 0  # how many of its numbers were shown, in this attempt or before
        self._beside = [part for part in job.kept.parts if not part_key(part)] if job.kept else []
        self._is_replaying = bool(known)
        self._held: list[_Added] = []
        self._pieces: list[str] = [job.kept.text] if job.kept else []
        self._data = job.kept.data if job.kept else None
        self._out: deque[_Added] = deque()
        self._taken = asyncio.Event()
        self._taken.set()
        self._waits: dict[str, Wait] = {}
        self._futures: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._running = 0
        self._is_saying = False
        self._moved = asyncio.Event()  # a step has ended, or was come to: each event is set once
        self._tasks: set[asyncio.Task[Any]] = set()  # in which steps run
        self._writing: list[str] = []  # those that are being remembered, in the order of their ordinals
        self._said_from = 0  # the pieces that a call streams begin here
        self._is_unsaid = False  # it failed, and what it has said is still there
        self._later: list[_Added] = []  # what is added while a call streams into the reply
        self._reported = Usage()  # by the handler
        self._failed: list[Usage] = []  # what calls cost that are not remembered
        self._asked: dict[str, Usage] = {}  # what running calls have cost so far

    @classmethod
    def unremembered(cls, turn: Turn) -> Self:
        """Steps outside of a worker, as in a test: nothing is remembered, and no BAML function can be called."""
        job = Job(turn.question_id or str(uuid.UUID(int=0)), turn.attempt, 0, cancel=False, turn=turn)
        nothing = Unremembered()
        return cls(job, (), nothing, nothing, nothing, nothing.read)

    # -- what its reader does ----------------------------------------------------------------------------

    def take(self) -> Iterator[Partial]:
        """What is new of the reply. Each has to be published before the next is taken."""
        while self._out:
            number, partial = self._out.popleft()
            yield partial
            if number is not None:
                self._shown = number + 1
        self._taken.set()

    @property
    def has_more(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._out)

    def add(self, partial: Partial) -> None:
        """The handler adds to the reply."""
        number = self._count
        self._count += 1
        _added.set(self._count)
        self.news.set()  # a sign of life, whether it is shown or not
        self._add((number, partial))

    async def give(self, attachment: Attachment) -> None:
        """The handler adds an attachment. Returns when it is stored and shown, unless it is held back."""
        self.add(Partial("", is_added=True, attachment=attachment))
        if not (self._is_replaying or self._is_saying):
            await self._taken.wait()

    def report(self, usage: Usage) -> None:
        """The handler reports what it has spent."""
        self._reported = usage
        self.news.set()

    @property
    def cost(self) -> Usage:
        """What the attempt has cost that no remembered step has been charged with."""
        return _sum([self._reported, *self._failed, *self._asked.values()])

    @property
    def is_running(self) -> bool:
        """Whether a step is running: the handler is not stalled."""
        return self._running > 0

    @property
    def is_waiting(self) -> bool:
        """Whether nothing goes on but what somebody else has to give."""
        return bool(self._waits) and self._running == 0

    def waiting(self) -> Waiting:
        """The end of an attempt that waits, when there is nothing more to take."""
        waits = []
        for wait in self._waits.values():
            self._ordinal += 1
            before = self._number(wait.emitted_before)
            waits.append(replace(wait, ordinal=self._ordinal, emitted_before=before, emitted=self._number(self._shown)))
        return Waiting(tuple(waits))

    def end(self) -> tuple[str, Any]:
        """The handler has ended: the text and the data of its reply."""
        self._go_on()
        self._end_saying()
        self._take_back()
        return "".join(self._pieces), self._data

    @property
    def is_closed(self) -> bool:
        """Whether the attempt has ended."""
        return self._is_closed

    def close(self) -> None:
        """End whatever still waits. From now on, no step begins."""
        self._is_closed = True
        self._move()
        for future in self._futures:
            future.cancel()

    async def end_tasks(self) -> None:
        """End the steps that the handler has left running beside it."""
        tasks = self._tasks - {self.task}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- what the handler calls --------------------------------------------------------------------------

    async def step(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], *, seconds: float | None, once: bool
    ) -> Any:
        """See `bridge.model.Turn.step`."""
        name, hint = self._name(name), result_hint(function)
        known, before = await self._come_to(name)
        if known is not None and known.is_done:
            return result_of(known, hint)
        if known is not None:
            raise MaybeDone(f"The step {name} began in an earlier attempt, and may have run.")
        await self._begin()
        with self._run():
            if once:
                await self._remember(name, "begun", None, before)
            value = await self._try(name, function, args, {}, seconds)
            return await self._end(name, value, hint, before)

    async def tool(self, name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """See `bridge.model.Turn.tool`."""
        tool, name, hint = name, self._name(name), result_hint(function)
        known, before = await self._come_to(name)
        if known is not None:
            return result_of(known, hint)
        part = {"type": "dynamic-tool", "toolName": tool, "toolCallId": name}
        await self._begin()
        with self._run():
            part["input"] = shown_of(to_json(f"the input of the tool {name}", given))
            self._publish(_part({**part, "state": "input-available"}))
            value = await self._try(name, function, (), given, None)
            if isinstance(value, ToolFailed):
                ended = {"state": "output-error", "errorText": truncate_utf8(str(value), SHOWN_BYTES)}
            else:
                value = to_json(f"the result of the step {name}", value)
                ended = {"state": "output-available", "output": shown_of(value)}
            self._publish(_part({**part, **ended}))
            return await self._end(name, value, hint, before)

    async def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any], *, is_said: bool
    ) -> Any:
        """See `bridge.model.Turn.call` and `bridge.model.Turn.say`."""
        hint = self._calls.result_of(function)
        name = self._name(function.__name__)
        known, before = await self._come_to(name)
        if known is not None:
            return result_of(known, hint)
        if self._store.has_used_up(self._job.question_id):
            raise UsedUp("tokens_used_up", "The daily limit of tokens is reached. Try again tomorrow.")
        await self._begin(says=is_said)
        with self._run(says=is_said):
            completion, usage = await self._converse(name, function, args, named, is_said=is_said)
            value = completion.data
            if value is None and (completion.text or hint is str):
                value = completion.text
            return await self._end(name, value, hint, before, usage)

    async def ask(
        self, name: str, prompt: str | Mapping[str, Any], choices: Sequence[str] | None, within: float | None
    ) -> Answer:
        """See `bridge.model.Turn.ask`."""
        name = self._name(name)
        if isinstance(choices, str):
            raise broken(f"the choices of the question {name} are one text: pass a list of texts")
        asked = {"title": prompt} if isinstance(prompt, str) else dict(prompt)
        asked = to_json(f"the question {name}", asked | ({"choices": list(choices)} if choices else {}))
        if json_size(asked) > PROMPT_BYTES:
            raise broken(f"the question {name} is longer than {PROMPT_BYTES:,} bytes")
        part = {"type": "dynamic-tool", "toolName": "ask", "toolCallId": name, "input": asked}
        known, before = await self._come_to(name)
        if known is None:
            await self._begin()
            self._publish(_part({**part, "state": "approval-requested", "approval": {"id": name}}))
        elif known.is_done and known.kind != "failed":
            answer = Answer(known.value if isinstance(known.value, dict) else {})
            approval = {"id": name, "approved": answer.approved}
            self._update({**part, "state": "output-available", "output": answer, "approval": approval})
            return answer
        elif known.is_done or known.is_due:
            self._update({**part, "state": "output-error", "errorText": "No answer in time."})
            await self._give_up(known, before)
        return Answer(await self._wait(name, "ask", None, before, self._ask_seconds if within is None else within))

    async def sleep(self, name: str, seconds: float) -> None:
        """See `bridge.model.Turn.sleep`."""
        name = self._name(name)
        known, before = await self._come_to(name)
        if known is not None and (known.is_done or known.is_due):
            if not known.is_done:
                await self._begin()
                with self._run():
                    await self._remember(name, "sleep", None, before)
            return
        await self._wait(name, "sleep", None, before, seconds)

    async def run(self, function: str, message: str, data: Mapping[str, Any] | None, within: float) -> Message:
        """See `bridge.model.Turn.run`."""
        name = self._name(function)
        known, before = await self._come_to(name)
        if known is not None and known.is_done and known.kind != "failed":
            return message_of(name, known.value)
        if known is not None and (known.is_done or known.is_due):
            await self._give_up(known, before)
        key = uuid.UUID(self._key_of(name))
        ids = {"session_id": str(uuid.uuid5(key, "session")), "question_id": str(uuid.uuid5(key, "question"))}
        asked = {"function": function, "message": message, "data": data and to_json(f"the data for {name}", data)}
        return message_of(name, await self._wait(name, "run", ids | asked, before, within))

    def show(self, part: Mapping[str, Any]) -> None:
        """See `bridge.model.Turn.show`."""
        shown = to_json("the part for turn.show", part)
        if not isinstance(shown, dict) or not isinstance(shown.get("type"), str):
            raise broken("turn.show got a part that is not an object with a `type`")
        if shown["type"] == "text":
            raise broken("turn.show got a text part: yield the text instead")
        if _key.get() is None and asyncio.current_task() is self.task:
            self.add(_part(shown))
        elif self.task is not None and _is_in_thread():
            self.task.get_loop().call_soon_threadsafe(self._add, (None, _part(shown)))
        else:
            self._add((None, _part(shown)))

    async def read(self, attachment: Attachment) -> bytes:
        """See `bridge.model.Turn.read`."""
        self._end_if_closed()
        if self._objects is None:
            raise broken(f"the handler reads {attachment.name!r}, which needs a worker")
        if _key.get() is not None:  # in a step, which is running
            return await self._objects.read(attachment)
        with self._run():
            return await self._objects.read(attachment)

    # -- where the handler is ----------------------------------------------------------------------------

    def _name(self, name: str) -> str:
        self._end_if_closed()
        if _key.get() is not None:
            raise broken(f"the step {name!r} is inside another step: call it in the handler, after that one")
        if not isinstance(name, str) or not 1 <= len(name.encode("utf-8", "replace")) <= NAME_BYTES - 10:
            raise broken(f"the name of a step must be a str of 1 to {NAME_BYTES - 10} bytes, not {name!r:.100}")
        if sanitize_json(name) != name:
            raise broken(
                f"the name of the step {name!r} has a character that cannot be stored: NUL, or half a surrogate pair"
            )
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name}#{count}"

    def _key_of(self, name: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self._job.question_id), f"{self._job.since}/{name}"))

    async def _come_to(self, name: str) -> tuple[Step | None, int]:
        """The handler comes to a step: what is remembered of it, and the number of what was added before it.

        Returns after the remembered steps that ended before it have returned: what follows them comes first.
        """
        before = _added.get()
        step = self._known.pop(name, None)
        if step is not None and name in self._order:
            self._place = max(self._place, (before, step.emitted_before))
            self._move()
            try:
                await self._catch_up(name)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            finally:
                self._order.remove(name)
                self._move()
            if not self._order:
                self._go_on()
        elif step is not None:  # its code has changed, and something new came first: what was shown stays shown
            self._shown = max(self._shown, self._emitted - step.emitted_before + before)
        return step, before

    async def _catch_up(self, name: str | None = None) -> None:
        """Wait until all remembered steps have returned that ended before this one, or all there are."""
        while self._order and self._order[0] != name:
            first = self._order[0]
            try:
                async with asyncio.timeout(PATIENCE_SECONDS if first in self._known else None):
                    await self._moved.wait()
            except TimeoutError:
                if self._order[:1] == [first] and first in self._known:  # the handler does not come to it any more
                    self._order.remove(first)
                    self._move()
            self._end_if_closed()

    async def _begin(self, *, says: bool = False) -> None:
        """Come to what is not remembered."""
        await self._catch_up()
        self._go_on()
        # What a call streams is one piece of the reply, which a takeover keeps or drops: no step ends in between.
        while (self._is_saying or (says and self._running)) and not self._is_closed:
            await self._moved.wait()
        self._end_if_closed()
        self._take_back()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _end_if_closed(self) -> None:
        if self._is_closed:  # the handler has caught its cancellation, or left this task behind
            raise asyncio.CancelledError

    @contextmanager
    def _run(self, *, says: bool = False) -> Iterator[None]:
        """A step runs within the block."""
        self._running += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if says:
            self._is_saying, self._said_from = True, len(self._pieces)
        try:
            yield
        except BaseException:
            self._is_unsaid |= says
            raise
        finally:
            self._running -= 1
            self._tasks.discard(task)
            if says:
                self._end_saying()
            self.news.set()
            self._move()

    def _take_back(self) -> None:
        """Take back what a call has said that failed, if the handler goes on: the next attempt says it again."""
        if self._is_unsaid:
            self._is_unsaid = False
            self._publish(Partial(""))

    def _end_saying(self) -> None:
        self._is_saying = False
        later, self._later = self._later, []
        for added in later:
            self._add(added)

    def _go_on(self) -> None:
        """What the handler adds from here on is shown, and what it has added that was not shown before."""
        if self._is_replaying:
            self._is_replaying = False
            here, there = self._place
            self._shown = max(here, self._emitted - there + here)
            held, self._held = self._held, []
            for added in held:
                self._add(added)

    def _number(self, number: int) -> int:
        """The number in the attempts before of what has this one."""
        here, there = self._place
        return number - here + there if number >= here else min(number, there)

    # -- the reply ---------------------------------------------------------------------------------------

    def _add(self, added: "_Added") -> None:
        """Show what the handler has added, now or when its place is known, unless it was shown before."""
        number, partial = added
        if self._is_replaying:
            self._held.append(added)
        elif self._is_saying:
            self._later.append(added)
        elif number is None and partial.part in self._beside:
            self._beside.remove(partial.part)
        elif number is None or number >= self._shown:
            self._publish(partial, number)

    def _publish(self, partial: Partial, number: int | None = None) -> None:
        self._take_back()
        if not partial.is_added:  # of a call that streams: what it has said so far is replaced
            self._pieces[self._said_from :] = [partial.text]
            partial = replace(partial, text="".join(self._pieces))
        elif partial.text:
            self._pieces.append(partial.text)
        if partial.attachment is not None:
            partial = self._with_file(partial, partial.attachment, self._number(number or 0))
        if partial.data is not None:
            self._data = partial.data
        self._out.append((number, partial))
        self._taken.clear()
        self.news.set()

    def _with_file(self, partial: Partial, attachment: Attachment, number: int) -> Partial:
        """Give an attachment its path, and the part that shows it: the same in every attempt."""
        key = self._key_of(f"attachment {number}")
        if attachment.data is not None and self._job.turn is not None:
            path = f"{self._job.turn.session.id}/{key}.{EXTENSIONS[attachment.type]}"
            attachment = replace(attachment, path=path)
        part = {"type": "file", "id": key, "mediaType": attachment.type, "filename": attachment.name}
        return replace(partial, attachment=attachment, part={**part, "url": f"attachments/{attachment.path}"})

    def _update(self, part: dict[str, Any]) -> None:
        """Show the new state of a part that an earlier attempt has shown."""
        if not self._is_replaying or self._reply.has_part(part["toolCallId"]):
            self._publish(_part(part))

    # -- how a step ends ---------------------------------------------------------------------------------

    async def _try(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        seconds: float | None,
    ) -> Any:
        """Run the function of a step. Returns what it gave, or the ToolFailed that it raised."""
        token = _key.set(self._key_of(name))
        seconds = self._step_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                if inspect.iscoroutinefunction(function):
                    return await function(*args, **named)
                run = partial(copy_context().run, function, *args, **named)
                value = await asyncio.get_running_loop().run_in_executor(_threads, run)
                return await value if inspect.isawaitable(value) else value
        except ToolFailed as failed:
            return failed
        except TypeError:
            check_call(name, function, args, named)
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            detail = f"the step {name} took longer than {seconds:g} s: give it more time with `seconds`, or split it"
            raise HandlerFailed("internal", "Something went wrong while answering.", detail=detail) from None
        finally:
            _key.reset(token)

    async def _converse(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        named: Mapping[str, Any],
        *,
        is_said: bool,
    ) -> tuple[Completion, Usage]:
        """Call a BAML function, and return what it gave and cost."""
        read = (length_of(args) + length_of(named)) // CHARACTERS_PER_TOKEN + 1
        said = thought = 0  # characters

        def price(usage: Usage) -> Usage:
            output = usage.output_tokens or -(-(said + thought) // CHARACTERS_PER_TOKEN)
            return replace(usage, input_tokens=usage.input_tokens or read, output_tokens=output)

        def on_piece(piece: Partial) -> None:
            nonlocal said, thought
            said = said + len(piece.text) if piece.is_added else len(piece.text)
            thought = piece.thought
            self._asked[name] = price(piece.usage)
            if is_said and (piece.text or piece.data is not None or piece.reasoning):
                self._publish(Partial(piece.text, piece.data, is_added=piece.is_added, reasoning=piece.reasoning))
            self.news.set()

        try:
            completion: Completion = await self._read(self._calls.call(function, args, named), on_piece)
        except TurnFailure as failure:
            if failure.was_asked:
                self._failed.append(price(failure.usage or Usage()))
            self._asked.pop(name, None)
            raise
        said, thought = len(completion.text) or length_of(completion.data), completion.thought
        if is_said:
            self._publish(Partial(completion.text, without_text(completion.data)))
        usage = self._asked[name] = price(completion.usage)
        return completion, usage

    async def _end(self, name: str, value: Any, hint: Any, before: int, usage: Usage | None = None) -> Any:
        """Remember what a step gave, and return it as the next attempt would get it."""
        kind: StepKind = "failed" if isinstance(value, ToolFailed) else "done"
        stored = sanitize_json(str(value)) if kind == "failed" else to_json(f"the result of the step {name}", value)
        if (isinstance(stored, str) and len(stored) > VALUE_BYTES) or json_size(stored) > VALUE_BYTES:
            raise Unstorable(*_REFUSED["step_too_large"], detail=f"the step {name}: more than {VALUE_BYTES:,} bytes")
        ended = Step(name, 0, kind, stored, True, False, before, before)
        result: Any = None
        failed: Exception | None = None
        try:
            result = result_of(ended, hint)
        except ToolFailed as error:
            failed = error
        await self._remember(name, kind, ended.value, before, usage)
        if failed is not None:
            raise failed
        return result

    async def _remember(self, name: str, kind: StepKind, value: Any, before: int, usage: Usage | None = None) -> None:
        await self._taken.wait()
        settled = await self._reply.settle()
        self._ordinal += 1
        job, before, emitted = self._job, self._number(before), self._number(self._shown)
        write = StepWrite(
            job.question_id, job.attempt, name, self._ordinal, kind, value, before, emitted, settled, usage
        )
        self._writing.append(name)
        try:
            state = await self._store.remember(write)
            while self._writing[0] != name:  # steps return in the order of their ordinals, as when they are remembered
                await self._moved.wait()
        finally:
            self._writing.remove(name)
            self._move()
        if state != "ok":
            raise Unstorable(
                *_REFUSED.get(state, _REFUSED["refused"]), detail=f"the step {name}: {_LIMITS.get(state, state)}"
            )
        self._asked.pop(name, None)
        self._on_progress()

    async def _give_up(self, step: Step, before: int) -> None:
        if not step.is_done:
            await self._begin()
            with self._run():
                await self._remember(step.name, "failed", "no answer", before)
        raise NoAnswer(f"There was no answer to {step.name} in time.")

    async def _wait(self, name: str, kind: StepKind, value: Any, before: int, seconds: float) -> Any:
        """Wait for what somebody else gives: the attempt ends when no step is running."""
        if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
            raise broken(f"{name} waits {seconds:g} s, but may wait 0 to {LONGEST_WAIT_SECONDS:,.0f} s (90 days)")
        await self._begin()
        self._waits[name] = Wait(name, 0, kind, value, before, before, seconds * 1000)
        future = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        self.news.set()
        try:
            return await future
        finally:
            del self._waits[name]  # the handler does not wait for it any more


_Added = tuple[int | None, Partial]  # with its number; None: of a task beside the handler, or of a step


_REFUSED = {
    "too_many_steps": ("too_many_steps", "The reply took too many steps."),
    "step_too_large": ("step_too_large", "A step of the reply produced too much data."),
    "refused": ("unstorable", "The reply could not be stored."),
}


_LIMITS = {
    "too_many_steps": "the limit `steps_per_message` is reached",
    "step_too_large": "the limit `step_bytes` or `steps_bytes` is exceeded: store the data elsewhere, and give its id",
}


def _part(part: Mapping[str, Any]) -> Partial:
    return Partial("", is_added=True, part=part)


def _is_in_thread() -> bool:
    """Whether a function of a step calls that is no coroutine function."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _sum(usages: Sequence[Usage]) -> Usage:
    def total(values: list[int | None]) -> int | None:
        reported = [value for value in values if value is not None]
        return sum(reported) if reported else None

    return Usage(
        next((usage.model for usage in reversed(usages) if usage.model), None),
        total([usage.input_tokens for usage in usages]),
        total([usage.output_tokens for usage in usages]),
        total([usage.cached_tokens for usage in usages]),
    )
