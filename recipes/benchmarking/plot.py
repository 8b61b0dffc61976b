"""bench.png: bars for each figure, and lines where a cost grows."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from ..reporting.curves import ACCENT, COLOURS, INK, MUTED
from .figures import LESS, Figure
from .interleaving import OURS

COLUMNS = 3


def plot(figures: list[Figure], path: Path) -> None:
    drawn = [figure for figure in figures if any(entry.values for entry in figure.entries)]
    bars = [figure for figure in drawn if figure.axis is None]
    curves = list(dict.fromkeys((figure.axis, figure.unit) for figure in drawn if figure.axis is not None))
    rows = max(1, math.ceil((len(bars) + len(curves)) / COLUMNS))
    picture = Picture(figsize=(5.2 * COLUMNS, 2.6 * rows), layout="constrained")
    axes = list(picture.subplots(rows, COLUMNS, squeeze=False).flatten())
    for figure in bars:
        _bars(axes.pop(0), figure)
    for axis, unit in curves:
        _curves(axes.pop(0), [figure for figure in drawn if (figure.axis, figure.unit) == (axis, unit)])
    for axis in axes:
        axis.set_visible(False)
    picture.savefig(path, dpi=110, facecolor="white")


def _bars(axis: Axes, figure: Figure) -> None:
    """One bar a contender, its spread as a line, its share of the limit beside it."""
    entries = [entry for entry in figure.entries if entry.values][::-1]
    medians = [entry.median for entry in entries]
    low = [entry.median - min(entry.values) for entry in entries]
    high = [max(entry.values) - entry.median for entry in entries]
    colours = [ACCENT if entry.kind == OURS else INK for entry in entries]
    bars = axis.barh([e.name for e in entries], medians, xerr=[low, high], color=colours, ecolor=MUTED, height=0.6)
    axis.bar_label(bars, ["" if e.share is None else f" {e.share:.0%}" for e in entries], fontsize=7, color=MUTED)
    axis.set_title(f"{figure.section}: {figure.what}", fontsize=8, loc="left", wrap=True)
    axis.set_xlabel(f"{figure.unit}{_direction(figure)}", fontsize=8)
    _dress(axis)


def _curves(axis: Axes, figures: list[Figure]) -> None:
    """One line a contender over what grows."""
    names = dict.fromkeys(entry.name for figure in figures for entry in figure.entries)
    for colour, name in zip(COLOURS * len(names), names, strict=False):
        found = [(f.at, e.median) for f in figures for e in f.entries if e.name == name and e.values]
        if found:
            axis.plot(*zip(*found, strict=True), "o-", color=colour, label=name, markersize=4)
    axis.set_xscale("log", base=2)
    axis.set_title(f"growth with {figures[0].axis}", fontsize=8, loc="left")
    axis.set_ylabel(f"{figures[0].unit}{_direction(figures[0])}", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=7)
    _dress(axis)


def _direction(figure: Figure) -> str:
    return " (less is better)" if figure.better == LESS else ""


def _dress(axis: Axes) -> None:
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
