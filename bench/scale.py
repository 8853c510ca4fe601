"""`python -m bench.scale`: what 1, 10, 100 and 1,000 workers ask of one project, and which limit they reach first.

It measures the cost of each call in the database while the fleet holds more and more jobs, and what a question leaves
in `realtime.messages`. It feeds the costs into the model of `bench/fleet.py`, together with the cost of a reply from
bench/out/results.json if `make bench` has been run. It prints tables and writes bench/out/scale.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, LiteralString

import psutil
from psycopg.types.json import Jsonb

from bench import database, report, scale_report, waldump
from bench.baselines.conversation import HISTORY
from bench.database import Database, one_row
from bench.fleet import MANY, OPERATIONS, Cost, Costed, Costs, Reply, Stored
from bench.processes import OUT, ROOT, Failed, cpu_seconds
from bench.prose import words
from bench.scale_report import WORKERS
from bench.world import Project, World

PAGE = ROOT / "docs" / "scale.md"
WORKER = "bench"
CALLS = 200  # of each kind; a tenth of it of those that carry MANY jobs
CALLS_OF_LARGE_FLEETS = 40  # from 1,000 workers on
SLOTS = 2 * MANY  # of each worker, of which half are taken
GIVEN_AT_ONCE = 20  # questions, before the workers' slots are freed again
HISTORIES = (0, 30_000)  # bytes of the messages before a question
STORED_ROUNDS = 4  # of MANY questions
REPLY_TOKENS = 1_000
Call = Callable[[], Awaitable[Any]]
Job = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 if it could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description="Estimate what one project and many workers can carry."
    )
    parser.add_argument("--json", type=Path, default=OUT / "scale.json", metavar="FILE", help="results file")
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--docs", action="store_true", help="also update docs/scale.md")
    parser.add_argument("--again", action="store_true", help="show the results in FILE without measuring")
    options = parser.parse_args(arguments)
    try:
        if not options.again:
            measured = asyncio.run(_measure(quick=options.quick))
            report.save(options.json, asdict(measured), indent=1)
        measured = read(options.json)
        reply = read_reply(OUT / "results.json")
        for title, rows in scale_report.tables(measured, reply).items():
            print(f"\n{title}\n{report.columns(rows)}")
        if options.docs:
            report.replace("scale", scale_report.page(measured, reply), PAGE)
    except (Failed, TimeoutError) as error:
        print(f"bench: {error or 'TimeoutError'}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(OUT / "scale" / "data", ignore_errors=True)
    return 0


def read(file: Path) -> Costed:
    """What a run wrote. Raises `Failed` if there is nothing."""
    try:
        found = json.loads(file.read_text())
        levels = [
            Costs(level["held"], **{name: Cost(**level[name]) for name in OPERATIONS}) for level in found["levels"]
        ]
        return Costed(levels, [Stored(**one) for one in found["stored"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{file} has no costs: run this program without --again") from error


def read_reply(file: Path) -> Reply | None:
    """The cost of a reply from results.json; None if a figure is missing."""
    if not file.exists():
        return None
    figures = {figure["name"]: figure for figure in json.loads(file.read_text())}
    try:
        return Reply(
            rest_calls=figures["rest_calls_64_at_once"]["value"],
            transactions=figures["transactions_64_at_once"]["value"],
            wal=figures["wal"]["detail"]["ours"] * 1000,
            cpu=figures["replies_a_second"]["detail"]["project_cpu_ms_a_reply"]["Postgres"] / 1000,
        )
    except KeyError:
        return None


async def _measure(*, quick: bool) -> Costed:
    async with World(OUT / "scale", quick=quick, say=print) as world:
        project = await world.project(realtime=False)
        url = project.environment["SUPABASE_DB_URL"]
        async with project.database() as db, database.service_role(url) as service, database.no_autovacuum(db):
            user_id = await database.create_user(db)
            await database.add_finished(db, user_id, 10_000)
            meter = Meter(project, db, service)
            await database.add_workers(db, 1, slots=SLOTS, holding=MANY)
            await Level(meter, user_id, 20).measure(0)  # warms up: plans are made, pages are read
            await database.clear_queue(db)
            levels = []
            for workers in WORKERS:
                print(f"{workers:,} workers, {workers * MANY:,} jobs held …", flush=True)
                await database.add_workers(db, workers, slots=SLOTS, holding=MANY)
                calls = CALLS if workers < 1_000 and not quick else CALLS_OF_LARGE_FLEETS
                levels.append(await Level(meter, user_id, calls).measure(workers * MANY))
                await database.clear_queue(db)
            await database.add_workers(db, 1, slots=SLOTS, holding=0)
            stored = [await _stored(db, service, user_id, history) for history in HISTORIES]
            return Costed(levels, stored)


async def _stored(db: Database, service: Database, user_id: str, history: int) -> Stored:
    """What questions with `history` bytes of earlier messages, and their replies, leave in `realtime.messages`."""
    text = "".join(words(REPLY_TOKENS, structured=False))
    await db.execute("truncate realtime.messages")
    for _ in range(STORED_ROUNDS):
        sessions = await database.add_finished(db, user_id, MANY * HISTORY, per_session=HISTORY)
        async with database.bypassing_triggers(db):
            await db.execute(
                "update public.messages set content = left(%s, %s) where session_id = any (%s::uuid[])",
                (text, history // HISTORY, sessions),
            )
        for session in sessions:  # several in one statement are given to workers one step later
            await database.ask(db, [(session, "a question")])
        cursor = await db.execute("select question_id::text, attempt, worker from bridge.jobs where worker is not null")
        jobs = await cursor.fetchall()
        if len(jobs) != MANY:
            raise Failed(f"of {MANY} questions, workers were given {len(jobs)}")
        results = [
            {"question_id": job["question_id"], "attempt": job["attempt"], "outcome": "done", "content": "a reply"}
            for job in jobs
        ]
        await service.execute("select public.bridge_finish(%s, %s, true)", (jobs[0]["worker"], Jsonb(results)))
    questions = STORED_ROUNDS * MANY
    cursor = await db.execute(
        "select split_part(topic, ':', 1) as topic, count(*) as rows, sum(octet_length(payload::text)) as bytes"
        " from realtime.messages group by 1 order by 1"
    )
    topics = await cursor.fetchall()
    row = await one_row(
        db,
        "select sum(pg_total_relation_size(p.inhrelid))::float8 as bytes from pg_catalog.pg_inherits p"
        " where p.inhparent = 'realtime.messages'::regclass",
    )
    rows = {topic["topic"]: topic["rows"] / questions for topic in topics}
    payloads = {topic["topic"]: float(topic["bytes"]) / questions for topic in topics}
    return Stored(history, rows, payloads, row["bytes"] / questions)


class Meter:
    """Measures the cost of serial calls on one connection of the service role."""

    def __init__(self, project: Project, db: Database, service: Database) -> None:
        self.db = db
        self.service = service
        self._project = project
        self._idle = 0.0

    async def start(self) -> None:
        """Measure the round trip of an empty call, which is subtracted from the others."""
        self._idle = 0.0
        self._idle = (await self.cost([lambda: self.service.execute("select 1")] * 100, self.service)).seconds

    async def cost(self, calls: Sequence[Call], on: Database) -> Cost:
        """The median of their times, and the means of the backend's CPU and of the log without full-page images."""
        backend = psutil.Process(on.info.backend_pid)
        taken = []
        begin, before = await waldump.position(self.db), cpu_seconds(backend)
        for call in calls:
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
        cpu, end = cpu_seconds(backend) - before, await waldump.position(self.db)
        wal = (await waldump.written(self._project, begin, end)).records * 1000
        return Cost(max(0.0, statistics.median(taken) - self._idle), cpu / len(calls), wal / len(calls))


