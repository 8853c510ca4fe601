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
from matplotlib.figure import Figure

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
    _style()
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


def _style() -> None:
    mpl.rcParams.update(
        {"svg.hashsalt": "bench", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True}
    )  # fmt: skip


def _written(figure: Figure, file: Path) -> Path:
    figure.patch.set_facecolor("white")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file


def _save(file: Path, title: str, paint: Any) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    paint(axes)
    axes.set_title(title, loc="left", fontweight="bold")
    return _written(figure, file)


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


def steady(samples: Sequence[Mapping[str, float | None]], units: Mapping[str, str], folder: Path) -> Path:
    """All that was watched over time, each in its own small plot from zero."""
    _style()
    folder.mkdir(parents=True, exist_ok=True)
    at = [sample["minutes"] for sample in samples]
    figure, grid = plt.subplots(
        (len(units) + 2) // 3, 3, figsize=(9, 1.5 * ((len(units) + 2) // 3)), layout="constrained"
    )
    for axes in grid.flat[len(units) :]:
        axes.set_visible(False)
    for axes, (name, unit) in zip(grid.flat, units.items(), strict=False):
        axes.plot(at, [sample[name] for sample in samples], color=COLOURS[0], linewidth=0.9)
        axes.set_title(f"{name}{f', {unit}' if unit else ''}", loc="left", fontsize=8)
        axes.set_ylim(bottom=min(0.0, *(sample[name] or 0.0 for sample in samples)))
        axes.tick_params(labelsize=7)
    for axes in grid.flat[max(0, len(units) - 3) : len(units)]:
        axes.set_xlabel("minutes", fontsize=8)
    return _written(figure, folder / "bench-steady.svg")


def growth(name: str, levels: Sequence[Mapping[str, float]], folder: Path) -> Path:
    """A series' figures against its size, both logarithmic."""
    _style()
    folder.mkdir(parents=True, exist_ok=True)
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
        axes.set_ylim(min(low, high / 10), max(high, low * 10))  # at least a decade: noise is to look like noise
        axes.set_title(title, loc="left", fontsize=8)
        axes.set_xlabel(name, fontsize=8)
        axes.tick_params(labelsize=7)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=7)
    return _written(figure, folder / f"bench-growth-{name}.svg")
