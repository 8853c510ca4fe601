"""Tables of the series of `bench/growth.py`, with a line about how each figure grows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.meter import Round
from bench.report import columns, markdown, number, percentile

FLAT = 0.2  # a figure that varies by less than this share over a series is called flat
FIGURES = {
    "first delta p50": "ms",
    "first delta p95": "ms",
    "worker CPU": "ms a reply",
    "project CPU": "ms a reply",
    "REST calls": "a reply",
    "WAL": "kB a reply",
    "memory": "MB",
}
OTHER_UNIT = "kB a reply"
PARTS = {"project CPU": "project_cpu", "REST calls": "calls"}  # figures that are sums, with their field in a Round


@dataclass(frozen=True)
class Level:
    """One size of a series with its rounds; `extra` is measured by this series only, in kB a reply."""

    size: int
    rounds: Sequence[Round]
    extra: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The level as written to growth.json."""
        return asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Level:
        """The level from growth.json."""
        return cls(record["size"], [Round(**one) for one in record["rounds"]], record["extra"])

    def figures(self) -> dict[str, float]:
        """The figures by name, medians of the rounds."""
        waits = [wait for one in self.rounds for wait in one.latencies]
        return {
            "first delta p50": percentile(waits, 0.5),
            "first delta p95": percentile(waits, 0.95),
            "worker CPU": statistics.median(one.worker_cpu for one in self.rounds),
            "project CPU": statistics.median(sum(one.project_cpu.values()) for one in self.rounds),
            "REST calls": statistics.median(sum(one.calls.values()) for one in self.rounds),
            "WAL": statistics.median(one.wal for one in self.rounds),
            "memory": statistics.median(one.memory for one in self.rounds),
            **self.extra,
        }

    def parts(self, figure: str) -> dict[str, float]:
        """What a figure is the sum of, by name; empty if that was not measured."""
        if figure not in PARTS:
            return {}
        rounds = [getattr(one, PARTS[figure]) for one in self.rounds]
        names = sorted({name for one in rounds for name in one})
        return {name: statistics.median(one.get(name, 0.0) for one in rounds) for name in names}

    def cell(self, figure: str) -> str:
        """A figure with its lowest and highest round."""
        value = number(self.figures()[figure])
        if figure in self.extra:
            return value
        each = [Level(self.size, [one]).figures()[figure] for one in self.rounds]
        return f"{value} ({number(min(each))}–{number(max(each))})"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The k of `value ∝ size ** k`, by least squares on the logarithms; nan for fewer than two sizes."""
    if len(sizes) < 2:
        return math.nan
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(max(v, 1e-6)) for v in values]).slope


def grows(levels: Sequence[Level]) -> list[str]:
    """A line for each figure: from the smallest size to the largest, its exponent, and the part that changed most."""
    lines = []
    shown = [level.figures() for level in levels]
    for figure in shown[0]:
        values = [level[figure] for level in shown]
        first, last = values[0], values[-1]
        line = f"{figure}: {number(first)} → {number(last)} {FIGURES.get(figure, OTHER_UNIT)}"
        if max(values) - min(values) <= FLAT * min(values):
            lines.append(f"{line}: flat, within {(max(values) / min(values) - 1) * 100:.0f} %")
            continue
        power = exponent([level.size for level in levels], values)
        line += f": × {last / first if first else math.nan:.2f}, like size^{power:.2f}"
        at = max(range(1, len(values)), key=lambda place: abs(values[place] - values[place - 1]))
        if len(values) > 2:
            line += f"; most between {levels[at - 1].size:,} and {levels[at].size:,}"
        before, after = levels[0].parts(figure), levels[-1].parts(figure)
        if before or after:
            change = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
            most = max(change, key=lambda name: abs(change[name]))
            line += f"; most of it {most}: {number(before.get(most, 0.0))} → {number(after.get(most, 0.0))}"
        lines.append(line)
    return lines


def rows(name: str, levels: Sequence[Level]) -> list[tuple[str, ...]]:
    """The table of a series."""
    figures = list(levels[0].figures())
    head = (name, *(f"{figure}, {FIGURES.get(figure, OTHER_UNIT)}" for figure in figures))
    return [head, *((f"{level.size:,}", *(level.cell(figure) for figure in figures)) for level in levels)]


def terminal(name: str, levels: Sequence[Level]) -> str:
    """A series for the terminal."""
    return "\n".join([columns(rows(name, levels)), "", *(f"  {line}" for line in grows(levels))])


def page(series: Mapping[str, tuple[str, Sequence[Level]]]) -> list[str]:
    """All series, each with what it measures, for docs/performance.md."""
    lines: list[str] = []
    for name, (what, levels) in series.items():
        lines += [f"### {name.capitalize()}", "", what, "", *markdown(rows(name, levels), left=0), ""]
        lines += [*(f"- {line}" for line in grows(levels)), "", f"![{name}](images/bench-growth-{name}.svg)", ""]
    return lines
