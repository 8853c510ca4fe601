"""Chaos: several workers answer many questions under random faults from a seed; then the ledger is checked.

    python -m tests.faults.chaos --workers 3 --messages 2000 --seed 7
    python -m tests.faults.chaos --agents --messages 2000 --seed 7    # handlers of 1 to 20 steps

Exits with 0 if nothing was lost, doubled, out of order or written under a lost lease, otherwise with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import psycopg

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults import agent_plan
from tests.faults.answers import Answers
from tests.faults.audit import Audit
from tests.faults.checker import Expected, Kind, Ledger, Violation, check
from tests.faults.havoc import CALLS, Havoc, Slot, fleet
from tests.faults.load import Load, plan
from tests.faults.step_checker import Effect, StepLedger, check_steps
from tests.faults.stuck import watch
from tests.support import shipped
from tests.support.database import database
from tests.support.users import person
from tests.support.waiting import until

USERS = 4
# Of the run's time: the share in which the questions are asked, and the share after which no more are asked.
ASKING_SHARE = 0.45
LAST_SHARE = 0.8
# How long the questions may take to end after the last fault.
QUIET_SECONDS = 240.0
FAULTS_PER_SECOND = 1.0
READY_SECONDS = 60.0
# Of the sessions of agents, one in so many is followed by a client, which has so long to see the ends of its replies.
FOLLOWS = 6
FOLLOW_SECONDS = 20.0
AGENTS = {"handlers": "tests.support.agents", "functions": "Walk,Chat"}
# How long a user waits for a response before trying again.
PATIENCE_SECONDS = 3.0

Print = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """The parameters and results of a run. Times are in seconds."""

    seed: int
    workers: int
    messages: int  # asked and accepted
    violations: list[Violation] = field(default_factory=list)
    replies: dict[str, int] = field(default_factory=dict)  # questions, by status
    attempts: dict[str, int] = field(default_factory=dict)  # by outcome
    faults: dict[str, int] = field(default_factory=dict)
    takeovers: int = 0
    resubscriptions: int = 0
    answers_lost: int = 0
    rest_crashes: int = 0
    boots: int = 0
    exits: dict[int, int] = field(default_factory=dict)  # by exit code, or the negative number of a signal
    late_refused: int = 0  # writes that workers tried under a lost lease
    steps: int = 0  # remembered
    effects: int = 0  # tries of steps, of those that note them
    answers: dict[str, int] = field(default_factory=dict)  # of users to questions of replies, by what they returned
    followed: int = 0  # replies that a client followed to their end
    refused: list[str] = field(default_factory=list)  # calls of users that were not accepted
    seconds_asking: float = 0.0
    seconds_until_quiet: float = 0.0
    seconds: float = 0.0

    @property
    def broken(self) -> Counter[str]:
        """Violations by kind."""
        return Counter(violation.kind for violation in self.violations)


async def run(
    *,
    workers: int,
    messages: int,
    seed: int,
    minutes: float,
    folder: Path,
    agents: bool = False,
    log: Print = lambda _: None,
) -> tuple[Report, Ledger, StepLedger]:
    """Run it once, with questions to models or to `agents`. Raises DevstackError if the embedded Supabase does not
    start.
    """
    began = time.monotonic()
    report = Report(seed, workers, 0)

    def progress(text: str) -> None:
        log(f"{time.monotonic() - began:5.0f} s: {text}")

    log(f"seed {seed}: {workers} workers, {messages} messages, {minutes:g} minutes at most")
    async with (
        Stack(
            folder / "supabase", 0, fsync=False, polling_delay=(0.02, 0.1), denied_delay=0.2, project=shipped.project()
        ) as stack,
        ModelServer(keep=10) as model,
        contextlib.AsyncExitStack() as opened,
    ):
        async with database(stack.admin_url) as db:
            await db.execute("update bridge.limits set value = null where name not like '%%bytes'")
            # a commit must survive a crash of Postgres (not of the machine: fsync is off)
            await db.execute("alter database postgres set synchronous_commit = on")
            await Audit(db).install()
        await stack.lite.stop()  # so that its connections get that setting
        await stack.lite.start()
        users = [await person(stack.environment) for _ in range(USERS)]
        for user in users:
            user.http.timeout = httpx.Timeout(PATIENCE_SECONDS)
            opened.push_async_callback(user.close)
        notes = folder / "effects"
        notes.touch()
        slots = await opened.enter_async_context(
            fleet(stack, model, workers, folder, AGENTS if agents else {}, {"AGENT_LEDGER": str(notes)})
        )
        for slot in slots:
            await _ready(slot)
        progress("workers ready")

        asking_until = time.monotonic() + minutes * 60 * LAST_SHARE
        questions = (agent_plan.plan if agents else plan)(messages, seed)
        rate = messages / (minutes * 60 * ASKING_SHARE)
        load = Load(users, questions, rate, asking_until, FOLLOWS if agents else 0)
        calls = (*CALLS, "bridge_step", "bridge_steps") if agents else CALLS
        havoc = Havoc(stack, slots, seed, 1 / FAULTS_PER_SECOND, calls)
        answers = Answers(users if agents else (), seed)
        stuck: set[Violation] = set()
        asked_at = time.monotonic()
        aside = [
            asyncio.create_task(_report_progress(stack, load, havoc, progress)),
            asyncio.create_task(answers.run()),
            asyncio.create_task(watch(stack.admin_url, stuck)),
        ]
        try:
            await _storm(load, havoc)
            report.seconds_asking = time.monotonic() - asked_at
            progress(f"{len(load.accepted)} questions asked, faults off")
            for slot in slots:
                await slot.proxy.calm()
                slot.model.swallows_new = False
            quiet_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await until(lambda: _is_quiet(stack), QUIET_SECONDS, 0.2)
            report.seconds_until_quiet = time.monotonic() - quiet_at
            if load.following:
                await asyncio.wait(load.following, timeout=FOLLOW_SECONDS)
        finally:
            report.rest_crashes = stack.lite_restarts
            for task in (*aside, *load.following):
                task.cancel()
            for error in await asyncio.gather(*aside, *load.following, return_exceptions=True):
                if isinstance(error, Exception):  # one of them has ended by itself: what it saw is not all
                    raise error
        ledger = await read(stack, list(load.accepted.values()))
        effects = [Effect(*json.loads(line)) for line in notes.read_text().splitlines()]
        steps = await read_steps(stack, effects, load, answers)
        _figures(report, ledger, load, havoc, slots)
        _agents_figures(report, steps, load)
    progress(f"checking {len(ledger.writes)} writes")
    report.violations = [*check(ledger), *check_steps(ledger, steps), *stuck]
    report.seconds = time.monotonic() - began
    return report, ledger, steps


async def _ready(slot: Slot) -> None:
    await until(lambda: slot.worker, READY_SECONDS)
    assert slot.worker is not None
    await slot.worker.ready(READY_SECONDS)


async def _storm(load: Load, havoc: Havoc) -> None:
    """Ask under faults until every question was asked."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(havoc.run(over))
        try:
            await load.run()
        finally:
            over.set()


