"""An attempt returns one result, whatever its function does and whenever it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadRequest, ModelUnavailable
from bridge.functions import Functions
from bridge.jobs import RunningJob, StopReason
from bridge.model import Completion, Job, Partial, Result, Session, Turn, Usage
from bridge.realtime.publisher import OutgoingReply
from bridge.settings import Settings
from bridge.stream import Stream
from bridge.turn import run_attempt

SETTINGS = Settings(supabase_url="http://127.0.0.1:1", supabase_key="key", max_failures=3)
QUESTION = Turn("Chat", "hello", (), (), Session("s", "u", None, "Chat", {}), "u")
ENDS = ("complete", "refuse", "fail", "break", "cancel itself", "end without completion")


class Reply:
    """An OutgoingReply whose channel is always joined."""

    first_sent_at = None

    def __init__(self) -> None:
        self.stream = Stream("q", "r", "s", 1)

    def publish(self, partial: Partial) -> None:
        self.stream.set_partial(partial)

    async def flush(self) -> None:
        await asyncio.sleep(0)
        while self.stream.next_delta() is not None:
            pass

    def close(self) -> None:
        pass


class Stand:
    """Stands in for Functions: a model reads 400 characters of each turn."""

    names = ("Chat", "Title")

    def characters_of(self, _: Turn) -> int:
        return 400


class Script(Stand):
    """Yields some words, then ends in the given way."""

    def __init__(self, words: int, end: str) -> None:
        self.words, self.end = words, end
        self.closed = False

    async def run(self, _: Turn, steps: object = None) -> AsyncGenerator[Partial | Completion, None]:
        try:
            for count in range(self.words):
                await asyncio.sleep(0)
                yield Partial("word " * (count + 1))
            match self.end:
                case "refuse":
                    raise BadRequest("bad_arguments", "No.")
                case "fail":
                    raise ModelUnavailable("model_busy", "Busy.")
                case "break":
                    raise ValueError("a bug")
                case "cancel itself":
                    raise asyncio.CancelledError
                case "complete":
                    yield Completion("word " * self.words)
        finally:
            self.closed = True


async def attempt(
    script: Script, job: Job, stop: StopReason | None, after: int, *, leave: bool = False
) -> tuple[RunningJob, Result | None]:
    """Run an attempt that is stopped after `after` turns of the event loop. No result: its task was cancelled."""
    running = RunningJob(job, cast(OutgoingReply, Reply()), 0, 0)

    async def run() -> Result:
        result = await run_attempt(running, cast(Functions, script), SETTINGS)
        running.report()  # as the worker does, in the same step
        return result

    task = asyncio.create_task(run())
    if stop is not None and after == 0:
        running.request_stop(stop)  # before its task runs for the first time
    for _ in range(after):
        await asyncio.sleep(0)
    if leave or (stop is not None and after and running.request_stop(stop)):
        task.cancel()
    await asyncio.wait({task}, timeout=5)
    return running, None if task.cancelled() else task.result()


@given(
    words=st.integers(0, 4),
    end=st.sampled_from(ENDS),
    failures=st.integers(0, 3),
    stop=st.sampled_from([None, "cancelled", "released", "lost"]),
    after=st.integers(0, 12),
)
def test_attempt_returns_result_that_matches_its_end(
    words: int, end: str, failures: int, stop: StopReason | None, after: int
) -> None:
    script = Script(words, end)
    running, result = asyncio.run(attempt(script, Job("q", 1, failures, cancel=False, turn=QUESTION), stop, after))
    assert result is not None
    assert (result.question_id, result.attempt, result.user_id) == ("q", 1, "u")
    assert result.stats.duration_ms is not None
    if running.stop_reason == "released":
        assert (result.outcome, result.text) == ("released", None)
    elif running.stop_reason is not None:
        assert result.outcome == "cancelled"
        assert result.text is not None
        assert ("word " * words).startswith(result.text)
    elif failures >= SETTINGS.max_failures:
        assert (result.outcome, result.error and result.error["code"], result.retry_ms) == ("failed", "gave_up", None)
        return
    elif end == "complete":
        assert (result.outcome, result.text) == ("done", "word " * words)
        assert result.seq == running.reply.stream.seq
        assert result.wants_title is bool(words)  # nobody can name a session after an empty reply
    else:
        assert result.outcome == "failed"
        assert result.error is not None
        may_retry = end != "refuse" and failures + 1 < SETTINGS.max_failures
        assert (result.retry_ms is not None) is may_retry


@given(words=st.integers(1, 4), after=st.integers(1, 3))
def test_attempt_cancelled_without_stop_returns_no_result(words: int, after: int) -> None:
    """The process exits without a drain: the lease will expire, and another worker take over."""
    script = Script(words + 3, "complete")
    _, result = asyncio.run(attempt(script, Job("q", 1, 0, cancel=False, turn=QUESTION), None, after, leave=True))
    assert result is None
    assert script.closed


def test_cancelled_job_that_was_taken_over_keeps_its_text() -> None:
    script = Script(3, "complete")
    _, result = asyncio.run(attempt(script, Job("q", 2, 1, cancel=True, turn=QUESTION), None, 0))
    assert result is not None
    assert (result.outcome, result.text, script.closed) == ("cancelled", None, False)


def test_unreadable_job_fails_for_good() -> None:
    _, result = asyncio.run(attempt(Script(1, "complete"), Job("q", 1, 0, cancel=False, broken="22023 x"), None, 0))
    assert result is not None
    assert result.error is not None
    assert (result.outcome, result.error["code"], result.retry_ms, result.user_id) == (
        "failed",
        "unreadable",
        None,
        None,
    )


class Pieces(Stand):
    """Yields the given pieces, and waits so many seconds before each."""

    def __init__(self, *pieces: tuple[float, Partial | Completion]) -> None:
        self.pieces = pieces

    async def run(self, _: Turn, steps: object = None) -> AsyncGenerator[Partial | Completion, None]:
        for seconds, piece in self.pieces:
            await asyncio.sleep(seconds)
            yield piece


def answer(pieces: Stand, settings: Settings) -> Result:
    running = RunningJob(Job("q", 1, 0, cancel=False, turn=QUESTION), cast(OutgoingReply, Reply()), 0, 0)
    return asyncio.run(run_attempt(running, cast(Functions, pieces), settings))


def test_signs_of_life_keep_the_patience_for_the_first_word() -> None:
    patient = SETTINGS.model_copy(update={"first_token_seconds": 2, "idle_seconds": 0.05})
    alive, thought, word = Partial("", has_begun=False), Partial(""), Partial("word")
    assert answer(Pieces((0, alive), (0.2, alive), (0.2, Completion("word"))), patient).outcome == "done"
    for begun in (thought, word):
        result = answer(Pieces((0, alive), (0, begun), (0.2, Completion("word"))), patient)
        assert result.error is not None
        assert result.error["code"] == "model_stalled"
    thinking = [(0.02, thought)] * 20
    assert answer(Pieces(*thinking, (0, Completion("word"))), patient).outcome == "done"
    impatient = SETTINGS.model_copy(update={"first_token_seconds": 0.05, "idle_seconds": 2})
    result = answer(Pieces((0.2, Completion("word"))), impatient)
    assert result.error is not None
    assert result.error["code"] == "model_silent"


class Stubborn(Stand):
    """Goes on when its silence is ended, this many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    async def run(self, _: Turn, steps: object = None) -> AsyncGenerator[Partial | Completion, None]:
        for _number in range(self.times):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            yield Partial("word", is_added=True)
        await asyncio.sleep(60)


