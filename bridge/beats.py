"""Extends the leases of all running jobs and writes their checkpoints: one call for all of them."""

import asyncio
import contextlib
import logging
import time

from bridge.claims import Claims
from bridge.errors import StoreError
from bridge.jobs import Jobs, RunningJob
from bridge.settings import Settings
from bridge.store import Store

log = logging.getLogger(__name__)

# A lease gets this many beats while it lasts, whether there is a checkpoint to write or not. The database extends it
# when a quarter of it has passed.
BEATS_PER_LEASE = 6
# How long after a dispatch the beat that confirms it follows. The job's lease is three seconds until then.
CONFIRM_SECONDS = 1.0


class Beats:
    """The heartbeat of a worker's jobs. `run` beats until cancelled."""

    def __init__(self, store: Store, jobs: Jobs, claims: Claims, settings: Settings) -> None:
        self._store = store
        self._jobs = jobs
        self._claims = claims
        self._lease_seconds = settings.lease_seconds / BEATS_PER_LEASE
        self._pause = min(settings.checkpoint_seconds, self._lease_seconds)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._jobs.not_empty.wait()
            due = time.monotonic() + self._pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._jobs.has_unconfirmed.wait()
            await asyncio.sleep(min(CONFIRM_SECONDS, due - time.monotonic()))
            await self._beat()

    async def _beat(self) -> None:
        self._jobs.has_unconfirmed.clear()
        now = time.monotonic()
        beaten: list[RunningJob] = []
        checkpoints = []
        for running in self._jobs:
            checkpoint = running.reply.checkpoint()
            if checkpoint.seq is not None or now - running.beaten_at > self._lease_seconds:
                beaten.append(running)
                checkpoints.append(checkpoint)
        if not beaten:
            return
        try:
            ack = await self._store.beat(checkpoints)
        except StoreError as error:
            log.warning("beat: %s", error)
            for running in beaten:
                running.reply.stream.forget_checkpoint()
            self._beat_again_for_unconfirmed(beaten)
            return
        self._claims.on_hints(ack.hints)
        for running, checkpoint in zip(beaten, checkpoints, strict=True):
            state = ack.states.get(running.job.question_id)
            if state == "busy" or (state == "lost" and running.may_be_invisible):
                running.reply.stream.forget_checkpoint()
                continue
            if state is not None:
                running.beaten_at = now
            if state == "ok" and checkpoint.seq is not None:
                running.reply.stream.on_stored(checkpoint.seq, checkpoint.parts)
            if state == "cancel":
                self._jobs.stop(running, "cancelled")
            elif state == "lost" and running.state in ("claimed", "running"):
                log.warning("lease lost", extra=running.log_fields)
                self._jobs.stop(running, "lost")
        self._beat_again_for_unconfirmed(beaten)

    def _beat_again_for_unconfirmed(self, beaten: list[RunningJob]) -> None:
        if any(not running.is_confirmed for running in beaten):
            self._jobs.has_unconfirmed.set()
