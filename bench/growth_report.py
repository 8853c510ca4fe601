"""What the sizes of a series show: tables, and a line for each figure on how it grows and what in it does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import document as page
from bench.meter import Round
from bench.report import columns, number, percentile

# A figure is called flat if it is within so much of itself over the whole series.
FLAT = 0.2
FIGURES = {
    "first delta p50": "ms",
    "first delta p95": "ms",
    "worker CPU": "ms a reply",
    "project CPU": "ms a reply",
    "REST calls": "a reply",
    "WAL": "kB a reply",
    "memory": "MB",
}


@dataclass(frozen=True)
class Level:
    """One size of a series with its rounds; `extra` is what that series alone measures, in kB a reply."""

    size: int
    rounds: Sequence[Round]
    extra: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The level as it stands in growth.json."""
        return asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Level:
        """The level from growth.json."""
        return cls(record["size"], [Round(**one) for one in record["rounds"]], record["extra"])

    def shown(self) -> dict[str, float]:
        """Its figures by name, medians of the rounds, and `size`."""
        waits = [wait for one in self.rounds for wait in one.latencies]
        return {
            "size": self.size,
            "first delta p50": percentile(waits, 0.5),
            "first delta p95": percentile(waits, 0.95),
            "worker CPU": self._median(lambda one: one.worker_cpu),
            "project CPU": self._median(lambda one: sum(one.project_cpu.values())),
            "REST calls": self._median(lambda one: sum(one.calls.values())),
            "WAL": self._median(lambda one: one.wal),
            "memory": self._median(lambda one: one.memory),
            **self.extra,
        }

    def spread(self, figure: str) -> tuple[float, float]:
        """The lowest and the highest round of a figure."""
        each = [Level(self.size, [one], self.extra).shown()[figure] for one in self.rounds]
        return min(each), max(each)

    def parts(self, figure: str) -> dict[str, float]:
        """What a figure is made of, by name; empty where that was not measured."""
        read: Callable[[Round], Mapping[str, float]]
        if figure == "project CPU":
            read = lambda one: one.project_cpu  # noqa: E731
        elif figure == "REST calls":
            read = lambda one: one.calls  # noqa: E731
        else:
            return {}
        names = {name for one in self.rounds for name in read(one)}
        return {name: statistics.median(read(one).get(name, 0.0) for one in self.rounds) for name in sorted(names)}

    def _median(self, read: Callable[[Round], float]) -> float:
        return statistics.median(read(one) for one in self.rounds)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The k of `value ∝ size ** k`, by least squares on the logarithms; nan for fewer than two sizes."""
    if len(sizes) < 2:
        return math.nan
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(max(v, 1e-6)) for v in values]).slope


def grows(levels: Sequence[Level]) -> list[str]:
    """A line for each figure: from the smallest size to the largest, its exponent, and the part that changed most."""
    lines = []
    shown = [level.shown() for level in levels]
    for figure in shown[0]:
        if figure == "size":
            continue
        values = [level[figure] for level in shown]
        first, last = values[0], values[-1]
        unit = FIGURES.get(figure, "kB a reply")
        line = f"{figure}: {number(first)} → {number(last)} {unit}"
        if max(values) - min(values) <= FLAT * min(values):
            lines.append(f"{line}: flat, within {(max(values) / min(values) - 1) * 100:.0f} %")
            continue
        power = exponent([level["size"] for level in shown], values)
        line += f": × {last / first if first else math.nan:.2f}, like size^{power:.2f}"
        at = max(range(1, len(values)), key=lambda place: abs(values[place] - values[place - 1]))
        if len(values) > 2:
            line += f"; most between {shown[at - 1]['size']:,} and {shown[at]['size']:,}"
        before, after = levels[0].parts(figure), levels[-1].parts(figure)
        if before or after:
            change = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in before | after}
            most = max(change, key=lambda name: abs(change[name]))
            line += f"; most of it {most}: {number(before.get(most, 0.0))} → {number(after.get(most, 0.0))}"
        lines.append(line)
    return lines


def table(levels: Sequence[Level]) -> str:
    """A table for the terminal, with the lines about what grows below."""
    shown = [level.shown() for level in levels]
    rows = [("size", *(f"{name}, {FIGURES.get(name, 'kB a reply')}" for name in shown[0] if name != "size"))]
    rows += [tuple(f"{figures[name]:,.0f}" if name == "size" else number(figures[name]) for name in figures)
             for figures in shown]  # fmt: skip
    return "\n".join([columns(rows), "", *(f"  {line}" for line in grows(levels))])


def document(series: Mapping[str, tuple[str, Sequence[Level]]]) -> None:
    """Write the section `growth` of docs/performance.md."""
    lines: list[str] = []
    for name, (what, levels) in series.items():
        shown = [level.shown() for level in levels]
        heads = [f"{figure}, {FIGURES.get(figure, 'kB a reply')}" for figure in shown[0] if figure != "size"]
        lines += [f"### {name.capitalize()}", "", what, "", f"| {name} | {' | '.join(heads)} |"]
        lines.append("|---:" * (len(heads) + 1) + "|")
        for level, figures in zip(levels, shown, strict=True):
            cells = [_cell(level, figure) for figure in figures if figure != "size"]
            lines.append(f"| {level.size:,} | {' | '.join(cells)} |")
        lines += ["", *(f"- {line}" for line in grows(levels)), "", f"![{name}](images/bench-growth-{name}.svg)", ""]
    page.put("growth", lines)


def _cell(level: Level, figure: str) -> str:
    value = number(level.shown()[figure])
    if figure in level.extra:
        return value
    low, high = level.spread(figure)
    return f"{value} ({number(low)}–{number(high)})"
