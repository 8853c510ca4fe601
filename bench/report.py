"""Figures with their bounds, and their tables: for the terminal, for a page of docs/, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.processes import ROOT, Failed

PLOTS = ("wakeup", "latency", "throughput", "cpu", "lag", "claim")
PERFORMANCE = ROOT / "docs" / "performance.md"
Sense = Literal["at most", "at least"]
# The bounds of a full run. A figure without a bound is for information.
BOUNDS: dict[str, tuple[Sense, float]] = {
    "wakeup": ("at most", 0.1),
    "wakeup_without_polling": ("at most", 1.0),
    "wakeup_claim_path": ("at most", 0.55),
    "wakeup_procrastinate": ("at most", 1.2),
    "first_delta": ("at most", 0.85),
    "first_delta_own_driver": ("at most", 1.05),
    "next_question": ("at most", 0.4),
    "insert, 1 worker": ("at most", 1.35),
    "insert, 100 workers": ("at most", 1.35),
    "step": ("at most", 1.0),
    "step_wal": ("at most", 1.0),
    "step, with its text": ("at most", 1.0),
    "step_wal, with its text": ("at most", 1.0),
    "resume": ("at most", 1.5),
    "resume_after_kill": ("at most", 1.5),
    "ask": ("at most", 2.0),
    "cancel": ("at most", 200),
    "claims_for_one_question": ("at most", 0.1),
    "messages_for_one_question": ("at most", 1.1),
    "cpu_of_one_question": ("at most", 1.3),
    "replies_a_second": ("at least", 0.75),
    "cpu_a_reply": ("at most", 0.76),
    "loop_lag_p99": ("at most", 2.0),
    "media_lag_p99": ("at most", 50),
    "media_memory": ("at most", 21),
    "structured_cpu": ("at most", 2.0),
    "claim, 1,000,000 finished": ("at most", 1.2),
    "claim, 10,000 queued": ("at most", 1.5),
    "claim, 1,000 queued in one session": ("at most", 2.0),
    "claim, 100,000 jobs under one snapshot": ("at most", 3.0),
    "fairness": ("at most", 3.0),
    "fairness, running_replies lifted": ("at most", 5.0),
    "takeover": ("at most", 7),
    "idle_requests": ("at most", 20),
    "claim_beside_waiting": ("at most", 1.2),
    "calls_of_waiting": ("at most", 1),
    "rest_calls_one_reply": ("at most", 16),
    "transactions_one_reply": ("at most", 16),
    "rest_calls_one_reply_again": ("at most", 16),
    "transactions_one_reply_again": ("at most", 16),
    "rest_calls_64_at_once": ("at most", 2),
    "transactions_64_at_once": ("at most", 2.2),
    "rest_calls_64_at_once_again": ("at most", 2),
    "transactions_64_at_once_again": ("at most", 2),
    "wal": ("at most", 1 / 50),
    "wal_agent": ("at most", 0.5),
    "wal_agent, tools": ("at most", 1.0),
    "events_a_second": ("at most", 80),
}
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles, highest and number of some samples."""

    count: int
    first: float
    median: float
    third: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of at least one sample."""
        if len(samples) == 1:
            (one,) = samples
            return cls(1, one, one, one, one)
        first, median, third = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(len(samples), first, median, third, max(samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The ends of the middle half."""
        return self.first, self.third


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` (0 to 1) of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run.

    `value` is compared with the bound; in most rows it is a ratio to the baseline (unit `×`). `baseline` is the
    baseline's own figure, in the unit `detail["unit"]`; `spread` the quartiles behind `value`. `bound` replaces the
    upper bound in BOUNDS.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    spread: tuple[float, float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    bound: float | None = None

    @property
    def limit(self) -> tuple[Sense, float | None]:
        """The bound and its sense; None if there is no bound."""
        return ("at most", self.bound) if self.bound is not None else BOUNDS.get(self.name, ("at most", None))

    @property
    def ok(self) -> bool:
        """Whether the value is within its bound."""
        sense, bound = self.limit
        return bound is None or (self.value <= bound if sense == "at most" else self.value >= bound)

    def record(self) -> dict[str, Any]:
        """The figure as written to results.json."""
        sense, bound = self.limit
        return {
            "name": self.name,
            "value": _short(self.value),
            "unit": self.unit,
            "bound": bound,
            "sense": sense,
            "ok": self.ok,
            "baseline": None if self.baseline is None else _short(self.baseline),
            "spread": None if self.spread is None else [_short(end) for end in self.spread],
            "detail": {key: _short(value) for key, value in self.detail.items()},
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a row: its figures, and series for the plots by name."""

    figures: list[Figure]
    series: dict[str, Any] = field(default_factory=dict)


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], *, unit: str, **detail: Any) -> Figure:
    """Our median over theirs, with the spread of our samples over their median. `unit` is that of the samples."""
    own, other = Spread.of(ours), Spread.of(theirs)
    return Figure(
        name, own.median / other.median, "×", other.median, (own.first / other.median, own.third / other.median),
        {
            "ours": own.median,
            "ours_iqr": own.quartiles,
            "baseline_iqr": other.quartiles,
            "samples": [own.count, other.count],
            "unit": unit,
            **detail,
        },
    )  # fmt: skip


def for_comparison(name: str, samples: Sequence[float], what: str) -> Figure:
    """The median of an alternative, in milliseconds, without a bound."""
    spread = Spread.of(samples)
    return Figure(name, spread.median, "ms", spread=spread.quartiles, detail={"samples": spread.count, "what": what})


def slowest(
    name: str, samples: Sequence[float], unit: str, what: str, bound: float | None = None, **detail: Any
) -> Figure:
    """The highest sample."""
    spread = Spread.of(samples)
    detail |= {"median": spread.median, "samples": spread.count, "what": what}
    return Figure(name, spread.high, unit, spread=spread.quartiles, detail=detail, bound=bound)


def save(file: Path, found: Any, *, indent: int | None = None) -> None:
    """Write JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=indent, ensure_ascii=False) + "\n")


def terminal(figures: Sequence[Figure]) -> str:
    """The figures for a terminal."""
    return columns(_rows(figures))


def columns(rows: Rows) -> str:
    """A table for a terminal, each column as wide as its widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(rows: Rows, left: int = 1) -> list[str]:
    """A table for a page: the first `left` columns are text, the others numbers."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head.replace("|  |", "| |", 1), f"|{'---|' * left}{'---:|' * (len(rows[0]) - left)}", *rest]


def page(figures: Sequence[Figure], machine: str) -> list[str]:
    """The table for docs/performance.md, with the plots."""
    return [
        f"{machine}; {sum(figure.ok for figure in figures)} of {len(figures)} within their bounds.",
        "",
        *markdown(_rows(figures), left=2),
        "",
        *(f"- {line}" for line in shares(figures)),
        "",
        *(f"![{name}](images/bench-{name}.svg)" for name in PLOTS),
    ]


def replace(section: str, lines: Sequence[str], file: Path = PERFORMANCE) -> None:
    """Write `lines` between the markers of a section of a page. Raises `Failed` if the markers are missing."""
    file.write_text(replaced(file.read_text(), section, lines))
    print(f"wrote {section} to {file.relative_to(ROOT)}")


def replaced(text: str, section: str, lines: Sequence[str]) -> str:
    """`text` with `lines` between `<!-- section -->` and `<!-- /section -->`. Raises `Failed` if they are missing."""
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    before, found, rest = text.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise Failed(f"the page has no {begin.strip()} … {end}")
    return "\n".join([f"{before}{begin}", *lines, "", f"{end}{after}"])


def shares(figures: Sequence[Figure]) -> list[str]:
    """How the CPU of a reply is divided between the worker and the embedded Supabase, if that was measured."""
    lines = []
    for figure in figures:
        parts = figure.detail.get("project_cpu_ms_a_reply")
        if parts and figure.name == "replies_a_second":
            all_ = {"worker": figure.detail["worker_cpu_ms_a_reply"], **parts}
            total = sum(all_.values())
            listed = ", ".join(f"{name} {number(used)} ms ({used / total:.0%})" for name, used in all_.items())
            lines.append(f"CPU of a reply at {figure.detail['at_once']} at once: {listed}")
    return lines


def _rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "figure", "value", "spread", "bound", "baseline", "ours")]
    for figure in figures:
        sense, bound = figure.limit
        mark = "·" if bound is None else "✓" if figure.ok else "✗"
        limit = "" if bound is None else f"{'≤' if sense == 'at most' else '≥'} {number(bound)}"
        spread = "" if figure.spread is None else f"{number(figure.spread[0])} … {number(figure.spread[1])}"
        unit = figure.detail.get("unit", "")
        baseline = "" if figure.baseline is None else f"{number(figure.baseline)} {unit}"
        ours = f"{number(figure.detail['ours'])} {unit}" if "ours" in figure.detail else ""
        rows.append((mark, figure.name, f"{number(figure.value)} {figure.unit}", spread, limit, baseline, ours))
    return rows


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(value: Any) -> Any:
    """Floats with five significant digits, also inside lists and mappings."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value
