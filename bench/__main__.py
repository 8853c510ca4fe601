"""`python -m bench`: measure, print the table, write bench/out/results.json and the plots."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.processes import ROOT, Failed
from bench.report import Figure, Measured
from bench.world import World

OUT = ROOT / "bench" / "out"
ROWS = (
    "wakeup",
    "latency",
    "cancel",
    "takeover",
    "idle",
    "cost",
    "wal",
    "throughput",
    "lag",
    "quota",
    "structured",
    "claim",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code: 0 every bound kept, 1 one missed, 2 it could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure what the project promises, beside what people would use instead.",
        epilog=f"Rows: {', '.join(ROWS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples: under two minutes")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", default=ROWS, help="these rows alone")
    parser.add_argument("--json", type=Path, default=OUT / "results.json", metavar="FILE", help="where the figures go")
    parser.add_argument("--docs", action="store_true", help="write the plots to docs/images, too")
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
    report.write(options.json, figures)
    (OUT / "series.json").write_text(json.dumps(series) + "\n")
    print(f"\n{report.table(figures)}\n")
    _draw(series, OUT)
    if options.docs:
        _draw(series, ROOT / "docs" / "images")
    missed = [figure.name for figure in figures if not figure.ok]
    print(f"{len(figures) - len(missed)} of {len(figures)} within their bounds; written to {options.json}")
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
        return 2
    return 1 if missed else 0


async def _measure(rows: Sequence[str], *, quick: bool) -> tuple[list[Figure], dict[str, Any], list[str]]:
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    load = os.getloadavg()[0]
    say(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}")
    figures: list[Figure] = []
    series: dict[str, Any] = {}
    failed: list[str] = []
    if load > 1:
        say("other programs are busy on this machine: times will be off")
    async with World(OUT, quick=quick, say=say) as world:
        for row in rows:
            say(f"{row} …")
            try:
                measured: Measured = await importlib.import_module(f"bench.{row}").run(world)
            except (Failed, TimeoutError) as error:
                say(f"  ✗ {row} could not be measured: {error or type(error).__name__}")
                failed.append(row)
                continue
            for figure in measured.figures:
                say(f"  {'✓' if figure.ok else '✗'} {figure.name}: {report.number(figure.value)} {figure.unit}")
            figures += measured.figures
            series |= measured.series
    return figures, series, failed


def _draw(series: dict[str, Any], folder: Path) -> None:
    from bench import plots  # matplotlib takes a second to import

    for file in plots.draw(series, folder):
        print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
