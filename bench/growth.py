"""`python -m bench.growth`: what a reply costs when there is more of something, and what of it grows.

Four series: messages in the tables, sessions, workers, streams at once. Each size is measured in a few rounds, and a
figure is their median. It prints a table and a line about every figure that grows, and writes bench/out/growth.json
and a plot a series.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from bench import backlog
from bench.backlog import Database
from bench.growth_report import Level, document, table
from bench.meter import Meter, Round
from bench.processes import ROOT, Failed
from bench.world import PACES, Project, World, heard_of, unique
from tests.support.users import Ear, Person

OUT = ROOT / "bench" / "out"
HISTORY = (1_000, 10_000, 100_000, 1_000_000)
SESSIONS = (1, 10, 100, 1_000, 10_000)
WORKERS = (1, 2, 4, 8)
STREAMS = (1, 8, 64, 256, 512)
QUICK = {"history": HISTORY[:3], "sessions": SESSIONS[:3], "workers": WORKERS[:2], "streams": STREAMS[:3]}
ROUNDS = 3
ASKED = 20  # questions a round, one after the other
WARM = 150  # sessions asked in before: more than a connection has channels
LISTENED = 40  # of the streams have a subscriber
ARRIVE_SECONDS = 2.0  # over which the questions of many streams come
STREAMED = "tokens=40 delay=0.1"  # 512 streams at 80 tokens a second are more than the demo model can say
SETTLE_SECONDS = 0.6  # until postgres_changes has told of a question too
REPLY = "tokens=20"


async def history(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Finished messages in the tables, half of them in the session that asks."""
    project = await world.project()
    async with world.person(project) as person, project.database() as db:
        stored = 0
        for size in sizes:
            # nobody follows what is filled in
            await db.execute("alter publication supabase_realtime drop table public.messages")
            await backlog.finished(db, person.id, size // 2, a_session=size // 2)
            await backlog.finished(db, person.id, size // 2 - stored)
            await db.execute("alter publication supabase_realtime add table public.messages")
            await db.execute("vacuum analyze public.messages")
            stored = size
            cursor = await db.execute("select id::text from public.sessions order by last_ordinal desc limit 1")
            (session,) = [row["id"] for row in await cursor.fetchall()]
            async with _metered(world, project, db) as meter:
                ear = await person.listen(f"session:{session}")
                await _in_turn(person, {session: ear}, [session] * 5)
                rounds = [
                    await _round(meter, _in_turn(person, {session: ear}, [session] * ASKED)) for _ in range(ROUNDS)
                ]
                yield Level(size, rounds, {"WAL after a checkpoint": await _after_checkpoint(db, person, ear, session)})
        await db.execute("truncate public.sessions cascade")


async def sessions(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Sessions that ask by chance. A worker keeps 90 channels a connection: beyond, a reply joins one first."""
    project, random = await world.project(), Random(1)
    for size in sizes:
        async with (
            world.person(project) as person,
            project.database() as db,
            _metered(world, project, db) as meter,
        ):
            all_ = await backlog.open_sessions(db, person.id, size)
            chosen = random.sample(all_, min(size, ROUNDS * ASKED))
            ears = {session: await person.listen(f"session:{session}") for session in chosen}
            # whoever asks below comes first and is pushed out again, if there are more than channels
            warm = chosen + random.sample(all_, min(size, WARM))
            for session in warm:
                await backlog.only_done(db, await backlog.ask(db, [(session, unique("tokens=4"))]))
            asking = [session for _ in range(ROUNDS * ASKED) for session in chosen][: ROUNDS * ASKED]
            parts = [asking[at : at + ASKED] for at in range(0, len(asking), ASKED)]
            rounds = [await _round(meter, _in_turn(person, ears, part)) for part in parts]
            yield Level(size, rounds)
            await db.execute("truncate public.sessions cascade")


async def workers(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Workers that all hear of the same question."""
    project = await world.project()
    for size in sizes:
        async with (
            world.person(project) as person,
            project.database() as db,
            _metered(world, project, db, workers=size) as meter,
        ):
            (session,) = await backlog.open_sessions(db, person.id, 1)
            ears = {session: await person.listen(f"session:{session}")}
            await _in_turn(person, ears, [session] * 5)
            rounds = [
                await _round(meter, _in_turn(person, ears, [session] * (ASKED // 2), pause=SETTLE_SECONDS))
                for _ in range(ROUNDS)
            ]
            yield Level(size, rounds)


async def streams(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Replies at once, at a realistic pace to the first token and 10 a second then; latency beyond the model's."""
    project = await world.project()
    for size in sizes:
        async with AsyncExitStack() as opened:
            person = await opened.enter_async_context(world.person(project))
            db = await opened.enter_async_context(project.database())
            meter = await opened.enter_async_context(_metered(world, project, db, pace="realistic", concurrency=size))
            all_ = await backlog.open_sessions(db, person.id, size)
            ears = {session: await person.listen(f"session:{session}") for session in all_[:: -(-size // LISTENED)]}
            await backlog.only_done(db, await backlog.ask(db, [(session, unique("tokens=4")) for session in all_]))
            rounds = [await _round(meter, _together(db, ears, all_)) for _ in range(ROUNDS)]
            yield Level(size, rounds)


SERIES: dict[str, tuple[Callable[[World, Sequence[int]], AsyncIterator[Level]], Sequence[int]]] = {
    "history": (history, HISTORY),
    "sessions": (sessions, SESSIONS),
    "workers": (workers, WORKERS),
    "streams": (streams, STREAMS),
}


@asynccontextmanager
async def _metered(
    world: World, project: Project, db: Database, *, workers: int = 1, pace: str = "no delay", concurrency: int = 32
) -> AsyncIterator[Meter]:
    """Workers behind a counting proxy, which do not sweep: that goes by the clock and not by the reply.

    Whole pages in the log after a checkpoint go by the clock, too, and are left out.
    """
    model = await world.model(pace)
    async with AsyncExitStack() as opened:
        proxy = await opened.enter_async_context(world.counted(project))
        programs = [
            await opened.enter_async_context(
                world.worker(project, model, url=proxy.url, sweep_seconds=300, concurrency=concurrency)
            )
            for _ in range(workers)
        ]
        await _whole_pages(db, "off")
        yield Meter(project, programs, proxy, db)
        await _whole_pages(db, "on")


async def _whole_pages(db: Database, value: str) -> None:
    await db.execute(f"alter system set full_page_writes = {value}")
    await db.execute("select pg_reload_conf()")


async def _round(meter: Meter, work: Awaitable[tuple[int, list[float]]]) -> Round:
    await meter.start()
    replies, latencies = await work
    return await meter.stop(replies, latencies)


async def _in_turn(
    person: Person, ears: dict[str, Ear], asking: Sequence[str], *, pause: float = 0.0
) -> tuple[int, list[float]]:
    """Ask in these sessions, one after the other; give milliseconds to the first words."""
    waits = []
    for session in asking:
        ear, began = ears[session], time.monotonic()
        message_id = await person.ask(session, unique(REPLY))
        await heard_of(ear, "delta", reply_to=message_id)
        waits.append((_heard(ear, message_id) - began) * 1000)
        await heard_of(ear, "message", reply_to=message_id, status="done")
        await asyncio.sleep(pause)
    return len(asking), waits


async def _together(db: Database, ears: dict[str, Ear], all_: Sequence[str]) -> tuple[int, list[float]]:
    """Ask in every session within ARRIVE_SECONDS; give milliseconds to the first words where somebody listens."""
    steps = min(len(all_), 20)
    asked: dict[str, tuple[str, float]] = {}
    due = time.monotonic()
    for step in range(steps):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += ARRIVE_SECONDS / steps
        # in the order that `ask` inserts them, so that the ids fit
        part, began = sorted(all_[step::steps]), time.monotonic()
        ids = await backlog.ask(db, [(session, unique(STREAMED)) for session in part])
        asked |= {session: (message_id, began) for session, message_id in zip(part, ids, strict=True)}
    await backlog.only_done(db, [message_id for message_id, _ in asked.values()])
    waits = []
    for session, ear in ears.items():
        message_id, began = asked[session]
        await heard_of(ear, "message", reply_to=message_id, status="done")
        waits.append((_heard(ear, message_id) - began - PACES["realistic"][0]) * 1000)
    return len(all_), waits


def _heard(ear: Ear, message_id: str) -> float:
    return next(
        at
        for (event, payload), at in zip(ear.heard, ear.times, strict=True)
        if event == "delta" and payload["reply_to"] == message_id
    )


async def _after_checkpoint(db: Database, person: Person, ear: Ear, session: str) -> float:
    """WAL of a reply, in kB, when every page that it touches goes whole into the log."""
    await _whole_pages(db, "on")
    await db.execute("checkpoint")
    before = await _written(db)
    count, _ = await _in_turn(person, {session: ear}, [session] * ASKED)
    return (await _written(db) - before) / 1000 / count


async def _written(db: Database) -> float:
    cursor = await db.execute("select (pg_current_wal_insert_lsn() - '0/0')::float8 as bytes")
    row: Any = await cursor.fetchone()
    return float(row["bytes"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code: 0, or 2 if something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="What grows with what.")
    parser.add_argument("--only", nargs="+", choices=SERIES, default=list(SERIES), help="these series alone")
    parser.add_argument("--quick", action="store_true", help="the smaller sizes")
    parser.add_argument("--json", type=Path, default=OUT / "growth.json", metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write tables and plots to docs/performance.md, too")
    parser.add_argument("--again", action="store_true", help="show and draw what FILE holds; measure nothing")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = json.loads(options.json.read_text()) if options.json.exists() else {}
    failed: list[str] = []
    if not options.again:
        try:
            failed = asyncio.run(_measure(options.only, options.json, found, quick=options.quick))
        except KeyboardInterrupt:
            return 2
        finally:
            shutil.rmtree(OUT / "growth" / "data", ignore_errors=True)
    series = {name: [Level.read(level) for level in found[name]] for name in SERIES if name in found}
    for name, levels in series.items():
        print(f"\n{name}: {(SERIES[name][0].__doc__ or '').strip()}\n\n{table(levels)}")
    from bench import plots  # matplotlib takes a second to import

    for folder in (OUT, *([ROOT / "docs" / "images"] if options.docs else [])):
        for name, levels in series.items():
            plots.growth(name, [level.shown() for level in levels], folder)
    if options.docs:
        document({name: ((SERIES[name][0].__doc__ or "").strip(), levels) for name, levels in series.items()})
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


async def _measure(
    names: Sequence[str], file: Path, found: dict[str, list[dict[str, Any]]], *, quick: bool
) -> list[str]:
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    failed = []
    shutil.rmtree(OUT / "growth", ignore_errors=True)
    for name in names:
        run, sizes = SERIES[name]
        levels: list[dict[str, Any]] = []
        say(f"{name} …")
        try:
            async with World(OUT / "growth" / name, quick=quick, say=say) as world:
                async for level in run(world, QUICK[name] if quick else sizes):
                    levels.append(level.record())
                    said = ", ".join(f"{what} {value:.3g}" for what, value in level.shown().items())
                    say(f"  {said}")
        except (Failed, TimeoutError) as error:
            say(f"  ✗ {name} could not be measured: {error or type(error).__name__}")
            failed.append(name)
        if levels:
            found[name] = levels
            _write(file, found)
    return failed


def _write(file: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())
