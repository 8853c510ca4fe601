"""One job from claim to result: builds nothing, decides nothing about the queue, calls the function once."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from bridge.errors import ModelUnavailable, TurnFailure, verdict
from bridge.functions import Functions
from bridge.model import Completion, Job, Partial, Result, Run, Turn, Usage
from bridge.outbox import Outbox
from bridge.settings import Settings
from bridge.store import Store
from bridge.stream import Stream
from bridge.titles import make_title

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
# A provider that asks for more is asked again after this.
LONGEST_WAIT_SECONDS = 3600.0
NO_USAGE = Usage()
LETTERS_PER_TOKEN = 4
TITLE_SECONDS = 30.0


async def answer(
    job: Job, stream: Stream, outbox: Outbox, functions: Functions, settings: Settings, began: float
) -> Result:
    """Run the job's function and stream what it says.

    `began` is the monotonic time of the claim. Every failure becomes a `failed` result. Cancelling the awaiting
    task closes the provider's connection; then no result is returned.
    """
    try:
        reply = await _run(_turn(job, settings), stream, outbox, functions, settings)
        outbox.update(stream, Partial(reply.text))  # the data comes whole with the row's event
        await outbox.flush(stream)
        return Result(
            job.message_id,
            job.attempt,
            "done",
            text=reply.text,
            data=reply.data,
            seq=stream.seq,
            files=reply.files,
            revisions=job.revisions,
            run=measure(job, stream, began, reply.usage),
        )
    except Exception as error:
        return failure(job, stream, settings, began, error)


def failure(job: Job, stream: Stream | None, settings: Settings, began: float, error: Exception) -> Result:
    """The result of an attempt that ended in `error`: another one later, or a dead letter."""
    decision = verdict(error)
    retry_ms = None
    if decision.retry and job.failures + 1 < settings.max_failures:
        pause = min(FIRST_RETRY_SECONDS * 2**job.failures, LONGEST_RETRY_SECONDS) * random.uniform(0.5, 1)
        if isinstance(decision.after, int | float) and decision.after > 0:
            pause = max(pause, min(decision.after, LONGEST_WAIT_SECONDS))
        retry_ms = int(pause * 1000)
    detail = str(error.detail or error) if isinstance(error, TurnFailure) else repr(error)
    log.warning(
        "attempt failed: %s", decision.code,
        extra={"message_id": job.message_id, "attempt": job.attempt, "retry_ms": retry_ms, "detail": detail},
        exc_info=None if isinstance(error, TurnFailure) else error,
    )  # fmt: skip
    run = measure(job, stream, began, error={"code": decision.code, "detail": detail[:2000]})
    return Result(
        job.message_id,
        job.attempt,
        "failed",
        error={"code": decision.code, "message": decision.message},
        retry_ms=retry_ms,
        run=run,
    )


def stopped(job: Job, stream: Stream, began: float) -> Result:
    """The result of a reply that its user cancelled: the text so far is kept."""
    newest = stream.newest
    return Result(
        job.message_id,
        job.attempt,
        "cancelled",
        text=newest.text,
        data=newest.data,
        seq=stream.seq,
        run=measure(job, stream, began, spent(job, stream)),
    )


def spent(job: Job, stream: Stream) -> Usage:
    """An estimate of what an attempt cost that was left early: providers tell it at the end alone."""
    turn = job.turn
    if turn is None or not stream.newest.text:
        return NO_USAGE
    read = [turn.message, *(m.content for m in turn.messages), *(f.content for f in turn.files)]
    return Usage(
        input_tokens=sum(map(len, read)) // LETTERS_PER_TOKEN,
        output_tokens=len(stream.newest.text) // LETTERS_PER_TOKEN + 1,
    )


def measure(
    job: Job, stream: Stream | None, began: float, usage: Usage = NO_USAGE, error: dict[str, str] | None = None
) -> Run:
    """What the attempt took, seen from its claim at `began` (monotonic seconds)."""
    first = stream.first_sent_at if stream is not None else None
    return Run(
        function=job.turn.function if job.turn else None,
        usage=usage,
        queue_ms=job.queued_ms,
        first_delta_ms=None if first is None else int((first - began) * 1000),
        duration_ms=int((time.monotonic() - began) * 1000),
        error=error,
    )


async def name_session(job: Job, reply: str, functions: Functions, store: Store) -> None:
    """Name the session by its first exchange. It costs the reply no time, and may fail: the next one tries."""
    if job.turn is None:
        return
    try:
        async with asyncio.timeout(TITLE_SECONDS):
            said = await make_title(functions, job.turn.message, reply)
            if said is not None and said.text.strip():
                await store.set_title(job.turn.session.id, said.text.strip())
    except Exception as error:
        log.warning("no title: %s", error, extra={"message_id": job.message_id, "session_id": job.turn.session.id})


def _turn(job: Job, settings: Settings) -> Turn:
    if job.turn is None:
        raise TurnFailure("unreadable", "The conversation could not be read.", detail=job.broken or "no payload")
    if job.failures >= settings.max_failures:
        # it was taken over so often that whoever answers it seems to die of it
        raise TurnFailure("gave_up", "The message could not be answered.", detail="its workers vanished")
    return job.turn


async def _run(turn: Turn, stream: Stream, outbox: Outbox, functions: Functions, settings: Settings) -> Completion:
    said: AsyncGenerator[Partial | Completion, None] = functions.run(turn)
    try:
        async with asyncio.timeout(settings.total_seconds), aclosing(said):
            patience, code = settings.first_token_seconds, "model_silent"
            while True:
                item = await _next(said, patience, code)
                if isinstance(item, Completion):
                    return item
                outbox.update(stream, item)
                patience, code = settings.idle_seconds, "model_stalled"
    except TimeoutError:
        raise ModelUnavailable(
            "model_slow", "The model took too long to answer.", detail=f"over {settings.total_seconds:g} s"
        ) from None


async def _next(said: AsyncGenerator[Partial | Completion, None], seconds: float, code: str) -> Partial | Completion:
    try:
        async with asyncio.timeout(seconds) as patience:
            return await anext(said)
    except TimeoutError:
        if not patience.expired():
            raise
        raise ModelUnavailable(code, "The model did not answer in time.", detail=f"nothing for {seconds:g} s") from None
    except StopAsyncIteration:
        raise ModelUnavailable("model_cut", "The model's answer broke off.", detail="ended without an answer") from None
