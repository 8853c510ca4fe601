"""One attempt from its start to its result. It calls the function once, and decides nothing about the queue."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bridge.baml.functions import BamlFunctions
from bridge.errors import HandlerFailed, ModelUnavailable, TurnFailure, UsedUp, verdict
from bridge.functions import Functions
from bridge.jobs import RunningJob
from bridge.model import Completion, Objects, Partial, Result, Step, Turn, Usage
from bridge.sanitize import MAX_TEXT_BYTES, is_too_large
from bridge.settings import Settings
from bridge.steps import Steps, Store, Waiting

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0  # a provider that asks for a longer pause is asked again after this one
CHARACTERS_PER_TOKEN = 4
TITLE = "Title"  # the function that names sessions


class Memory(Store, Protocol):
    """Where steps are remembered, and read: `bridge.step_writes.StepWrites`."""

    async def read(self, running: RunningJob) -> Sequence[Step]:
        """What earlier attempts have done. Does not return if the job has to stop."""

    def forget(self, question_id: str) -> None:
        """An attempt has ended."""


async def run_attempt(
    running: RunningJob,
    functions: Functions,
    settings: Settings,
    on_life: Callable[[], None] = lambda: None,
    memory: Memory | None = None,
    objects: Objects | None = None,
) -> Result:
    """Answer the question, publish the reply as it grows, and return the result, whatever happens.

    When the job is stopped, the provider's connection is closed and the text so far is kept.
    Only when the process leaves without a drain is CancelledError raised: the lease will run out. `on_life` is called
    when the model has written its first word or thought. `memory` is where the steps of a handler are remembered, and
    `objects` has the bytes of attachments.
    """
    try:
        if running.job.cancel:  # taken over after its user stopped it: the row keeps the text of the last checkpoint
            return running.result("cancelled")
        if not running.start():
            return await _stopped(running)
        return await _answer(running, functions, settings, on_life, memory, objects)
    except Waiting as waiting:
        return await _wait(running, waiting)
    except asyncio.CancelledError:
        if running.stop_reason is not None:
            return await _stopped(running)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        cause = HandlerFailed("internal", "Something went wrong while answering.", detail="it cancelled itself")
        return failed(running, cause, settings)
    except Exception as error:
        return failed(running, error, settings)


def failed(running: RunningJob, error: Exception, settings: Settings) -> Result:
    """The result of an attempt that ended in `error`: retried later, handed over, or a dead letter."""
    job, decision = running.job, verdict(error, running.job.failures, settings.max_failures)
    pause = min(FIRST_RETRY_SECONDS * 2**job.failures, LONGEST_RETRY_SECONDS) * random.uniform(0.5, 1)
    if isinstance(decision.after, int | float) and decision.after > 0:
        pause = max(pause, min(decision.after, LONGEST_WAIT_SECONDS))
    retry_ms = int(pause * 1000) if decision.retry else None
    hand_over_ms = int(pause * 1000) if decision.hand_over else None
    detail, usage, is_of_model = repr(error), running.usage, False
    if isinstance(error, TurnFailure):
        detail, usage = str(error.detail or error), error.usage or usage
        # of one that the user has chosen, it says nothing of the function's own
        is_of_model = error.is_of_model and (job.turn is None or job.turn.model is None)
        running.prompt_characters *= error.was_asked
    extra = running.log_fields | {"retry_ms": retry_ms, "detail": detail}
    if settings.log_provider_errors == "true" and isinstance(error, TurnFailure):
        extra["said"] = error.said
    cause = None if isinstance(error, TurnFailure) else error
    log.warning("attempt failed: %s", decision.code, extra=extra, exc_info=cause)
    shown = {"code": decision.code, "message": decision.message}
    for_operators = {"code": decision.code, "detail": detail[:2000]}
    next_attempt = {"retry_ms": retry_ms, "hand_over_ms": hand_over_ms, "is_of_model": is_of_model}
    return running.result("failed", price(running, usage), for_operators, error=shown, **next_attempt)


async def _answer(
    running: RunningJob,
    functions: Functions,
    settings: Settings,
    on_life: Callable[[], None],
    memory: Memory | None,
    objects: Objects | None,
) -> Result:
    job, reply = running.job, running.reply
    if job.turn is None:
        raise TurnFailure("unreadable", "The conversation could not be read.", detail=job.broken or "no payload")
    if job.is_used_up:
        raise UsedUp("tokens_used_up", "The daily limit of tokens is reached. Try again tomorrow.")
    if job.failures >= settings.max_failures:
        # it was taken over so often that answering it seems to kill its worker
        raise TurnFailure("gave_up", "The message could not be answered.", detail="its workers vanished")
    turn = replace(job.turn, objects=objects)
    completion = await _run_function(running, turn, functions, settings, on_life, memory)
    running.thought = completion.thought
    reply.publish(Partial(completion.text))  # the data comes with the row's event, all at once
    await reply.flush()
    data, note = _mark_truncated(completion)
    written = {"text": completion.text, "data": data, "parts": reply.stream.end(), "seq": reply.stream.seq}
    is_empty = not completion.text and data is None and not written["parts"]
    written["wants_title"] = TITLE in functions.names and not job.turn.session.title and not is_empty
    usage = price(running, completion.usage)
    return running.result("done", usage, note, files=completion.files, revisions=job.revisions, **written)


async def _wait(running: RunningJob, waiting: Waiting) -> Result:
    """The result of an attempt that waits for an answer, a time or another reply."""
    await running.reply.flush()
    stream = running.reply.stream
    newest = stream.newest
    written = {"text": newest.text, "data": newest.data, "parts": stream.parts, "seq": stream.seq}
    return running.result("waiting", price(running, running.usage), waits=waiting.waits, **written)


def _mark_truncated(completion: Completion) -> tuple[Any, dict[str, str] | None]:
    """The reply's data, and a note for operators if its text is not all that the model meant to write."""
    if completion.is_truncated:
        detail = "the model reached its output limit"
    elif is_too_large(completion.text):
        detail = f"the text is longer than {MAX_TEXT_BYTES:,} bytes"
    else:
        return completion.data, None
    data = completion.data
    if data is None or isinstance(data, Mapping):
        data = {**(data or {}), "truncated": True}
    return data, {"code": "model_length", "detail": detail}


