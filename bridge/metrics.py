"""Counters and histograms of a worker, and how Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


def number(name: str, kind: str, text: str, value: float) -> str:
    """One gauge or counter."""
    return f"{_head(name, kind, text)}\n{name} {value:g}"


def labelled(name: str, text: str, label: str, counts: Mapping[Any, int]) -> str:
    """One counter with a label."""
    lines = [f'{name}{{{label}="{value}"}} {count}' for value, count in sorted(counts.items())]
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


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}"
