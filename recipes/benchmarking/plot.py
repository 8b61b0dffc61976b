"""bench.png: a panel of bars for each figure, and lines where a cost grows."""

import math
from pathlib import Path

from matplotlib.figure import Figure as Picture

from ..reporting.curves import ACCENT, INK, MUTED
from .figures import LESS, Figure
from .interleaving import OURS

COLUMNS = 3


def plot(figures: list[Figure], path: Path) -> None:
    drawn = [figure for figure in figures if any(entry.values for entry in figure.entries)]
    rows = max(1, math.ceil(len(drawn) / COLUMNS))
    picture = Picture(figsize=(5.2 * COLUMNS, 2.6 * rows), layout="constrained")
    axes = picture.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axis, figure in zip(axes, drawn, strict=False):
        _bars(axis, figure)
    for axis in axes[len(drawn) :]:
        axis.set_visible(False)
    picture.savefig(path, dpi=110, facecolor="white")


def _bars(axis, figure: Figure) -> None:
    """One bar a contender, its spread as a line, its share of the limit beside it."""
    entries = [entry for entry in figure.entries if entry.values][::-1]
    medians = [entry.median for entry in entries]
    low = [entry.median - min(entry.values) for entry in entries]
    high = [max(entry.values) - entry.median for entry in entries]
    colours = [ACCENT if entry.kind == OURS else INK for entry in entries]
    names = [entry.name for entry in entries]
    bars = axis.barh(names, medians, xerr=[low, high], color=colours, ecolor=MUTED, height=0.6)
    axis.bar_label(bars, ["" if e.share is None else f" {e.share:.0%}" for e in entries], fontsize=7, color=MUTED)
    direction = " (less is better)" if figure.better == LESS else ""
    axis.set_title(f"{figure.section}: {figure.what}", fontsize=8, loc="left", wrap=True)
    axis.set_xlabel(f"{figure.unit}{direction}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
