"""The states of a worker's jobs: no order of events loses a job, ends it twice or ignores a stop."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from bridge.jobs import Jobs, RunningJob, StopReason
from bridge.model import Job, Result
from bridge.realtime.publisher import OutgoingReply

CONCURRENCY = 3
QUESTIONS = st.sampled_from(["a", "b", "c", "d"])


class Reply:
    """Stands in for an OutgoingReply."""

    def __init__(self, _: Job) -> None:
        self.first_sent_at: float | None = None
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Owner:
    """Stands in for the worker: records the callbacks, and runs no tasks."""

    def __init__(self) -> None:
        self.added: list[RunningJob] = []
        self.interrupted: Counter[RunningJob] = Counter()
        self.ended: Counter[RunningJob] = Counter()

    def on_added(self, running: RunningJob) -> None:
        self.added.append(running)

    def on_stop(self, running: RunningJob) -> None:
        self.interrupted[running] += 1

    def on_ended(self, running: RunningJob, result: Result, state: str, *, is_untitled: bool) -> None:
        self.ended[running] += 1


def make_jobs(owner: Owner) -> Jobs:
    return Jobs(CONCURRENCY, lambda job: cast(OutgoingReply, Reply(job)), owner)


class JobsMachine(RuleBasedStateMachine):
    """Claims, starts, stops, results and acknowledgements in any order, compared with a model of the held jobs."""

    waiting = Bundle("waiting")  # their task has not run yet
    answering = Bundle("answering")  # their function runs, or was interrupted and has not noticed
    reporting = Bundle("reporting")  # their result is being sent

    def __init__(self) -> None:
        super().__init__()
        self.owner = Owner()
        self.jobs = make_jobs(self.owner)
        self.held: dict[str, RunningJob] = {}
        self.attempts: Counter[str] = Counter()
        self.cancelled_early: set[str] = set()
        self.first_reason: dict[RunningJob, StopReason] = {}
        self.reannounced: set[RunningJob] = set()
        self.releasing = False

    def _note_stop(self, running: RunningJob, reason: StopReason) -> None:
        if running.state in ("claimed", "running", "stopping"):
            self.first_reason.setdefault(running, reason)

    @rule(target=waiting, question=QUESTIONS)
    def claim(self, question: str) -> object:
        known = self.held.get(question)
        self.attempts[question] += 1
        added = len(self.owner.added)
        self.jobs.add(Job(question, self.attempts[question], 0, cancel=False))
        if known is not None:
            self.reannounced.add(known)
            assert len(self.owner.added) == added, "a question was held twice"
            return multiple()
        (running,) = self.owner.added[added:]
        self.held[question] = running
        if question in self.cancelled_early:
            self.cancelled_early.discard(question)
            self.first_reason[running] = "cancelled"
        elif self.releasing:
            self.first_reason[running] = "released"
        return running

    @rule(target=answering, running=consumes(waiting))
    def start(self, running: RunningJob) -> RunningJob:
        assert running.start() is (running not in self.first_reason)
        return running

    @rule(question=QUESTIONS)
    def cancel(self, question: str) -> None:
        if question in self.held:
            self._note_stop(self.held[question], "cancelled")
        else:
            self.cancelled_early.add(question)
        self.jobs.cancel(question)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def lose_the_lease(self, data: st.DataObject) -> None:
        running = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        self._note_stop(running, "lost")
        self.jobs.stop(running, "lost")

    @rule()
    def release(self) -> None:
        self.releasing = True
        for running in self.held.values():
            self._note_stop(running, "released")
        self.jobs.release_all()

    @rule(question=QUESTIONS, announced=st.booleans())
    def announce(self, question: str, announced: bool) -> None:
        assert self.jobs.is_news((question,), announced=announced) is (question not in self.held)
        if announced and question in self.held:
            self.reannounced.add(self.held[question])

    @rule(target=reporting, running=consumes(answering))
    def report(self, running: RunningJob) -> RunningJob:
        running.report()
        return running

    @rule(running=reporting)
    def replace_a_refused_result(self, running: RunningJob) -> None:
        if self.jobs.get(running.job.question_id, running.job.attempt) is running:
            running.report()

    @rule(running=consumes(reporting), state=st.sampled_from(["ok", "lost", "gone", "refused"]))
    def acknowledge(self, running: RunningJob, state: str) -> None:
        question = running.job.question_id
        assert self.jobs.get(question, running.job.attempt) is running
        self.jobs.acknowledge(running, running.result("done"), state)
        del self.held[question]
        assert self.jobs.get(question, running.job.attempt) is None, "it can be acknowledged twice"

    @invariant()
    def every_job_is_held_once(self) -> None:
        assert {running.job.question_id: running for running in self.jobs} == self.held
        for question, running in self.held.items():
            assert self.jobs.get(question, running.job.attempt) is running
            assert self.jobs.get(question, running.job.attempt - 1) is None, "it would take another attempt's result"
        assert self.jobs.count == len(self.held)
        assert self.jobs.is_empty.is_set() is not self.jobs.not_empty.is_set()
        assert self.jobs.is_empty.is_set() is not bool(self.held)
        assert self.jobs.has_room.is_set() is (len(self.held) < CONCURRENCY)

    @invariant()
    def every_job_ends_once(self) -> None:
        for running in self.owner.added:
            is_held = running in self.held.values()
            assert self.owner.ended[running] == (not is_held)
            assert cast(Reply, running.reply).closed == (not is_held)
            assert (running.state == "ended") is not is_held

    @invariant()
    def no_stop_is_ignored(self) -> None:
        for running in self.owner.added:
            assert running.stop_reason == self.first_reason.get(running), "the first reason counts"
            assert self.owner.interrupted[running] <= 1
            if running.state == "stopping":  # its task is interrupted, or `start` returned False
                assert running.stop_reason is not None
            if running.state == "running":
                assert running.stop_reason is None, "it was stopped and is still running"
            assert running.reannounced is (running in self.reannounced)


TestJobs = JobsMachine.TestCase
TestJobs.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_stop_of_running_job_interrupts_it_once() -> None:
    owner = Owner()
    jobs = make_jobs(owner)
    jobs.add(Job("a", 1, 0, cancel=False))
    (running,) = jobs
    assert running.start()
    jobs.cancel("a")
    jobs.stop(running, "lost")
    assert (running.stop_reason, owner.interrupted[running]) == ("cancelled", 1)


@pytest.mark.parametrize("early", [True, False])
def test_cancel_before_start_is_seen_by_start(early: bool) -> None:
    owner = Owner()
    jobs = make_jobs(owner)
    if early:
        jobs.cancel("a")
    jobs.add(Job("a", 1, 0, cancel=False))
    (running,) = jobs
    if not early:
        jobs.cancel("a")
    assert not running.start()
    assert (running.stop_reason, owner.interrupted[running]) == ("cancelled", 0)
