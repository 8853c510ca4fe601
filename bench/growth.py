"""`python -m bench.growth`: what a reply costs when there is more of something, and which figures grow with it.

The series are messages in the tables, sessions, workers, concurrent streams, and minutes of even load. Each size is
measured in a few rounds; a figure is their median. The program prints a table and a line for each figure, and writes
bench/out/growth.json and a plot for each series.
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

from bench import database, growth_report, report
from bench.database import Database, configure, one_row, wal_bytes
from bench.growth_report import Level
from bench.meter import Meter, Round
from bench.processes import OUT, ROOT, Failed
from bench.world import PACES, Project, World, first_delta, progress, reply_ended, unique
from tests.support.users import Ear, Person

HISTORY = (1_000, 10_000, 100_000, 1_000_000)
SESSIONS = (1, 10, 100, 1_000, 10_000)
WORKERS = (1, 2, 4, 8)
STREAMS = (1, 8, 64, 256, 512)
MINUTES = (5, 10, 20, 30)
ROUNDS = 3
ASKED = 20  # questions a round, one after the other
WARM = 150  # sessions that are asked in before: more than a connection has channels
LISTENED = 40  # of the streams have a subscriber
ARRIVE_SECONDS = 2.0  # over which the questions of many streams arrive
STREAMED = "tokens=40 delay=0.1"  # 512 streams at 80 tokens a second are more than the demo model can send
SETTLE_SECONDS = 0.6  # until postgres_changes has delivered a question, too
REPLY = "tokens=20"
CONVERSATIONS = 12  # at once, under even load
EXCHANGES = 5  # a conversation: then the next one begins in a new session
TOKENS = (80, 400)  # of a reply under even load: 1.3 s to 5.3 s


async def history(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Finished messages in the tables, half of them in the session that asks."""
    project = await world.project()
    async with world.person(project) as person, project.database() as db:
        stored = 0
        for size in sizes:
            # the rows that are filled in are not published
            await db.execute("alter publication supabase_realtime drop table public.messages")
            await database.add_finished(db, person.id, size // 2, per_session=size // 2)
            await database.add_finished(db, person.id, size // 2 - stored)
            await db.execute("alter publication supabase_realtime add table public.messages")
            await db.execute("vacuum analyze public.messages")
            stored = size
            row = await one_row(db, "select id::text from public.sessions order by last_ordinal desc limit 1")
            session = row["id"]
            async with _metered(world, project, db) as meter:
                ears = {session: await person.listen(f"session:{session}")}
                await _in_turn(person, ears, [session] * 5)
                rounds = [await _round(meter, _in_turn(person, ears, [session] * ASKED)) for _ in range(ROUNDS)]
                # every page is now written whole when it is touched for the first time
                await configure(db, full_page_writes="on")
                await db.execute("checkpoint")
                before = await wal_bytes(db)
                await _in_turn(person, ears, [session] * ASKED)
                written = (await wal_bytes(db) - before) / 1000 / ASKED
                yield Level(size, rounds, {"WAL after a checkpoint": written})
        await db.execute("truncate public.sessions cascade")


async def sessions(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Sessions, asked in at random. A worker keeps 90 channels a connection; beyond that, a reply first joins one."""
    project, random = await world.project(), Random(1)
    for size in sizes:
        async with (
            world.person(project) as person,
            project.database() as db,
            _metered(world, project, db) as meter,
        ):
            all_ = await database.open_sessions(db, person.id, size)
            chosen = random.sample(all_, min(size, ROUNDS * ASKED))
            ears = {session: await person.listen(f"session:{session}") for session in chosen}
            # the sessions asked in below come first: if there are more than channels, theirs are left again
            for session in chosen + random.sample(all_, min(size, WARM)):
                await database.replies_done(db, await database.ask(db, [(session, unique("tokens=4"))]))
            asking = [session for _ in range(ROUNDS * ASKED) for session in chosen][: ROUNDS * ASKED]
            parts = [asking[at : at + ASKED] for at in range(0, len(asking), ASKED)]
            yield Level(size, [await _round(meter, _in_turn(person, ears, part)) for part in parts])
            await db.execute("truncate public.sessions cascade")


async def workers(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Workers, of which one is handed the question."""
    project = await world.project()
    for size in sizes:
        async with (
            world.person(project) as person,
            project.database() as db,
            _metered(world, project, db, workers=size) as meter,
        ):
            (session,) = await database.open_sessions(db, person.id, 1)
            ears = {session: await person.listen(f"session:{session}")}
            await _in_turn(person, ears, [session] * 5)
            asking = [session] * (ASKED // 2)
            rounds = [await _round(meter, _in_turn(person, ears, asking, pause=SETTLE_SECONDS)) for _ in range(ROUNDS)]
            yield Level(size, rounds)


async def streams(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Concurrent replies: a realistic delay before the first token, then 10 a second; latency beyond the model's."""
    project = await world.project()
    for size in sizes:
        async with AsyncExitStack() as opened:
            person = await opened.enter_async_context(world.person(project))
            db = await opened.enter_async_context(project.database())
            meter = await opened.enter_async_context(_metered(world, project, db, pace="realistic", concurrency=size))
            all_ = await database.open_sessions(db, person.id, size)
            ears = {session: await person.listen(f"session:{session}") for session in all_[:: -(-size // LISTENED)]}
            await database.replies_done(db, await database.ask(db, [(session, unique("tokens=4")) for session in all_]))
            yield Level(size, [await _round(meter, _together(db, ears, all_)) for _ in range(ROUNDS)])


async def minutes(world: World, sizes: Sequence[int]) -> AsyncIterator[Level]:
    """Minutes of even load: 12 conversations on two workers, 80 tokens a second; latency beyond the model's."""
    project = await world.project()
    async with (
        world.person(project) as person,
        project.database() as db,
        _metered(world, project, db, workers=2, pace="realistic", concurrency=CONVERSATIONS) as meter,
    ):
        waits: list[float] = []
        tasks = [asyncio.create_task(_converse(person, db, waits, number)) for number in range(CONVERSATIONS)]

        async def load(length: float) -> tuple[int, list[float]]:
            """Let the conversations go on for a while; raises what broke one of them."""
            waits.clear()
            done, _ = await asyncio.wait(tasks, timeout=length * 60, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return len(waits), waits.copy()

        try:
            passed = sizes[0] / 2
            await load(passed)  # caches and channels fill
            for size in sizes:
                yield Level(size, [await _round(meter, load((size - passed) / ROUNDS)) for _ in range(ROUNDS)])
                passed = size
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# Each series with its sizes, and those of a quick run.
SERIES: dict[str, tuple[Callable[[World, Sequence[int]], AsyncIterator[Level]], Sequence[int], Sequence[int]]] = {
    "history": (history, HISTORY, HISTORY[:3]),
    "sessions": (sessions, SESSIONS, SESSIONS[:3]),
    "workers": (workers, WORKERS, WORKERS[:2]),
    "streams": (streams, STREAMS, STREAMS[:3]),
    "minutes": (minutes, MINUTES, (1, 2)),
}


@asynccontextmanager
async def _metered(
    world: World, project: Project, db: Database, *, workers: int = 1, pace: str = "no delay", concurrency: int = 32
) -> AsyncIterator[Meter]:
    """Workers behind a counting proxy, without sweeps and full-page images: those depend on the clock."""
    model = await world.model(pace)
    async with AsyncExitStack() as opened:
        proxy = await opened.enter_async_context(world.counted(project))
        programs = [
            await opened.enter_async_context(
                world.worker(project, model, url=proxy.url, sweep_seconds=300, concurrency=concurrency)
            )
            for _ in range(workers)
        ]
        await configure(db, full_page_writes="off")
        yield Meter(project, programs, proxy, db)
        await configure(db, full_page_writes="on")


async def _round(meter: Meter, work: Awaitable[tuple[int, list[float]]]) -> Round:
    await meter.start()
    replies, latencies = await work
    return await meter.stop(replies, latencies)


async def _in_turn(
    person: Person, ears: dict[str, Ear], asking: Sequence[str], *, pause: float = 0.0
) -> tuple[int, list[float]]:
    """Ask in these sessions one after the other; returns milliseconds to the first words."""
    waits = []
    for session in asking:
        ear, began = ears[session], time.monotonic()
        question = await person.ask(session, unique(REPLY))
        waits.append((await first_delta(ear, question) - began) * 1000)
        await reply_ended(ear, question)
        await asyncio.sleep(pause)
    return len(asking), waits


async def _together(db: Database, ears: dict[str, Ear], all_: Sequence[str]) -> tuple[int, list[float]]:
    """Ask in every session within ARRIVE_SECONDS; returns milliseconds to the first words of each subscriber."""
    steps = min(len(all_), 20)
    asked: dict[str, tuple[str, float]] = {}
    due = time.monotonic()
    for step in range(steps):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += ARRIVE_SECONDS / steps
        # in the order of `ask`, to match the ids
        part, began = sorted(all_[step::steps]), time.monotonic()
        ids = await database.ask(db, [(session, unique(STREAMED)) for session in part])
        asked |= {session: (question, began) for session, question in zip(part, ids, strict=True)}
    await database.replies_done(db, [question for question, _ in asked.values()])
    waits = []
    for session, ear in ears.items():
        question, began = asked[session]
        await reply_ended(ear, question)
        waits.append((await first_delta(ear, question) - began - PACES["realistic"][0]) * 1000)
    return len(all_), waits


async def _converse(person: Person, db: Database, waits: list[float], number: int) -> None:
    """One conversation after the other, until cancelled; raises `Failed` if a delta of a reply is missing."""
    random = Random(number)
    await asyncio.sleep(number * 0.25)
    left = ""
    while True:
        (session,) = await database.open_sessions(db, person.id, 1)
        ear = await person.listen(f"session:{session}")
        # not earlier: without any channel the client closes its socket
        if (channel := person.client.realtime.channels.get(f"realtime:session:{left}")) is not None:
            await person.client.remove_channel(channel)
        left = session
        for _ in range(EXCHANGES):
            began = time.monotonic()
            question = await person.ask(session, unique(f"tokens={random.randint(*TOKENS)}"))
            first = await first_delta(ear, question) - began
            await reply_ended(ear, question)
            numbers = [delta["seq"] for delta in ear.of("delta", reply_to=question)]
            if numbers != list(range(1, len(numbers) + 1)):
                raise Failed(f"a reply has a gap in its deltas: {numbers}")
            waits.append((first - PACES["realistic"][0]) * 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 if a series failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description="Measure which costs grow with what.")
    parser.add_argument(
        "--only", nargs="+", choices=SERIES, default=[name for name in SERIES if name != "minutes"],
        help="only these series; `minutes`, half an hour, runs only if named",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the smaller sizes")
    parser.add_argument("--json", type=Path, default=OUT / "growth.json", metavar="FILE", help="results file")
    parser.add_argument("--docs", action="store_true", help="also update docs/performance.md and its plots")
    parser.add_argument("--again", action="store_true", help="show the results in FILE without measuring")
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
    titled = {name: ((SERIES[name][0].__doc__ or "").strip(), levels) for name, levels in series.items()}
    for name, (what, levels) in titled.items():
        print(f"\n{name}: {what}\n\n{growth_report.terminal(name, levels)}")
    from bench import plots  # matplotlib takes a second to import

    for folder in (OUT, *([ROOT / "docs" / "images"] if options.docs else [])):
        for name, levels in series.items():
            plots.growth(name, [{"size": level.size, **level.figures()} for level in levels], folder)
    if options.docs:
        report.replace("growth", growth_report.page(titled))
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 2 if failed else 0


async def _measure(
    names: Sequence[str], file: Path, found: dict[str, list[dict[str, Any]]], *, quick: bool
) -> list[str]:
    say = progress()
    failed = []
    shutil.rmtree(OUT / "growth", ignore_errors=True)
    for name in names:
        run, full, smaller = SERIES[name]
        levels: list[dict[str, Any]] = []
        say(f"{name} …")
        try:
            async with World(OUT / "growth", quick=quick, say=say, name=name) as world:
                async for level in run(world, smaller if quick else full):
                    levels.append(level.record())
                    shown = ", ".join(f"{what} {value:.3g}" for what, value in level.figures().items())
                    say(f"  {level.size:,}: {shown}")
        except (Failed, TimeoutError) as error:
            say(f"  ✗ {name} could not be measured: {error or type(error).__name__}")
            failed.append(name)
        if levels:
            found[name] = levels
            report.save(file, found)
    return failed


if __name__ == "__main__":
    sys.exit(main())
