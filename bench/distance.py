"""What latencies become when the project is not on the worker's machine: the measured ones, and half a round trip for
each message between the two that has to arrive before the next step.

The client's distance is left out: it is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import Figure, Rows, number

ROUND_TRIP_MS = 10.0


@dataclass(frozen=True)
class Path:
    """A system's way: its figure, or that figure's baseline, and the messages between worker and project."""

    system: str
    figure: str
    is_baseline: bool
    messages: tuple[str, ...]

    def ms(self, figures: dict[str, Figure]) -> float | None:
        """What was measured on one machine; None if it was not."""
        figure = figures.get(self.figure)
        if figure is None:
            return None
        return figure.baseline if self.is_baseline else figure.detail["ours"]


PUSHED, CLAIMED = ("the question",), ("the wake-up", "the claim", "its answer")
STORED = ("the insert", "its answer")
PATHS = {
    "request → model asked": (
        Path("bridge", "wakeup_procrastinate", False, PUSHED),
        Path("Procrastinate", "wakeup_procrastinate", True, ("the notification", "the fetch", "its answer")),
    ),
    "question → first words": (
        Path("bridge", "first_delta", False, (*PUSHED, "the delta")),
        Path("bridge, claim path", "first_delta_claim_path", True, (*CLAIMED, "the delta")),
        Path("FastAPI", "first_delta", True, STORED),
        Path("FastAPI, the bridge's driver", "first_delta_own_driver", True, STORED),
    ),
}


def rows(figures: Sequence[Figure]) -> Rows:
    """A table with its header row; empty if a figure is missing."""
    by_name = {figure.name: figure for figure in figures}
    found: list[tuple[str, ...]] = [
        ("", "", "between worker and project", "ms, here", f"ms, {ROUND_TRIP_MS:g} ms apart", "bridge ÷ it")
    ]
    for what, paths in PATHS.items():
        first: float | None = None
        for path in paths:
            here = path.ms(by_name)
            if here is None:
                return []
            apart = here + len(path.messages) * ROUND_TRIP_MS / 2
            first = apart if first is None else first
            share = "" if path is paths[0] else f"{number(first / apart)} ×"
            found.append((what, path.system, ", ".join(path.messages), number(here), number(apart), share))
            what = ""
    return found