def test_function_that_catches_the_end_of_its_silence_is_ended_at_the_next() -> None:
    impatient = SETTINGS.model_copy(update={"first_token_seconds": 0.01, "idle_seconds": 0.01})
    result = answer(Stubborn(2), impatient)
    assert result.error is not None
    assert result.error["code"] == "model_stalled"
    assert (result.stats.usage.output_tokens, result.retry_ms is not None) == (2, True)


def test_thoughts_count_as_written_if_the_provider_counts_nothing() -> None:
    result = answer(Pieces((0, Completion("x" * 40, thought=400))), SETTINGS)
    assert result.stats.usage == Usage(None, 101, 110)
    reported = Usage(output_tokens=7)
    result = answer(Pieces((0, Completion("x" * 40, usage=reported, thought=400))), SETTINGS)
    assert result.stats.usage.output_tokens == 7
    slow = SETTINGS.model_copy(update={"idle_seconds": 0.01})
    thinking = [(0.0, Partial("", is_added=True, thought=400)), (60.0, Partial(""))]
    result = answer(Pieces(*thinking), slow)
    assert (result.outcome, result.stats.usage.output_tokens) == ("failed", 100)


def test_failure_of_a_chosen_model_says_nothing_of_the_functions_own() -> None:
    for model, is_of_model in ((None, True), ("Large", False)):
        job = Job("q", 1, 0, cancel=False, turn=replace(QUESTION, model=model))
        _, result = asyncio.run(attempt(Script(0, "fail"), job, None, 0))
        assert result is not None
        assert (result.outcome, result.is_of_model) == ("failed", is_of_model)


def test_text_that_breaks_off_is_marked() -> None:
    for completion, data in (
        (Completion("half", is_truncated=True), {"truncated": True}),
        (Completion("é" * 500_001), {"truncated": True}),
        (Completion("x" * 1_000_001, data={"a": 1}), {"a": 1, "truncated": True}),
        (Completion("x" * 1_000_001, data=[1]), [1]),
        (Completion("x" * 1_000_000), None),
    ):
        result = answer(Pieces((0, completion)), SETTINGS)
        assert (result.outcome, result.data) == ("done", data)
        assert (result.stats.error or {}).get("code") == (None if data is None else "model_length")
