"""Chaos: several workers, many questions, faults at random from a seed; then the ledger is read and checked.

    python -m tests.faults.chaos --workers 3 --messages 2000 --seed 7

Exit 0: nothing was lost, doubled, out of order or written by one who had lost the lease. Exit 1: something was.
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
from typing import Any

import httpx
import psycopg

from devstack.model import ModelServer
from devstack.stack import Stack
from tests.faults.audit import Audit
from tests.faults.checker import Expected, Ledger, Violation, check
from tests.faults.havoc import Havoc, Slot, fleet
from tests.faults.load import Load, plan
from tests.support.database import database
from tests.support.users import person
from tests.support.waiting import until

PEOPLE = 4
# the share of the time in which all is to be asked; the one after which no more is; and how long the rest may take
ASKING_SHARE = 0.45
LAST_SHARE = 0.8
QUIET_SECONDS = 150.0
FAULTS_PER_SECOND = 1.0
READY_SECONDS = 60.0
# how long a person waits for an answer of REST before asking once more
PATIENCE_SECONDS = 3.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What a run was and what came of it. Times are in seconds."""

    seed: int
    workers: int
    messages: int  # asked and accepted
    violations: list[Violation] = field(default_factory=list)
    replies: dict[str, int] = field(default_factory=dict)  # by status
    attempts: dict[str, int] = field(default_factory=dict)  # by outcome
    faults: dict[str, int] = field(default_factory=dict)
    takeovers: int = 0
    resubscriptions: int = 0
    answers_lost: int = 0
    rest_crashes: int = 0
    boots: int = 0
    exits: dict[int, int] = field(default_factory=dict)  # by exit code; a negative one is a signal's
    late_refused: int = 0  # what workers tried under a lost lease
    refused: list[str] = field(default_factory=list)  # questions that were not accepted
    seconds_asking: float = 0.0
    seconds_until_quiet: float = 0.0
    seconds: float = 0.0

    @property
    def broken(self) -> Counter[str]:
        """Violations by kind."""
        return Counter(violation.kind for violation in self.violations)


async def run(
    *, workers: int, messages: int, seed: int, minutes: float, folder: Path, say: Say = lambda _: None
) -> tuple[Report, Ledger]:
    """One run; everything it starts is ended. Raises DevstackError if the embedded Supabase does not start."""
    began = time.monotonic()
    report = Report(seed, workers, 0)
    say(f"seed {seed}: {workers} workers, {messages} messages, {minutes:g} minutes at most")
    async with (
        Stack(folder / "supabase", 0, fsync=False, polling_delay=(0.02, 0.1), denied_delay=0.2) as stack,
        ModelServer(keep=10) as model,
        contextlib.AsyncExitStack() as opened,
    ):
        async with database(stack.admin_url) as db:
            await db.execute("update bridge.limits set value = null where name not like '%%bytes'")
            # what was answered must outlive a crash of Postgres; for one of the machine there is no fsync here
            await db.execute("alter database postgres set synchronous_commit = on")
            await Audit(db).install()
        await stack.lite.stop()  # its connections are older than that setting
        await stack.lite.start()
        people = [await person(stack.environment) for _ in range(PEOPLE)]
        for somebody in people:
            somebody.http.timeout = httpx.Timeout(PATIENCE_SECONDS)
            opened.push_async_callback(somebody.close)
        slots = await opened.enter_async_context(fleet(stack, model, workers, folder))
        for slot in slots:
            await _ready(slot)
        say(f"{time.monotonic() - began:5.0f} s: ready")

        asking_until = time.monotonic() + minutes * 60 * LAST_SHARE
        questions = plan(messages, seed)
        rate = messages / (minutes * 60 * ASKING_SHARE)
        load = Load(people, questions, rate, asking_until)
        havoc = Havoc(stack, slots, seed, 1 / FAULTS_PER_SECOND)
        asked_at = time.monotonic()
        watching = [
            asyncio.create_task(_watch(stack, load, havoc, began, say)),
        ]
        try:
            await _storm(load, havoc)
            report.seconds_asking = time.monotonic() - asked_at
            say(f"{time.monotonic() - began:5.0f} s: {len(load.accepted)} asked, no more faults")
            for slot in slots:
                await slot.proxy.calm()
                slot.wire.swallows_new = False
            quiet_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await until(lambda: _is_quiet(stack), QUIET_SECONDS, 0.2)
            report.seconds_until_quiet = time.monotonic() - quiet_at
        finally:
            report.rest_crashes = stack.lite_restarts
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        ledger = await read(stack, list(load.accepted.values()))
        _figures(report, ledger, load, havoc, slots)
    say(f"{time.monotonic() - began:5.0f} s: checking {len(ledger.writes)} writes")
    report.violations = check(ledger)
    report.seconds = time.monotonic() - began
    return report, ledger


