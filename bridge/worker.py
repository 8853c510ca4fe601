"""The worker: starts its loops, hands wake-ups and cancels to them, gives every job a task, and drains.

listener ──Dispatched──▶ dispatches ──Job──▶ jobs ──▶ one task a job: turn.run_attempt ──Result──▶ results
    ├──Work──▶ claims ──Job──▶ jobs                                  dispatches ◀──next of the session──┘
    └──Cancel──▶ jobs ◀──cancel, lost── beats ◀──checkpoints── jobs
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable

from bridge import titles, turn
from bridge.attachments import Attachments
from bridge.beats import Beats
from bridge.breaker import Breakers
from bridge.claims import Claims
from bridge.dispatches import Dispatches
from bridge.errors import StoreError, StoreRefused
from bridge.functions import Functions
from bridge.jobs import Jobs, RunningJob
from bridge.metrics import Metrics
from bridge.model import Result
from bridge.orphans import Orphans
from bridge.realtime.listener import Cancel, Dispatched, Due, Signal, WakeupListener
from bridge.realtime.publisher import DeltaPublisher
from bridge.rest import CALL_SECONDS, TRIES
from bridge.results import Results
from bridge.settings import Settings
from bridge.step_writes import StepWrites
from bridge.store import Store
from bridge.watch import Watch
from bridge.watchdog import Watchdog

log = logging.getLogger(__name__)

# After the drain, results of released jobs are still sent for this long.
RELEASE_SECONDS = 10.0
# How long to wait for what an insert that was on its way has dispatched to this worker before it said that it drains.
LATE_DISPATCH_SECONDS = 0.1
# How long to wait for a claim that is still running when the drain is over: the store gives it up by then.
LATE_CLAIM_SECONDS = TRIES * CALL_SECONDS
# Between two tries to publish the functions.
LONGEST_PAUSE_SECONDS = 30.0


class Worker:
    """One worker. `run` returns when it has drained."""

    def __init__(self, settings: Settings, store: Store, functions: Functions, name: str, watchdog: Watchdog) -> None:
        self.name = name
        self.settings = settings
        self.metrics = Metrics()
        self.listener = WakeupListener(settings.realtime_url, settings.supabase_key, store.probe, name)
        for supervisor in (self.listener.broadcasts, self.listener.changes):
            supervisor.on_restart = self.metrics.resubscriptions.inc
        self.publisher = DeltaPublisher(settings, self.metrics, lambda: self.claims.fleet_size)
        self.jobs = Jobs(settings.concurrency, self.publisher.open, self)
        self.breakers = Breakers(functions.names)
        self.claims = Claims(
            store,
            self.jobs,
            functions.names,
            self.breakers,
            settings,
            self.metrics,
            self.listener.resubscribe,
            lambda: self.listener.hears,
            lambda watches: self.listener.watch(watches and not self.is_draining),
            lambda: self._orphans.wake(),
        )
        self._dispatches = Dispatches(store, self.jobs, self.claims, self.metrics)
        self._watch = Watch(self.jobs.is_known, lambda: self.claims.wake("watch"))
        self._beats = Beats(store, self.jobs, self.claims, settings)
        self._step_writes = StepWrites(store, self.jobs)
        self._results = Results(store, self.jobs, self.claims, settings, self._dispatches.take)
        self.attachments = Attachments(store.storage, settings.media_bytes, math.ceil(settings.total_seconds))
        self._orphans = Orphans(store, store.storage, self.metrics)
        self._store = store
        self._functions = functions
        self._watchdog = watchdog
        self._draining = asyncio.Event()
        self._is_patient = False
        self._hurried = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._attempts: dict[RunningJob, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions that it answers."""
        return self._functions.names

    @property
    def is_draining(self) -> bool:
        """Whether it claims no more."""
        return self._draining.is_set()

    @property
    def is_patient(self) -> bool:
        """Whether it drains without a limit."""
        return self._is_patient

    def drain(self, *, patient: bool = False) -> None:
        """Claim no more; `run` returns when all jobs have ended, or after BRIDGE_DRAIN_SECONDS.

        A `patient` drain has no such limit, until `drain` is called again.
        """
        self._is_patient = patient
        if not patient:
            self._hurried.set()
        self._draining.set()
        self.claims.stop()

    async def run(self) -> None:
        """Work until `drain` is called and done. An error of a loop is raised, in a group."""
        parts = (
            self.listener,
            self.publisher,
            self.claims,
            self._dispatches,
            self._beats,
            self._results,
            self._step_writes,
            self._orphans,
        )
        loops = [part.run for part in parts] + [self._handle_signals, self._feed_watchdog, self._describe]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop(), name=loop.__qualname__) for loop in loops]
            try:
                async with self._tasks:
                    try:
                        await self._drain()
                    finally:
                        for task in [*self._attempts.values(), *self._background]:
                            task.cancel()
            finally:
                for task in tasks:
                    task.cancel()

    async def _drain(self) -> None:
        await self._draining.wait()
        log.info("draining", extra={"running": self.jobs.count})
        # a claim that is running may bring jobs, which are drained too
        await _wait_at_most(CALL_SECONDS, self.claims.ended.wait())
        try:
            await self._store.retire(self.jobs.question_ids, self._functions.names)
        except StoreError as error:
            log.warning("drain: %s", error)
        await asyncio.sleep(LATE_DISPATCH_SECONDS)
        await self._wait_for_jobs()
        self.jobs.release_all()
        await _wait_at_most(LATE_CLAIM_SECONDS, self.claims.ended.wait())
        await _wait_at_most(RELEASE_SECONDS, self.jobs.is_empty.wait())
        try:
            await self._store.leave()
        except StoreError as error:
            log.warning("leave: %s", error)

    async def _wait_for_jobs(self) -> None:
        """Wait until all jobs have ended: for BRIDGE_DRAIN_SECONDS from when the drain is not a patient one."""
        empty, hurried = (asyncio.create_task(event.wait()) for event in (self.jobs.is_empty, self._hurried))
        try:
            await asyncio.wait((empty, hurried), return_when=asyncio.FIRST_COMPLETED)  # a reply has its own limits
            await asyncio.wait((empty,), timeout=self.settings.drain_seconds)
        finally:
            for task in (empty, hurried):
                task.cancel()
            await asyncio.wait((empty, hurried))

    async def _handle_signals(self) -> None:
        try:
            while True:
                self._handle(await self.listener.next())
        finally:
            self._watch.close()

    def _handle(self, signal: Signal) -> None:
        if isinstance(signal, Dispatched):
            self._dispatches.on_broadcast(signal.payload)
        elif isinstance(signal, Cancel):
            self.jobs.cancel(signal.question_id)
        elif isinstance(signal, Due):
            self.claims.wake_in(signal.seconds)
        elif not signal.question_ids:  # the subscription has changed: say whether this worker hears
            self.claims.wake(signal.source)
        elif self.jobs.is_news(signal.question_ids, announced=signal.source == "broadcast"):
            if signal.source == "changes":
                self._watch.note(signal.question_ids, is_alone=self.claims.fleet_size < 2)
            if signal.source != "changes" or not self.listener.is_ready:
                self.claims.on_work(signal.source, signal.xid)

    async def _feed_watchdog(self) -> None:
        """Feed it while this loop turns and the claims make progress."""
        while True:
            if not self.claims.is_late:
                self._watchdog.feed()
            await asyncio.sleep(min(1.0, self.settings.sweep_seconds / 4))

    async def _describe(self) -> None:
        """Publish what it answers. Nobody waits for that."""
        pause = 1.0
        while True:
            try:
                await self._store.describe(list(self._functions.descriptions.values()))
                break
            except StoreRefused as error:
                log.warning("the functions are not in the catalogue: %s", error)
                break
            except StoreError as error:
                log.debug("%s; retrying", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def on_added(self, running: RunningJob) -> None:
        """Give a claimed job its task."""
        job = running.job
        self.metrics.claimed.inc()
        self.metrics.takeovers.inc(job.taken_over)
        self.metrics.queue_seconds.observe(job.queued_ms / 1000)
        self.breakers.on_start(_function_of(running), job.question_id)  # before the next claim is sent
        self._attempts[running] = self._tasks.create_task(self._attempt(running), name=f"question {job.question_id}")

    def on_stop(self, running: RunningJob) -> None:
        """Interrupt a job's task."""
        self._attempts[running].cancel()

    def on_ended(self, running: RunningJob, result: Result, state: str, *, is_untitled: bool) -> None:
        """Note how an attempt ended, claim again if there may be more to claim, and name its session."""
        del self._attempts[running]
        self.metrics.attempt_ended(result, state)
        ending = {"outcome": result.outcome, "state": state, "duration_ms": result.stats.duration_ms}
        log.info("attempt ended", extra=running.log_fields | ending)
        self.claims.on_ended()
        if running.reannounced:
            self.claims.wake("broadcast")
        if is_untitled and not self.is_draining:
            naming = titles.name_session(running.job, result, self._functions, self._store)
            task = self._tasks.create_task(naming, name=f"title for {result.question_id}")
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _attempt(self, running: RunningJob) -> None:
        function, attempt = _function_of(running), running.job.question_id

        def on_life() -> None:
            if self.breakers.on_life(function, attempt):
                self.claims.wake("more")

        try:
            result = await turn.run_attempt(
                running, self._functions, self.settings, on_life, self._step_writes, self.attachments
            )
        except Exception as error:  # whatever is wrong with this job, it must not end the others
            result = turn.failed(running, error, self.settings)
        finally:
            self.breakers.on_end(function, attempt)
        if result.is_of_model and result.error is not None:
            self.breakers.on_failure(function, attempt, result.error["code"])
            self.claims.wake("more")  # before more is dispatched: the claim says how this worker is
        elif result.outcome == "done":
            on_life()
        self._results.enqueue(running, result)


def _function_of(running: RunningJob) -> str:
    return running.job.turn.function if running.job.turn is not None else ""


async def _wait_at_most(seconds: float, waiting: Awaitable[object]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
