"""Figures with their bounds, and how they are shown: a table in the terminal, and JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PLOTS = ("wakeup", "latency", "throughput", "cpu", "lag", "claim")


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles of some samples, and their ends."""

    count: int
    low: float
    first: float
    median: float
    third: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of at least one sample."""
        if len(samples) == 1:
            (one,) = samples
            return cls(1, one, one, one, one, one)
        first, median, third = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(len(samples), min(samples), first, median, third, max(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` (0 to 1) of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run.

    `value` is what the bound holds for: of most rows a ratio to the baseline (unit `×`). `baseline` is the baseline's
    own figure, in the unit that `detail` tells, `spread` the quartiles of what `value` was made from.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    sense: Literal["at most", "at least"] = "at most"
    baseline: float | None = None
    spread: tuple[float, float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the bound is kept; a figure without one is for information."""
        if self.bound is None:
            return True
        return self.value <= self.bound if self.sense == "at most" else self.value >= self.bound

    def record(self) -> dict[str, Any]:
        """The figure as it stands in results.json."""
        return {
            "name": self.name,
            "value": _short(self.value),
            "unit": self.unit,
            "bound": self.bound,
            "sense": self.sense,
            "ok": self.ok,
            "baseline": None if self.baseline is None else _short(self.baseline),
            "spread": None if self.spread is None else [_short(end) for end in self.spread],
            "detail": {key: _short(value) for key, value in self.detail.items()},
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What a row brought: its figures, and series for the plots by name."""

    figures: list[Figure]
    series: dict[str, Any] = field(default_factory=dict)


def ratio(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    bound: float | None,
    *,
    unit: str,
    sense: Literal["at most", "at least"] = "at most",
    **detail: Any,
) -> Figure:
    """Medians of ours to theirs; the spread is that of ours over their median. `unit` is that of the samples."""
    own, other = Spread.of(ours), Spread.of(theirs)
    return Figure(
        name,
        own.median / other.median,
        "×",
        bound,
        sense,
        other.median,
        (own.first / other.median, own.third / other.median),
        {
            "ours": own.median,
            "ours_iqr": [own.first, own.third],
            "baseline_iqr": [other.first, other.third],
            "samples": [own.count, other.count],
            "unit": unit,
            **detail,
        },
    )


def write(file: Path, figures: Sequence[Figure]) -> None:
    """Write results.json."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([figure.record() for figure in figures], indent=1, ensure_ascii=False) + "\n")


def table(figures: Sequence[Figure]) -> str:
    """The figures for a terminal, in colour where that can be seen."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    rows = [("", "figure", "value", "spread (IQR)", "bound", "baseline", "ours"), *_rows(figures)]
    lines = columns(rows).splitlines()
    if not colour:
        return "\n".join(lines)
    painted = [f"\x1b[1m{lines[0]}\x1b[0m"]
    for row, line in zip(rows[1:], lines[1:], strict=True):
        whole = {"✗": "31;1", "·": "2"}.get(row[0])
        painted.append(f"\x1b[{whole}m{line}\x1b[0m" if whole else line.replace("✓", "\x1b[32m✓\x1b[0m", 1))
    return "\n".join(painted)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of a table for a terminal, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def page(figures: Sequence[Figure], machine: str) -> list[str]:
    """The table for docs/performance.md, with the plots."""
    lines = [
        f"{machine}; {sum(figure.ok for figure in figures)} of {len(figures)} within their bounds.",
        "",
        "| | figure | value | spread | bound | baseline | ours |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in _rows(figures):
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", *(f"- {line}" for line in shares(figures)), ""]
    lines += [f"![{name}](images/bench-{name}.svg)" for name in PLOTS]
    return lines


def shares(figures: Sequence[Figure]) -> list[str]:
    """Where the embedded Supabase spends of a reply: a line for each figure that measured it."""
    lines = []
    for figure in figures:
        parts = figure.detail.get("project_cpu_ms_a_reply")
        if parts and figure.name == "replies_a_second":
            all_ = {"worker": figure.detail["worker_cpu_ms_a_reply"], **parts}
            total = sum(all_.values())
            said = ", ".join(f"{name} {number(used)} ms ({used / total:.0%})" for name, used in all_.items())
            lines.append(f"CPU of a reply at {figure.detail['at_once']} at once: {said}")
    return lines


def _rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for figure in figures:
        mark = "·" if figure.bound is None else "✓" if figure.ok else "✗"
        bound = ""
        if figure.bound is not None:
            bound = ("≤ " if figure.sense == "at most" else "≥ ") + number(figure.bound)
        spread = "" if figure.spread is None else f"{number(figure.spread[0])} … {number(figure.spread[1])}"
        unit = figure.detail.get("unit", "")
        baseline = "" if figure.baseline is None else f"{number(figure.baseline)} {unit}"
        ours = f"{number(figure.detail['ours'])} {unit}" if "ours" in figure.detail else ""
        rows.append((mark, figure.name, f"{number(figure.value)} {figure.unit}", spread, bound, baseline, ours))
    return rows


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _short(value: Any) -> Any:
    """Floats with five digits, also inside lists and mappings."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value
