"""`python -m bench.steady --minutes 30`: replies at an even load, and whether anything grows meanwhile.

So many streams at once, at a realistic pace, each a conversation of a few questions after which the next one begins
in a new session. Every 10 s it notes what the workers, Postgres and the replies are like, and writes it to
bench/out/steady.json; a run that is interrupted judges what it has. Exit code: 0 all flat, 1 something grew, 2 it could
not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import document
from bench.processes import ROOT, Failed
from bench.report import columns, number
from bench.steady_load import Load, Sampler
from bench.world import World

OUT = ROOT / "bench" / "out"
WARM_UP = 0.15  # of the time, and at most WARM_UP_SECONDS: caches fill, and 90 channels a connection are joined
WARM_UP_SECONDS = 240.0


@dataclass(frozen=True)
class Watched:
    """What is watched: flat if the median of the last third is at most `ratio` × that of the first third + `floor`.

    Without `ratio` it is shown and not judged: it grows with what is stored, or is none of the worker's.
    """

    unit: str
    ratio: float | None = None
    floor: float = 0.0


WATCHED = {
    "worker memory": Watched("MB", 1.05, 1),
    "worker threads": Watched("", 1.0, 1),
    "worker files and sockets": Watched("", 1.0, 4),
    "worker connections": Watched("", 1.0, 4),
    "worker CPU": Watched("% of a core", 1.15, 1),
    "event loop lag p99": Watched("ms", 1.25, 1),
    "Postgres connections": Watched("", 1.0, 2),
    "first delta p50": Watched("ms", 1.15, 2),
    "first delta p95": Watched("ms", 1.25, 5),
    "done p50": Watched("ms", 1.15, 5),
    "done p95": Watched("ms", 1.25, 10),
    "REST calls": Watched("/s", 1.1, 0.5),
    "replies": Watched("/s"),
    "database": Watched("MB"),
    "write-ahead log": Watched("kB/s"),
    "gateway and Realtime memory": Watched("MB"),
    "REST (Lite) memory": Watched("MB"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.steady", description="Replies at an even load.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--streams", type=int, default=12, help="replies at once")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS", help="between two samples")
    parser.add_argument("--json", type=Path, default=OUT / "steady.json", metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write table and plot to docs/performance.md, too")
    parser.add_argument("--again", action="store_true", help="judge and draw what FILE holds; measure nothing")
    options = parser.parse_args(arguments)
    if not options.again:
        try:
            asyncio.run(_measure(options))
        except (Failed, TimeoutError) as error:
            print(f"bench: {error or 'TimeoutError'}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted: what there is so far", file=sys.stderr)
        finally:
            shutil.rmtree(OUT / "steady" / "data", ignore_errors=True)
    return _report(options.json, docs=options.docs)


async def _measure(options: argparse.Namespace) -> None:
    shutil.rmtree(OUT / "steady", ignore_errors=True)
    async with World(OUT / "steady", quick=False, say=print) as world, AsyncExitStack() as opened:
        project, model = await world.project(), await world.model("realistic")
        proxy = await opened.enter_async_context(world.counted(project))
        person = await opened.enter_async_context(world.person(project))
        db = await opened.enter_async_context(project.database())
        workers = []
        for _ in range(options.workers):
            workers.append(
                await opened.enter_async_context(
                    world.worker(project, model, url=proxy.url, concurrency=options.streams, handlers="bench.lag_probe")
                )
            )
        load = Load(person, db)
        # apart from each other, so that they do not ask in step
        streams = [asyncio.create_task(load.run(number * 0.25)) for number in range(options.streams)]
        sampler = Sampler(project, workers, proxy, db, load)
        samples: list[dict[str, float]] = []
        began = due = time.monotonic()
        await sampler.start()
        try:
            while due - began < options.minutes * 60:
                due += options.every
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                for program in (*workers, project.program, model.program):
                    if program.process.returncode is not None:
                        raise Failed(f"{program.name} ended ({program.process.returncode}); its log is {program.log}")
                if broken := next((stream for stream in streams if stream.done()), None):
                    broken.result()  # it never ends but by an error of the benchmark's own
                samples.append({"minutes": (time.monotonic() - began) / 60, **await sampler.sample()})
                write(options, samples, load)
                if len(samples) % 6 == 1:
                    print(_line(samples[-1], load), flush=True)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)


def write(options: argparse.Namespace, samples: list[dict[str, float]], load: Load) -> None:
    """Write what there is so far, as a whole or not at all."""
    found = {
        "streams": options.streams,
        "workers": options.workers,
        "every_seconds": options.every,
        "replies": load.replies,
        "failed": load.failed,
        "replies_with_a_gap": load.gaps,
        "samples": [
            {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in sample.items()}
            for sample in samples
        ],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    partial = options.json.with_suffix(".part")
    partial.write_text(json.dumps(found) + "\n")
    partial.replace(options.json)


@dataclass(frozen=True)
class Course:
    """How one watched thing went after the warm-up."""

    name: str
    unit: str
    first: float
    last: float
    slope: float
    limit: float | None

    @property
    def is_flat(self) -> bool | None:
        """None: it is not judged."""
        return None if self.limit is None else self.last <= self.limit


def courses(samples: Sequence[dict[str, float | None]]) -> list[Course]:
    """Medians of the first and the last third, and the slope an hour by least squares, of all that is watched.

    Raises `Failed` for fewer than nine samples after the warm-up.
    """
    end = samples[-1]["minutes"] or 0.0 if samples else 0.0
    warm = min(end * WARM_UP, WARM_UP_SECONDS / 60)
    settled = [sample for sample in samples if (sample["minutes"] or 0.0) > warm]
    if len(settled) < 9:
        raise Failed(f"{len(settled)} samples after the warm-up are too few to judge")
    found = []
    for name, watched in WATCHED.items():
        points = [(sample["minutes"], sample[name]) for sample in settled]
        known = [(at / 60, value) for at, value in points if at is not None and value is not None]
        if len(known) < 9:
            raise Failed(f"{name}: {len(known)} samples are too few to judge")
        values = [value for _, value in known]
        third = len(values) // 3
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        slope = statistics.linear_regression([at for at, _ in known], values).slope
        limit = None if watched.ratio is None else first * watched.ratio + watched.floor
        found.append(Course(name, watched.unit, first, last, slope, limit))
    return found


def _report(file: Path, *, docs: bool) -> int:
    try:
        found = json.loads(file.read_text())
        all_ = courses(found["samples"])
    except (OSError, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    minutes = found["samples"][-1]["minutes"]
    print(f"\n{_table(all_)}\n")
    lost = found["failed"]
    print(
        f"{found['replies']} replies in {minutes:.0f} minutes, {found['streams']} at once, {found['workers']} workers;"
        f" {len(lost)} not done, {found['replies_with_a_gap']} with a gap in their deltas"
    )
    for line in lost[:5]:
        print(f"  {line}")
    print("first delta and done: beyond what the model takes. Flat: last third ≤ first third × ratio + floor:")
    print("  " + ", ".join(f"{n} {w.ratio:g} + {w.floor:g}" for n, w in WATCHED.items() if w.ratio is not None))
    from bench import plots  # matplotlib takes a second to import

    for folder in (OUT, *([ROOT / "docs" / "images"] if docs else [])):
        plots.steady(found["samples"], {name: watched.unit for name, watched in WATCHED.items()}, folder)
    if docs:
        _document(found, all_)
    grown = [course.name for course in all_ if course.is_flat is False]
    print(f"not flat: {', '.join(grown)}" if grown else "all flat")
    return 1 if grown or lost or found["replies_with_a_gap"] else 0


def _table(all_: Sequence[Course]) -> str:
    rows = [("", "watched", "first third", "last third", "ratio", "limit", "slope an hour")]
    for course in all_:
        mark = {None: "·", True: "✓", False: "✗"}[course.is_flat]
        ratio = course.last / course.first if course.first else math.nan
        limit = "" if course.limit is None else number(course.limit)
        first, slope = f"{number(course.first)} {course.unit}", f"{number(course.slope)} {course.unit}"
        rows.append((mark, course.name, first, number(course.last), f"{ratio:.3f}", limit, slope))
    return columns(rows)


def _document(found: dict[str, Any], all_: Sequence[Course]) -> None:
    lines = [
        f"{found['replies']:,} replies in {found['samples'][-1]['minutes']:.0f} minutes, {found['streams']} at once,"
        f" {found['workers']} workers; {len(found['failed'])} not done, {found['replies_with_a_gap']} with a gap in"
        " their deltas. Workers are added up; *first delta* and *done* are beyond what the model takes.",
        "",
        "| | first third | last third | limit | slope an hour | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for course in all_:
        unit = f" {course.unit}" if course.unit else ""
        limit = "" if course.limit is None else number(course.limit)
        verdict = {None: "", True: "flat", False: "**grows**"}[course.is_flat]
        lines.append(
            f"| {course.name} | {number(course.first)}{unit} | {number(course.last)}{unit} | {limit} |"
            f" {number(course.slope)}{unit} | {verdict} |"
        )
    document.put("steady", [*lines, "", "![Steady load](images/bench-steady.svg)"])


def _line(sample: dict[str, float], load: Load) -> str:
    shown = ("worker memory", "worker connections", "first delta p50", "done p95", "event loop lag p99", "REST calls")
    said = ", ".join(f"{name} {number(sample[name])} {WATCHED[name].unit}".rstrip() for name in shown)
    return f"{sample['minutes']:5.1f} min  {load.replies} replies; {said}"


if __name__ == "__main__":
    sys.exit(main())
