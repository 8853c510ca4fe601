"""`python -m bench.scale`: what a fleet of 1, 10, 100 and 1,000 workers asks of one project, and what is full first.

It measures what no other benchmark has, the database's time of each call with more and more jobs in hand of the whole
fleet, and puts that into the model of `bench/fleet.py`, with the cost of a reply from bench/out/results.json if
`make bench` has been run. It prints tables and writes bench/out/scale.json.
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

from bench import backlog, document, scale_report
from bench.backlog import Database
from bench.claim import clear, no_autovacuum, service_role, user
from bench.fleet import MANY, OPERATIONS, Cost, Costs, Reply
from bench.processes import ROOT, Failed
from bench.prose import words
from bench.wal import Log
from bench.world import World

OUT = ROOT / "bench" / "out"
PAGE = ROOT / "docs" / "scale.md"
WORKER = "bench"
WORKERS = (1, 10, 100, 1_000)
CALLS = 200  # of each kind; of those that carry MANY jobs a tenth
CALLS_OF_LARGE_FLEETS = 40  # from 1,000 workers on
REPLY_TOKENS = 1_000
Call = Callable[[], Awaitable[Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code: 0, or 2 if it could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description="What one project and many workers can carry."
    )
    parser.add_argument("--json", type=Path, default=OUT / "scale.json", metavar="FILE", help="where the costs go")
    parser.add_argument("--docs", action="store_true", help="write the tables to docs/scale.md, too")
    parser.add_argument("--again", action="store_true", help="show what FILE holds; measure nothing")
    options = parser.parse_args(arguments)
    try:
        if not options.again:
            found = asyncio.run(_measure())
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
        costs = read(options.json)
        reply = read_reply(OUT / "results.json")
        for title, rows in scale_report.tables(costs, reply).items():
            print(f"\n{title}\n{scale_report.terminal(rows)}")
        if options.docs:
            document.put("scale", scale_report.page(costs, reply), PAGE)
    except (Failed, TimeoutError) as error:
        print(f"bench: {error or 'TimeoutError'}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(OUT / "scale" / "data", ignore_errors=True)
    return 0


def read(file: Path) -> list[Costs]:
    """The costs that a run wrote. Raises `Failed` if there are none."""
    try:
        levels = json.loads(file.read_text())
        return [Costs(level["held"], **{name: Cost(**level[name]) for name in OPERATIONS}) for level in levels]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failed(f"{file} holds no costs: run it without --again") from error


def read_reply(file: Path) -> Reply | None:
    """The cost of a reply from results.json; None if a figure of it is missing."""
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


async def _measure() -> list[Costs]:
    async with World(OUT / "scale", quick=False, say=print) as world:
        project = await world.project(realtime=False)
        async with project.database() as db, service_role(project) as service, no_autovacuum(db):
            user_id = await user(db)
            await backlog.finished(db, user_id, 10_000)
            meter = Meter(db, service, Log(project))
            await Level(meter, user_id, 20).measure(0)  # plans are made, pages are read
            found = []
            for workers in WORKERS:
                print(f"{workers:,} workers, {workers * MANY:,} jobs in hand …", flush=True)
                await fill(db, user_id, workers - 1)
                calls = CALLS if workers < 1_000 else CALLS_OF_LARGE_FLEETS
                found.append(await Level(meter, user_id, calls).measure(workers * MANY))
                await clear(db)
            return found


async def fill(db: Database, user_id: str, workers: int) -> None:
    """So many other workers, alive, each with MANY jobs in hand claimed within the last 12 s; past the triggers.

    Their leases do not end while it is measured.
    """
    await db.execute("delete from bridge.workers")
    await db.execute(
        "insert into bridge.workers (name, lease, seen_at)"
        " select 'other ' || n, interval '30 seconds', now() + interval '1 hour' from generate_series(1, %s) n",
        (workers,),
    )
    async with db.transaction():
        await db.execute("set local session_replication_role = replica")
        await db.execute(
            """
            insert into bridge.jobs (question_id, session_id, user_id, ordinal, attempt, run_at, worker, lease_until)
            select gen_random_uuid(), gen_random_uuid(), %s, 2, 1, now() - random() * interval '12 seconds',
                   'other ' || n, now() + interval '1 hour' + random() * interval '7 seconds'
              from generate_series(1, %s) n, generate_series(1, %s)
            """,
            (user_id, workers, MANY),
        )
    await db.execute("vacuum analyze bridge.jobs")
    await db.execute("vacuum analyze bridge.workers")


class Meter:
    """What calls cost, one after the other on one connection of the service role."""

    def __init__(self, db: Database, service: Database, log: Log) -> None:
        self.db = db
        self.service = service
        self._log = log
        self._idle = 0.0

    async def start(self) -> None:
        """Learn what a call costs that does nothing: it is taken off the others."""
        self._idle = 0.0
        self._idle = (await self.cost([lambda: self.service.execute("select 1")] * 100, self.service)).seconds

    async def cost(self, calls: Sequence[Call], on: Database) -> Cost:
        """The median of their times; the mean of the backend's CPU, and of the log's records without whole pages."""
        backend = psutil.Process(on.info.backend_pid)
        taken = []
        begin, before = await self._log.position(self.db), _cpu(backend)
        for call in calls:
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
        cpu, end = _cpu(backend) - before, await self._log.position(self.db)
        wal = (await self._log.written(begin, end)).records * 1000 if end != begin else 0.0
        return Cost(max(0.0, statistics.median(taken) - self._idle), cpu / len(calls), wal / len(calls))


class Level:
    """All calls at one number of jobs in hand of the fleet, as the worker `bench` with MANY of them."""

    def __init__(self, meter: Meter, user_id: str, calls: int) -> None:
        self._meter = meter
        self._user_id = user_id
        self._calls = calls
        self._text = "".join(words(REPLY_TOKENS, structured=False))
        self._seq = 0

    async def measure(self, held: int) -> Costs:
        """Do each call often enough; `held` is noted."""
        meter, calls, batches = self._meter, self._calls, max(4, self._calls // 10)
        await meter.start()
        ask = await meter.cost([self._asking(session) for session in await self._sessions(calls)], meter.db)
        one: list[dict[str, Any]] = []
        claim_one = await meter.cost([self._claiming(1, one) for _ in range(calls)], meter.service)
        finish_one = await meter.cost([self._finishing([job]) for job in one], meter.service)
        many: list[dict[str, Any]] = []
        await self._ask_many(batches * MANY)
        claim_many = await meter.cost([self._claiming(MANY, many) for _ in range(batches)], meter.service)
        parts = [many[at : at + MANY] for at in range(0, len(many), MANY)]
        finish_many = await meter.cost([self._finishing(part) for part in parts[1:]], meter.service)
        hand = parts[0]  # is kept, and counts as this worker's
        costs = Costs(
            held,
            ask=ask,
            claim_nothing=await meter.cost([self._claiming(MANY, [], hand)] * calls, meter.service),
            claim_one=claim_one,
            claim_many=claim_many,
            beat=await meter.cost([self._beating(hand, text=False)] * calls, meter.service),
            checkpoint_one=await meter.cost([self._beating(hand[:1], text=True)] * calls, meter.service),
            checkpoint_many=await meter.cost([self._beating(hand, text=True)] * calls, meter.service),
            finish_one=finish_one,
            finish_many=finish_many,
        )
        await self._finishing(hand)()
        return costs

    async def _sessions(self, count: int) -> list[str]:
        return await backlog.open_sessions(self._meter.db, self._user_id, count)

    async def _ask_many(self, count: int) -> None:
        await backlog.ask(self._meter.db, [(session, "a question") for session in await self._sessions(count)])

    def _asking(self, session: str) -> Call:
        return lambda: backlog.ask(self._meter.db, [(session, "a question")])

    def _claiming(self, slots: int, into: list[dict[str, Any]], hand: Sequence[dict[str, Any]] = ()) -> Call:
        async def claim() -> None:
            holding = [job["question_id"] for job in (*hand, *into)]
            cursor = await self._meter.service.execute(
                "select public.bridge_claim(%s, %s, %s::uuid[], 30, 100) as claim", (WORKER, slots, holding)
            )
            row: Any = await cursor.fetchone()
            jobs = row["claim"]["jobs"]
            if len(jobs) != (0 if hand else slots):
                raise Failed(f"a claim for {slots} got {len(jobs)}")
            into.extend(jobs)

        return claim

    def _beating(self, jobs: Sequence[dict[str, Any]], *, text: bool) -> Call:
        async def beat() -> None:
            self._seq += 1
            begun = {"seq": self._seq, "content": self._text[: len(self._text) // 2 + self._seq]} if text else {}
            items = [{"question_id": job["question_id"], "attempt": job["attempt"], **begun} for job in jobs]
            await self._answered("select public.bridge_beat(%s, %s) as answer", items)

        return beat

    def _finishing(self, jobs: Sequence[dict[str, Any]]) -> Call:
        async def finish() -> None:
            result = {"outcome": "done", "content": self._text, "seq": 1_000_000}
            items = [{"question_id": job["question_id"], "attempt": job["attempt"], **result} for job in jobs]
            await self._answered("select public.bridge_finish(%s, %s) as answer", items)

        return finish

    async def _answered(self, call: LiteralString, items: list[dict[str, Any]]) -> None:
        cursor = await self._meter.service.execute(call, (WORKER, Jsonb(items)))
        row: Any = await cursor.fetchone()
        states = row["answer"]["results"].values()
        if set(states) != {"ok"} or len(states) != len(items):
            raise Failed(f"{call}, {len(items)} jobs: {sorted(states)}")


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
