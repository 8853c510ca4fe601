"""The plots of a run, as SVG: distributions, and figures against concurrency and size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SIZE = (7.2, 3.6)  # inches
# after Okabe and Ito: can be told apart by everybody
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DISTRIBUTIONS = {
    "insert to start": ("bench-wakeup.svg", "From the insert to the worker's start", "milliseconds"),
    "question to first words": ("bench-latency.svg", "From the question to the first words", "milliseconds"),
    "event loop lag": ("bench-lag.svg", "How late the event loop is, 256 streams", "milliseconds"),
}


def draw(series: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what there is in `series` into `folder`; give the files."""
    mpl.rcParams.update(
        {"svg.hashsalt": "bench", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True}
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (file, title, unit) in DISTRIBUTIONS.items():
        if name in series:
            files.append(_save(folder / file, title, lambda axes, n=name, u=unit: _distributions(axes, series[n], u)))
    for name, file, label in (
        ("replies a second", "bench-throughput.svg", "replies a second"),
        ("CPU a reply", "bench-cpu.svg", "CPU a reply, milliseconds"),
    ):
        if name in series:
            title = f"{name[0].upper()}{name[1:]}, 100 tokens each, against replies at once"
            files.append(_save(folder / file, title, lambda axes, n=name, u=label: _levels(axes, series[n], u)))
    if "claim" in series:
        files.append(_save(folder / "bench-claim.svg", "A claim of one job", lambda axes: _bars(axes, series["claim"])))
    return files


def _save(file: Path, title: str, paint: Any) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    paint(axes)
    axes.set_title(title, loc="left", fontweight="bold")
    figure.patch.set_facecolor("white")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file


def _distributions(axes: Axes, by_name: Mapping[str, Sequence[float]], unit: str) -> None:
    """The share of samples at or below each value, on a logarithmic axis."""
    shown = {name: samples for name, samples in by_name.items() if ", with the request" not in name}
    for colour, (name, samples) in zip(COLOURS, shown.items(), strict=False):
        ordered = sorted(max(sample, 0.01) for sample in samples)
        shares = [(number + 1) / len(ordered) * 100 for number in range(len(ordered))]
        median = statistics.median(samples)
        axes.step(ordered, shares, where="post", color=colour, label=f"{name} (median {median:.3g})")
    axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("% of samples")
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, loc="best")


def _levels(axes: Axes, by_name: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> None:
    """Medians with their ends, against how many are at once."""
    for colour, (name, levels) in zip(COLOURS, by_name.items(), strict=False):
        at = sorted(int(level) for level in levels)
        medians = [statistics.median(levels[str(level)]) for level in at]
        low = [min(levels[str(level)]) for level in at]
        high = [max(levels[str(level)]) for level in at]
        axes.plot(at, medians, marker="o", color=colour, label=name)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(at, [str(level) for level in at])
    axes.set_xlabel("replies at once")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best")


def _bars(axes: Axes, by_name: Mapping[str, Sequence[float]]) -> None:
    """Medians with their quartiles."""
    names = list(by_name)
    medians = [statistics.median(by_name[name]) for name in names]
    quartiles = [statistics.quantiles(by_name[name], n=4) for name in names]
    errors = [[m - q[0] for m, q in zip(medians, quartiles, strict=True)],
              [q[2] - m for m, q in zip(medians, quartiles, strict=True)]]  # fmt: skip
    axes.barh(names, medians, xerr=errors, color=COLOURS[0], height=0.6, error_kw={"elinewidth": 1})
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