async def _stopped(running: RunningJob) -> Result:
    """The result of a job that was stopped. Of a lost one, the database keeps only the cost."""
    usage = price(running, running.usage)
    if running.stop_reason == "released":
        return running.result("released", usage)
    if running.stop_reason == "cancelled":
        await running.reply.flush()
    stream = running.reply.stream
    newest = stream.newest
    written = {"text": newest.text, "data": newest.data, "parts": stream.end(), "seq": stream.seq}
    return running.result("cancelled", usage, **written)


def price(running: RunningJob, usage: Usage) -> Usage:
    """What an attempt cost: as reported, and otherwise estimated. Many providers report it only at the end.

    What the model has thought counts as written. Of a handler only what it reports counts.
    """
    if not running.prompt_characters:
        return usage
    read = running.prompt_characters // CHARACTERS_PER_TOKEN + 1
    written = -(-(len(running.reply.stream.newest.text) + running.thought) // CHARACTERS_PER_TOKEN)
    return replace(usage, input_tokens=usage.input_tokens or read, output_tokens=usage.output_tokens or written)


async def _run_function(
    running: RunningJob,
    turn: Turn,
    functions: Functions,
    settings: Settings,
    on_life: Callable[[], None],
    memory: Memory | None,
) -> Completion:
    loop = asyncio.get_running_loop()
    reader = _Reader(settings, on_life)
    steps: Steps | None = None
    try:
        async with asyncio.timeout(settings.total_seconds) as limit:
            if memory is not None and functions.has_handler(turn.function):
                job = running.job
                steps = Steps(
                    *(job, await _known(running, memory), memory, running.reply),
                    *(_Calls(functions.calls, turn), reader.read),
                    step_seconds=settings.step_seconds,
                    ask_seconds=settings.ask_seconds,
                    on_progress=lambda: limit.reschedule(loop.time() + settings.total_seconds),
                    objects=turn.objects,
                )
            running.prompt_characters = functions.characters_of(turn)

            def on_piece(piece: Partial) -> None:
                running.reply.publish(piece)
                running.usage, running.thought = piece.usage, piece.thought

            return await reader.read(functions.run(turn, steps), on_piece)
    except TimeoutError:
        detail = f"over {settings.total_seconds:g} s"
        raise ModelUnavailable("model_slow", "The model took too long to answer.", detail=detail) from None
    finally:
        if memory is not None:
            memory.forget(running.job.question_id)


async def _known(running: RunningJob, memory: Memory) -> Sequence[Step]:
    """What earlier attempts have done."""
    job = running.job
    if job.known is not None:
        return job.known
    return await memory.read(running) if job.steps else ()


@dataclass(frozen=True, slots=True)
class _Calls:
    """The BAML functions that a handler can call while it answers `turn`."""

    functions: BamlFunctions
    turn: Turn

    def result_of(self, function: Callable[..., Any]) -> Any:
        return self.functions.result_of(function)

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> AsyncGenerator[Partial | Completion, None]:
        return self.functions.call(self.turn, function, args, named)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads what functions say, and gives up on one that is silent."""

    settings: Settings
    on_life: Callable[[], None]

    async def read(
        self, pieces: AsyncGenerator[Partial | Completion, None], on_piece: Callable[[Partial], None]
    ) -> Completion:
        """Hand on the pieces as they come, and return the last. Raises ModelUnavailable."""
        patience, code = self.settings.first_token_seconds, "model_silent"
        shown: Partial | None = None
        loop = asyncio.get_running_loop()
        try:
            async with aclosing(pieces):
                while True:  # a function may catch what ends its silence, and go on
                    async with asyncio.timeout(
                        None
                    ) as silence:  # of many pieces: one for each costs four times as much
                        while not silence.expired():
                            silence.reschedule(loop.time() + patience)
                            piece = await anext(pieces)
                            if isinstance(piece, Completion):
                                return piece
                            if piece is not shown:  # otherwise a sign of life, without news
                                on_piece(piece)
                            shown = piece
                            if piece.has_begun and code == "model_silent":
                                patience, code = self.settings.idle_seconds, "model_stalled"
                                self.on_life()
        except TimeoutError:
            if not silence.expired():
                raise
            detail = f"nothing for {patience:g} s"
            raise ModelUnavailable(code, "The model did not answer in time.", detail=detail) from None
        except StopAsyncIteration:
            detail = "the function ended without a completion"
            raise ModelUnavailable("model_cut", "The model's answer was cut off.", detail=detail) from None
