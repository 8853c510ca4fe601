"""Counters and histograms of a worker, and how Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.model import Result

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Histogram:
    """Durations in seconds, counted in fixed buckets."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Metrics:
    """What a worker counts, since its start."""

    claims: Counter[str] = field(default_factory=Counter)  # by what woke it
    claimed: int = 0
    takeovers: int = 0
    lost: int = 0
    missed_wakeups: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)  # by error code
    given_up: Counter[str] = field(default_factory=Counter)  # by error code
    tokens: Counter[str] = field(default_factory=Counter)  # input, output, cached
    queue: Histogram = field(default_factory=Histogram)  # insert to claim
    first_delta: Histogram = field(default_factory=Histogram)  # claim to first delta
    duration: Histogram = field(default_factory=Histogram)  # claim to result

    def ended(self, result: Result, state: str) -> None:
        """Count an attempt that ended, and what the database said of it."""
        if state not in ("ok", "refused"):
            self.lost += 1
            return
        run = result.run
        self.outcomes["failed" if state == "refused" else result.outcome] += 1
        if result.error is not None:
            (self.given_up if result.retry_ms is None else self.retries)[result.error["code"]] += 1
        if run.first_delta_ms is not None:
            self.first_delta.observe(run.first_delta_ms / 1000)
        if run.duration_ms is not None:
            self.duration.observe(run.duration_ms / 1000)
        self.tokens["input"] += run.usage.input_tokens or 0
        self.tokens["output"] += run.usage.output_tokens or 0
        self.tokens["cached"] += run.usage.cached_tokens or 0


def number(name: str, kind: str, text: str, value: float) -> str:
    """One gauge or counter."""
    return f"{_head(name, kind, text)}\n{name} {value:g}"


def labelled(name: str, text: str, label: str, counts: Mapping[Any, int]) -> str:
    """One counter with a label."""
    lines = [f'{name}{{{label}="{_escaped(value)}"}} {count}' for value, count in sorted(counts.items())]
    return "\n".join([_head(name, "counter", text), *lines])


def histogram(name: str, text: str, values: Histogram) -> str:
    """One histogram of seconds."""
    lines, below = [_head(name, "histogram", text)], 0
    for bound, count in zip((*_SECONDS, "+Inf"), values.counts, strict=True):
        below += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
    return "\n".join([*lines, f"{name}_sum {values.total:g}", f"{name}_count {below}"])


def page(parts: Iterable[str]) -> str:
    """The whole answer to a scrape."""
    return "\n".join(parts) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"