async def waiting(stack: Stack) -> int:
    """How many questions have not ended; 1 if the database does not respond."""
    try:
        async with asyncio.timeout(10), database(stack.admin_url) as db:
            cursor = await db.execute("select count(*) from bridge.jobs")
            return int((await cursor.fetchall())[0]["count"])
    except (psycopg.Error, TimeoutError):
        return 1


async def _is_quiet(stack: Stack) -> bool:
    return await waiting(stack) == 0


async def _report_progress(stack: Stack, load: Load, havoc: Havoc, progress: Print) -> None:
    while True:
        await asyncio.sleep(5)
        open_count = await waiting(stack)
        progress(f"{len(load.accepted)} questions asked, {open_count} open, {havoc.struck.total()} faults")


async def read(stack: Stack, expected: Sequence[Expected]) -> Ledger:
    """Read the ledger from the database."""
    async with database(stack.admin_url) as db:

        async def rows(query: str) -> list[dict[str, Any]]:
            return await (await db.execute(query.encode())).fetchall()

        messages = await rows(
            "select id::text, session_id::text, ordinal, role, content, data, status, reply_to::text, attempt, error"
            " from public.messages"
        )
        files = await rows("select session_id::text, path, content from public.code_files")
        return Ledger(
            expected=expected,
            messages=messages,
            writes=await Audit(db).writes(),
            files={(file["session_id"], file["path"]): file["content"] for file in files},
            runs=await rows("select question_id::text as message_id, attempt, worker, outcome from bridge.runs"),
            jobs=[row["message_id"] for row in await rows("select question_id::text as message_id from bridge.jobs")],
        )


