"""`python -m bench`: measure, print the table, write bench/out/results.json and the plots."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import distance, report
from bench.processes import OUT, ROOT, Failed
from bench.report import Figure, Measured
from bench.world import World, progress

ROWS = (
    "wakeup",
    "latency",
    "next",
    "insert",
    "step",
    "agents",
    "resume",
    "ask",
    "cancel",
    "fleet",
    "throughput",
    "lag",
    "media",
    "structured",
    "claim",
    "fairness",
    "takeover",
    "idle",
    "idle_waiting",
    "cost",
    "wal",
    "wal_agent",
    "quota",
)
# These rows count, or wait for a timer, and leave the machine mostly idle: they run concurrently, each with a project
# of its own. `quota` joins them in a quick run only: with 64 streams it would disturb the 64 streams of `cost`.
SIDE_BY_SIDE = ("fleet", "takeover", "idle", "cost", "wal")
SIDE_BY_SIDE_IF_QUICK = (*SIDE_BY_SIDE, "quota")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 all within bounds, 1 a bound missed, 2 a row failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the project next to what people would use instead.",
        epilog=f"Rows: {', '.join(ROWS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples and smaller sizes: about two minutes")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", default=ROWS, help="only these rows")
    parser.add_argument("--json", type=Path, default=OUT / "results.json", metavar="FILE", help="results file")
    parser.add_argument("--docs", action="store_true", help="also update docs/performance.md and its plots")
    options = parser.parse_args(arguments)
    shutil.rmtree(OUT / "data", ignore_errors=True)
    try:
        figures, series, failed = asyncio.run(_measure(options.only, quick=options.quick))
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 2
    finally:
        shutil.rmtree(OUT / "data", ignore_errors=True)
    report.save(options.json, [figure.record() for figure in figures], indent=1)
    report.save(OUT / "series.json", series)
    print(f"\n{report.terminal(figures)}\n")
    apart = distance.rows(figures)
    if apart:
        print(f"{report.columns(apart)}\n")
    _draw(series, OUT)
    if options.docs:
        _draw(series, ROOT / "docs" / "images")
        report.replace("figures", report.page(figures, _machine(quick=options.quick)))
        if apart:
            report.replace("distance", report.markdown(apart, left=3))
    for line in report.shares(figures):
        print(line)
    missed = [figure.name for figure in figures if not figure.ok]
    if options.quick:
        print("a quick run: fewer samples and smaller sizes; the bounds apply to a full run")
    print(f"{len(figures) - len(missed)} of {len(figures)} within their bounds; written to {options.json}")
    if missed:
        print(f"missed: {', '.join(missed)}; {options.json} has the details of each")
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
        return 2
    return 1 if missed else 0


async def _measure(rows: Sequence[str], *, quick: bool) -> tuple[list[Figure], dict[str, Any], list[str]]:
    say = progress()
    load = os.getloadavg()[0]
    say(f"{_machine(quick=quick)}, load {load:.1f}")
    if load > 1:
        say("other programs are using this machine: times will be off")
    found: dict[str, Measured] = {}

    async def run(row: str, world: World) -> None:
        say(f"{row} …")
        try:
            measured = found[row] = await importlib.import_module(f"bench.rows.{row}").run(world)
        except (Failed, TimeoutError) as error:
            say(f"  ✗ {row} could not be measured: {error or type(error).__name__}")
            return
        for figure in measured.figures:
            say(f"  {'✓' if figure.ok else '✗'} {figure.name}: {report.number(figure.value)} {figure.unit}")

    async def separately(row: str) -> None:
        async with World(OUT, quick=quick, say=say, name=row) as world:
            await run(row, world)

    together = [row for row in rows if row in (SIDE_BY_SIDE_IF_QUICK if quick else SIDE_BY_SIDE)]
    async with World(OUT, quick=quick, say=say) as world:
        for row in rows:
            if row not in together:
                await run(row, world)
    await asyncio.gather(*(separately(row) for row in together))
    measured = [found[row] for row in ROWS if row in found]
    series = {name: one for each in measured for name, one in each.series.items()}
    return [figure for each in measured for figure in each.figures], series, [row for row in rows if row not in found]


def _machine(*, quick: bool) -> str:
    name = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores"
    return f"{name}, a quick run" if quick else name


def _draw(series: dict[str, Any], folder: Path) -> None:
    from bench import plots  # matplotlib takes a second to import

    for file in plots.draw(series, folder):
        print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
