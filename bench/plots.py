"""Plots of the results, as SVG: distributions, and figures by concurrency and by size."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: safe for colour blindness
STYLE: Any = {
    "svg.hashsalt": "bench", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True,
}  # fmt: skip


def draw(series: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the series of rows into `folder`; returns the files."""
    files = []
    for name, (file, title, label, paint) in PLOTS.items():
        if name in series:
            mpl.rcParams.update(STYLE)
            figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
            axes.set(**{"ylabel" if paint is _levels else "xlabel": label})
            paint(axes, series[name])
            axes.set_title(title, loc="left", fontweight="bold")
            files.append(_write(figure, folder / f"bench-{file}.svg"))
    return files


def _write(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.patch.set_facecolor("white")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file


def _distributions(axes: Axes, by_name: Mapping[str, Sequence[float]]) -> None:
    """The share of samples at or below each value, on a logarithmic axis."""
    shown = {name: samples for name, samples in by_name.items() if ", with the request" not in name}
    for colour, (name, samples) in zip(COLOURS, shown.items(), strict=False):
        ordered = sorted(max(sample, 0.01) for sample in samples)
        shares = [(number + 1) / len(ordered) * 100 for number in range(len(ordered))]
        median = statistics.median(samples)
        axes.step(ordered, shares, where="post", color=colour, label=f"{name} (median {median:.3g})")
    axes.set_xscale("log")
    axes.set_ylabel("% of samples")
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, loc="best")


def _levels(axes: Axes, by_name: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Medians with their extremes, by concurrency."""
    for colour, (name, levels) in zip(COLOURS, by_name.items(), strict=False):
        at = sorted(int(level) for level in levels)
        each = [levels[str(level)] for level in at]
        axes.plot(at, [statistics.median(one) for one in each], marker="o", color=colour, label=name)
        axes.fill_between(at, [min(one) for one in each], [max(one) for one in each], color=colour, alpha=0.15, lw=0)
        axes.set_xticks(at, [str(level) for level in at])
    axes.set_xlabel("replies at once")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best")


def _bars(axes: Axes, by_name: Mapping[str, Sequence[float]]) -> None:
    """Medians with their quartiles."""
    quartiles = [statistics.quantiles(samples, n=4) for samples in by_name.values()]
    medians = [median for _, median, _ in quartiles]
    errors = [[median - first for first, median, _ in quartiles], [third - median for _, median, third in quartiles]]
    axes.barh(list(by_name), medians, xerr=errors, color=COLOURS[0], height=0.6, error_kw={"elinewidth": 1})
    axes.invert_yaxis()


# Each series of a row with its file, title, label and kind of plot.
PLOTS: dict[str, tuple[str, str, str, Callable[[Axes, Any], None]]] = {
    "insert to start": ("wakeup", "From the insert to the worker's start", "milliseconds", _distributions),
    "question to first words": ("latency", "From the question to the first words", "milliseconds", _distributions),
    "event loop lag": ("lag", "Event loop lag with 256 streams", "milliseconds", _distributions),
    "replies a second": ("throughput", "Replies a second, 100 tokens each", "replies a second", _levels),
    "CPU a reply": ("cpu", "CPU per reply, 100 tokens each", "CPU per reply, milliseconds", _levels),
    "claim": ("claim", "A claim of one job", "milliseconds", _bars),
}


def growth(name: str, levels: Sequence[Mapping[str, float]], folder: Path) -> Path:
    """The figures of a series by its size, both axes logarithmic."""
    mpl.rcParams.update(STYLE)
    sizes = [level["size"] for level in levels]
    panels = {
        "first delta, ms": ("first delta p50", "first delta p95"),
        "CPU a reply, ms": ("worker CPU", "project CPU"),
        "REST calls a reply": ("REST calls",),
        "WAL a reply, kB": ("WAL", "WAL after a checkpoint"),
        "workers' memory, MB": ("memory",),
    }
    figure, grid = plt.subplots(1, len(panels), figsize=(11, 2.4), layout="constrained")
    for axes, (title, shown) in zip(grid.flat, panels.items(), strict=True):
        for colour, one in zip(COLOURS, shown, strict=False):
            if one in levels[0]:
                label = one.removeprefix("first delta ").removesuffix(" CPU")
                axes.plot(sizes, [level[one] for level in levels], marker="o", markersize=3, color=colour, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, high / 10), max(high, low * 10))  # at least a decade, so that noise stays small
        axes.set_title(title, loc="left", fontsize=8)
        axes.set_xlabel(name, fontsize=8)
        axes.tick_params(labelsize=7)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=7)
    return _write(figure, folder / f"bench-growth-{name}.svg")