async def read_steps(stack: Stack, effects: Sequence[Effect], load: Load, answers: Answers) -> StepLedger:
    """Join what was done with steps, as the database, the handlers, the users and the clients saw it."""
    async with database(stack.admin_url) as db:
        return StepLedger(
            effects=effects,
            steps=await Audit(db).steps(),
            answers=answers.given,
            shown={view.message_id: view.shown for view in load.views},
        )


def _agents_figures(report: Report, steps: StepLedger, load: Load) -> None:
    report.steps = len({(step.question_id, step.name) for step in steps.steps if step.is_done})
    report.effects = len(steps.effects)
    report.answers = dict(Counter(answer.state or "no response" for answer in steps.answers))
    report.followed = sum(view.has_ended for view in load.views)


def _figures(report: Report, ledger: Ledger, load: Load, havoc: Havoc, slots: Sequence[Slot]) -> None:
    report.messages = len(load.accepted)
    report.refused = load.refused
    report.replies = dict(Counter(row["status"] for row in ledger.messages if row["role"] == "user"))
    report.attempts = dict(Counter(run["outcome"] for run in ledger.runs))
    report.takeovers = report.attempts.get("lost", 0)
    report.faults = dict(sorted(havoc.struck.items()))
    report.boots = sum(slot.boots for slot in slots)
    report.exits = dict(sum((slot.exits for slot in slots), Counter()))
    report.answers_lost = sum(slot.proxy.lost.total() for slot in slots)
    for slot in slots:
        for path in slot.logs:
            text = path.read_text()
            for lane in ("bridge:inbox", "postgres_changes"):
                report.resubscriptions += max(0, text.count(f'"{lane}: subscribed"') - 1)
            report.late_refused += text.count('"lease lost"') + text.count('"state": "lost"')


def as_json(report: Report) -> str:
    """The report for machines."""
    return json.dumps(asdict(report) | {"broken": report.broken})


def _print(report: Report, log: Print) -> None:
    def counts(values: dict[Any, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in sorted(values.items(), key=str)) or "none"

    log(f"\nseed {report.seed}: {report.seconds:.0f} s, of which {report.seconds_asking:.0f} s under faults,")
    log(f"then {report.seconds_until_quiet:.1f} s until every question had ended")
    log(f"messages    {report.messages}: {counts(report.replies)}")
    log(f"attempts    {sum(report.attempts.values())}: {counts(report.attempts)}")
    log(f"takeovers   {report.takeovers}; writes refused under a lost lease: {report.late_refused}")
    log(f"workers     {report.workers}, started {report.boots} times; exits by code: {counts(report.exits)}")
    log(f"Realtime    {report.resubscriptions} resubscriptions")
    log(f"REST        {report.answers_lost} responses lost after the work was done; {report.rest_crashes} crashes")
    log(f"faults      {sum(report.faults.values())}: {counts(report.faults)}")
    if report.steps:
        log(f"steps       {report.steps} remembered; {report.effects} tries of those that have effects")
        log(f"answers     {sum(report.answers.values())}: {counts(report.answers)}")
        log(f"clients     {report.followed} replies followed to their end")
    for text in report.refused[:10]:
        log(f"not accepted: {text}")
    for violation in report.violations[:50]:
        log(f"VIOLATION   {violation.kind}: {violation.message_id}: {violation.detail}")
    broken = report.broken
    log("verdict     " + ", ".join(f"{broken[kind]} {kind}" for kind in get_args(Kind)))


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos", description="Cause random faults, then check that nothing was lost."
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="roughly the longest time (default: %(default)g)")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=2000, help="questions to ask (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of questions and faults (default: random)")
    parser.add_argument("--agents", action="store_true", help="ask handlers of 1 to 20 steps instead of models")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout, progress on stderr")
    options = parser.parse_args()
    if options.minutes <= 0 or options.workers < 1 or options.messages < 1:
        parser.error("--minutes, --workers and --messages must be above 0")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    # the errors of the broken parts are expected: they go to a file beside the workers' logs
    logging.basicConfig(filename=folder / "parts.log", format="%(asctime)s %(name)s %(message)s")

    def log(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    try:
        report, *_ = asyncio.run(
            run(
                workers=options.workers,
                messages=options.messages,
                seed=seed,
                minutes=options.minutes,
                folder=folder,
                agents=options.agents,
                log=log,
            )
        )
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    _print(report, log)
    if options.json:
        print(as_json(report))
    if report.violations:
        log(f"the workers' logs are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