async def _ready(slot: Slot) -> None:
    await until(lambda: slot.worker, READY_SECONDS)
    assert slot.worker is not None
    await slot.worker.ready(READY_SECONDS)


async def _storm(load: Load, havoc: Havoc) -> None:
    """Ask and strike until all is asked."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(havoc.run(over))
        try:
            await load.run()
        finally:
            over.set()


async def waiting(stack: Stack) -> int:
    """How many questions have not ended; 1 if the database does not say."""
    try:
        async with asyncio.timeout(10), database(stack.admin_url) as db:
            cursor = await db.execute("select count(*) from bridge.jobs")
            return int((await cursor.fetchall())[0]["count"])
    except (psycopg.Error, TimeoutError):
        return 1


async def _is_quiet(stack: Stack) -> bool:
    return await waiting(stack) == 0


async def _watch(stack: Stack, load: Load, havoc: Havoc, began: float, say: Say) -> None:
    while True:
        await asyncio.sleep(5)
        left = await waiting(stack)
        say(
            f"{time.monotonic() - began:5.0f} s: {len(load.accepted)} asked, {left} not answered yet, "
            f"{havoc.struck.total()} faults"
        )


async def read(stack: Stack, expected: Sequence[Expected]) -> Ledger:
    """The ledger as the database has it."""
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
        for log in slot.logs:
            text = log.read_text()
            for lane in ("bridge:inbox", "postgres_changes"):
                report.resubscriptions += max(0, text.count(f'"{lane}: subscribed"') - 1)
            report.late_refused += text.count('"lease lost"') + text.count('"state": "lost"')


def as_json(report: Report) -> str:
    """The report for machines."""
    return json.dumps(asdict(report) | {"broken": report.broken})


def _print(report: Report, say: Say) -> None:
    def counts(values: dict[Any, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in sorted(values.items(), key=str)) or "none"

    say(f"\nseed {report.seed}, {report.seconds:.0f} s, of which {report.seconds_asking:.0f} s under faults and")
    say(f"{report.seconds_until_quiet:.1f} s until all was answered")
    say(f"messages    {report.messages}: {counts(report.replies)}")
    say(f"attempts    {sum(report.attempts.values())}: {counts(report.attempts)}")
    say(f"takeovers   {report.takeovers}; refused under a lost lease: {report.late_refused}")
    say(f"workers     {report.workers}, {report.boots} boots; exits by code: {counts(report.exits)}")
    say(f"Realtime    {report.resubscriptions} resubscriptions")
    say(f"REST        {report.answers_lost} answers lost after the work was done; {report.rest_crashes} crashes")
    say(f"faults      {sum(report.faults.values())}: {counts(report.faults)}")
    for text in report.refused[:10]:
        say(f"not accepted: {text}")
    for violation in report.violations[:50]:
        say(f"VIOLATION   {violation.kind}: {violation.message_id}: {violation.detail}")
    broken = report.broken
    kinds = ("lost", "doubled", "wrong", "out of order", "two at once", "late write")
    say("verdict     " + ", ".join(f"{broken[kind]} {kind}" for kind in kinds))


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos", description="Break everything at random, then check that nothing was lost."
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long at most (default: %(default)g)")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=2000, help="questions to ask (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of questions and faults (default: a new one, which is printed)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout, progress on stderr")
    options = parser.parse_args()
    if options.minutes <= 0 or options.workers < 1 or options.messages < 1:
        parser.error("--minutes, --workers and --messages must be above 0")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    # what breaks is meant to: the parts' complaints are kept beside the workers' logs
    logging.basicConfig(filename=folder / "parts.log", format="%(asctime)s %(name)s %(message)s")

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    try:
        report, _ = asyncio.run(
            run(
                workers=options.workers,
                messages=options.messages,
                seed=seed,
                minutes=options.minutes,
                folder=folder,
                say=say,
            )
        )
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    _print(report, say)
    if options.json:
        print(as_json(report))
    if report.violations:
        say(f"the workers' logs are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
