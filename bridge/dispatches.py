"""Takes the questions that the database hands to this worker, without a claim.

A dispatched job is held for three seconds. Its first beat confirms it; if there is none, another worker takes it over.
So one that arrives late, because the network or this process stood still, is begun only after a beat has said that it
is still this worker's: otherwise a worker that was frozen would ask the model again for all that it missed.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.claims import Claims
from bridge.errors import StoreError
from bridge.jobs import Jobs
from bridge.metrics import Metrics
from bridge.model import Checkpoint, Dispatch, Job
from bridge.rows import decode_dispatch
from bridge.store import Store

log = logging.getLogger(__name__)

# A dispatch that took longer than this to arrive is confirmed before it is begun.
LATE_SECONDS = 1.5
BUSY_SECONDS = 0.5


class Dispatches:
    """Gives dispatched questions to `jobs`. `run` confirms late ones until cancelled."""

    def __init__(self, store: Store, jobs: Jobs, claims: Claims, metrics: Metrics) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims
        self._metrics = metrics
        self._late: list[Job] = []
        self._has_late = asyncio.Event()

    def on_broadcast(self, payload: Mapping[str, Any]) -> None:
        """A question arrived on this worker's topic."""
        try:
            dispatch = decode_dispatch(payload)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            # not its text: it is a user's
            log.warning("a dispatch of another version (%s): the next claim brings its question", type(error).__name__)
            self._claims.wake("dispatch")
            return
        self.take(dispatch)

    def take(self, dispatch: Dispatch) -> None:
        """Begin to answer a question; if it comes late, once it is confirmed."""
        if not self._jobs.is_new(dispatch.question_id, dispatch.attempt):
            return
        if dispatch.job is None:
            self._claims.wake("dispatch")
        elif self._claims.clock.age(dispatch.at) > LATE_SECONDS:
            self._late.append(dispatch.job)
            self._has_late.set()
        else:
            self._add(dispatch.job, is_confirmed=False)

    async def run(self) -> None:
        """Confirm late dispatches until cancelled."""
        while True:
            await self._has_late.wait()
            self._has_late.clear()
            late, self._late = self._late, []
            await self._confirm(late)

    async def _confirm(self, late: Sequence[Job]) -> None:
        try:
            ack = await self._store.beat([Checkpoint(job.question_id, job.attempt) for job in late])
        except StoreError as error:
            log.warning("beat: %s", error)  # another worker takes them over
            return
        self._claims.on_hints(ack.hints)
        for job in late:
            state = ack.states.get(job.question_id)
            log.info("a dispatch came late", extra={"question_id": job.question_id, "state": state})
            if state in ("ok", "cancel") and self._jobs.is_new(job.question_id, job.attempt):
                self._add(job, is_confirmed=True)
                if state == "cancel":
                    self._jobs.cancel(job.question_id)
            elif state == "busy":  # its user keeps it locked: a claim brings it
                self._claims.wake_in(BUSY_SECONDS)

    def _add(self, job: Job, *, is_confirmed: bool) -> None:
        if self._jobs.get(job.question_id) is None:
            self._metrics.dispatched.inc()
        self._jobs.add(job, is_confirmed=is_confirmed)