def mean(costs: Sequence[Cost]) -> Cost:
    """The median of their times, and the means of CPU and log."""
    cpu, wal = (statistics.fmean(values) for values in ([cost.cpu for cost in costs], [cost.wal for cost in costs]))
    return Cost(statistics.median(cost.seconds for cost in costs), cpu, wal)


class Level:
    """All calls while the fleet holds a number of jobs, as the worker `bench` with MANY of them."""

    def __init__(self, meter: Meter, user_id: str, calls: int) -> None:
        self._meter = meter
        self._user_id = user_id
        self._calls = calls
        self._text = "".join(words(REPLY_TOKENS, structured=False))
        self._seq = 0

    async def measure(self, held: int) -> Costs:
        """Make each call often enough; `held` is only recorded."""
        meter, calls, batches = self._meter, self._calls, max(4, self._calls // 10)
        await meter.start()
        await database.let_hear(meter.db, True)
        dispatch = mean([await self._dispatch(meter) for _ in range(max(1, calls // GIVEN_AT_ONCE))])
        await database.let_hear(meter.db, False)
        ask = await meter.cost([self._ask(session) for session in await self._sessions(calls)], meter.db)
        one: list[Job] = []
        claim_one = await meter.cost([self._claim(1, one) for _ in range(calls)], meter.service)
        finish_one = await meter.cost([self._finish([job]) for job in one], meter.service)
        many: list[Job] = []
        await database.ask(meter.db, [(one, "a question") for one in await self._sessions(batches * MANY)])
        claim_many = await meter.cost([self._claim(MANY, many) for _ in range(batches)], meter.service)
        parts = [many[at : at + MANY] for at in range(0, len(many), MANY)]
        finish_many = await meter.cost([self._finish(part) for part in parts[1:]], meter.service)
        kept = parts[0]  # these stay this worker's jobs
        costs = Costs(
            held,
            dispatch=dispatch,
            ask=ask,
            claim_nothing=await meter.cost([self._claim(MANY, [], kept)] * calls, meter.service),
            claim_one=claim_one,
            claim_many=claim_many,
            beat=await meter.cost([self._beat(kept, text=False)] * calls, meter.service),
            checkpoint_one=await meter.cost([self._beat(kept[:1], text=True)] * calls, meter.service),
            checkpoint_many=await meter.cost([self._beat(kept, text=True)] * calls, meter.service),
            finish_one=finish_one,
            finish_many=finish_many,
        )
        await self._finish(kept)()
        return costs

    async def _dispatch(self, meter: Meter) -> Cost:
        """The cost of inserts that give questions to workers, which do not keep them."""
        sessions = await self._sessions(GIVEN_AT_ONCE)
        cost = await meter.cost([self._ask(session) for session in sessions], meter.db)
        async with database.bypassing_triggers(meter.db):
            cursor = await meter.db.execute(
                "delete from bridge.jobs where session_id = any (%s::uuid[]) and worker is not null", (sessions,)
            )
        if cursor.rowcount != len(sessions):
            raise Failed(f"of {len(sessions)} questions, workers were given {cursor.rowcount}")
        return cost

    async def _sessions(self, count: int) -> list[str]:
        return await database.open_sessions(self._meter.db, self._user_id, count)

    def _ask(self, session: str) -> Call:
        return lambda: database.ask(self._meter.db, [(session, "a question")])

    def _claim(self, slots: int, into: list[Job], kept: Sequence[Job] = ()) -> Call:
        async def claim() -> None:
            holding = [job["question_id"] for job in (*kept, *into)]
            row = await one_row(
                self._meter.service,
                "select public.bridge_claim(%s, %s, %s::uuid[], 30, 100, '{Chat}', capacity => 0) as claim",
                (WORKER, slots, holding),
            )
            jobs = row["claim"]["jobs"]
            if len(jobs) != (0 if kept else slots):
                raise Failed(f"a claim for {slots} returned {len(jobs)}")
            into.extend(jobs)

        return claim

    def _beat(self, jobs: Sequence[Job], *, text: bool) -> Call:
        async def beat() -> None:
            self._seq += 1
            checkpoint = {"seq": self._seq, "content": self._text[: len(self._text) // 2 + self._seq]} if text else {}
            await self._batch("select public.bridge_beat(%s, %s) as answer", jobs, checkpoint)

        return beat

    def _finish(self, jobs: Sequence[Job]) -> Call:
        result = {"outcome": "done", "content": self._text, "seq": 1_000_000}
        return lambda: self._batch("select public.bridge_finish(%s, %s, true) as answer", jobs, result)

    async def _batch(self, call: LiteralString, jobs: Sequence[Job], fields: Job) -> None:
        items = [{"question_id": job["question_id"], "attempt": job["attempt"], **fields} for job in jobs]
        row = await one_row(self._meter.service, call, (WORKER, Jsonb(items)))
        states = row["answer"]["results"].values()
        if set(states) != {"ok"} or len(states) != len(items):
            raise Failed(f"{call}, {len(items)} jobs: {sorted(states)}")


if __name__ == "__main__":
    sys.exit(main())
