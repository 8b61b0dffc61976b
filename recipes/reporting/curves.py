"""curves.png: what a run, or several, did over the tokens that they saw.

Each curve is drawn as it was logged, pale, with a running mean on top where there are many points, which leaves out the
spikes. A step that the guard skipped is a mark at the foot. Where the fall of the first steps would leave the rest of
the loss flat, its panel leaves them out above.
"""

import math
import os
import statistics
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

INK, ACCENT, GRID, MUTED = "#1f2430", "#b3471d", "#e3e3e3", "#6b7080"
# Okabe and Ito 2008: told apart with every kind of colour vision; yellow is left out, which white paper swallows.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", ":", "-.")
MANY = 60  # points, from which on a running mean is drawn
BEGINNING = 0.1  # share of the run that the loss panel may leave out above
EFFORTS = {"tokens": "tokens", "step": "steps", "seconds": "seconds of training", "flops": "FLOPs"}
EXACT = ("learning_rate",)  # nothing to smooth
PANELS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "update_ratio": "update / weights (norms)",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
}


def plot_curves(runs: dict[str, list[dict]], path: Path) -> None:
    """Draw `{name: rows of metrics.jsonl}`; one run in ink with its validation in colour, several in a colour each."""
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplot_mosaic(
        [["loss", "loss", "learning_rate"], ["loss", "loss", "grad_norm"], ["update_ratio", "mfu", "tokens_per_second"]]
    )
    is_alone = len(runs) == 1
    colours = [INK] if is_alone else [COLOURS[i % len(COLOURS)] for i in range(len(runs))]
    for i, (colour, (name, rows)) in enumerate(zip(colours, runs.items(), strict=True)):
        style = STYLES[i // len(COLOURS) % len(STYLES)]
        _draw_loss(axes["loss"], None if is_alone else name, rows, colour, style)
        for key in PANELS:
            _draw(axes[key], *_series(rows, key), colour, style, smooth=key not in EXACT)
    for key in ("loss", "grad_norm"):
        for colour, rows in zip([ACCENT] if is_alone else colours, runs.values(), strict=True):
            _mark_skipped(axes[key], rows, colour)
    axes["loss"].set_title(next(iter(runs)) if is_alone else "", loc="left")
    _frame_loss(axes["loss"], runs.values())
    _dress(axes)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # The name must end in .png for matplotlib to know the format.
    temporary = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    figure.savefig(temporary, dpi=130, facecolor="white")
    temporary.replace(path)


def plot_progress(runs: dict[str, list[dict]], flops_per_token: dict[str, float | None], path: Path, unit: str) -> None:
    _save(progress_figure(runs, flops_per_token, unit), path)


def progress_figure(runs: dict[str, list[dict]], flops_per_token: dict[str, float | None], unit: str = "") -> Figure:
    """The losses of several runs over tokens, steps, seconds and FLOPs; a run without one is left out of it."""
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(2, 2).flatten(), EFFORTS.items(), strict=True):
        for i, (name, rows) in enumerate(runs.items()):
            if key == "flops" and flops_per_token[name] is None:
                continue
            scale = flops_per_token[name] if key == "flops" else 1
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]}
            x, y = _series(rows, "loss", "tokens" if key == "flops" else key)
            axis.plot([scale * v for v in x], y, alpha=0.5, linewidth=0.9, **style)
            x, y = _series(rows, "eval_loss", "tokens" if key == "flops" else key)
            axis.plot([scale * v for v in x], y, "o", markersize=4, label=name, **style)
        _frame_loss(axis, runs.values(), "tokens" if key == "flops" else key)
        axis.set(xlabel=label, ylabel=f"loss{unit}")
        _dress_axis(axis)
    figure.axes[0].legend(frameon=False, loc="upper right", title="validation as points")
    return figure


def _series(rows: list[dict], key: str, effort: str = "tokens") -> tuple[list, list]:
    """(tokens or another effort, values) of the rows that have the figure; evaluations stand at those of their step."""
    x, y, spent = [], [], None
    for row in rows:
        spent = row.get(effort, spent)
        if spent is not None and isinstance(row.get(key), int | float) and math.isfinite(row[key]):
            x.append(spent)
            y.append(row[key])
    return x, y


def _draw(axis: Axes, x: list, y: list, colour: str, style: str, label: str | None = None, smooth: bool = True) -> None:
    smooth = smooth and len(y) >= MANY
    axis.plot(x, y, style, color=colour, linewidth=0.8 if smooth else 1.5, alpha=0.3 if smooth else 1)
    if smooth:
        axis.plot(*running_mean(x, y), style, color=colour, linewidth=1.6)
    if label and y:
        axis.plot([], [], style, color=colour, linewidth=1.6, label=label)


def running_mean(x: list, y: list) -> tuple[list, list]:
    """The mean of the middle half of the values around each point: a spike, or a skipped step, does not bend it.

    Around a point is a 20th of all values, fewer towards the ends; at most a thousand points are taken.
    """
    reach, n = max(2, len(y) // 40), len(y)
    places = range(0, n, math.ceil(n / 1000))
    reaches = [min(reach, i, n - 1 - i) for i in places]  # as many on both sides, or a slope would bend
    windows = (sorted(y[i - r : i + r + 1]) for i, r in zip(places, reaches, strict=True))
    return [x[i] for i in places], [statistics.fmean(w[len(w) // 4 : len(w) - len(w) // 4]) for w in windows]


def _draw_loss(axis: Axes, name: str | None, rows: list[dict], colour: str, style: str) -> None:
    """Training as a line, validation as points on it; the last validation loss stands in the legend."""
    x, y = _series(rows, "eval_loss")
    last = f"validation {y[-1]:.3f}" if y else ""
    label = "training" if name is None else f"{name} ({last})" if y else name
    _draw(axis, *_series(rows, "loss"), colour, style, label=label)
    common = {"markersize": 5, "linewidth": 1.2, "markeredgecolor": "white"}
    if y and name is None:
        axis.plot(x, y, "o-", color=ACCENT, label=last, **common)
    elif y:
        axis.plot(x, y, "o", color=colour, **common)


def _mark_skipped(axis: Axes, rows: list[dict], colour: str) -> None:
    x = skipped_at(rows)
    if x:
        transform = axis.get_xaxis_transform()
        is_new = "skipped step" not in axis.get_legend_handles_labels()[1]
        label = "skipped step" if is_new else None
        axis.plot(x, [0.02] * len(x), "^", color=colour, markersize=5, transform=transform, label=label)


def skipped_at(rows: list[dict]) -> list[int]:
    """Tokens at which steps were skipped: rows in which the count `skipped_steps` has grown."""
    x, before = [], 0
    for row in rows:
        count = row.get("skipped_steps", before)
        if count > before:
            x.append(row.get("tokens", 0))
        before = count
    return x


def _frame_loss(axis: Axes, runs, effort: str = "tokens") -> None:
    """Leave the fall of the first steps out where it would take more than half of the panel."""
    losses = [list(zip(*_series(rows, "loss", effort), strict=True)) for rows in runs]
    ends = [points[-1][0] for points in losses if len(points) >= 10]
    if not ends:
        return
    late = [y for points in losses for x, y in points if x >= BEGINNING * max(ends)]
    low, high, highest = min(late), max(late), max(y for points in losses for _, y in points)
    top = high + 0.15 * (high - low)
    if highest - low > 2 * (top - low) > 0:
        axis.set_ylim(low - 0.08 * (top - low), top)
        axis.text(0.01, 0.97, f"↑ {highest:.2f}", transform=axis.transAxes, va="top", color=MUTED)


def _dress_axis(axis: Axes) -> None:
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if not any(len(line.get_xdata()) for line in axis.lines):
        axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", color=MUTED)
        axis.set(xticks=[], yticks=[])


def _dress(axes: dict[str, Axes]) -> None:
    axes["loss"].set_ylabel("loss, nats per token")
    for key, label in PANELS.items():
        axes[key].set_ylabel(label)
    for axis in axes.values():
        _dress_axis(axis)
    for key in ("grad_norm", "update_ratio"):
        if any((line.get_ydata() > 0).any() for line in axes[key].lines if len(line.get_ydata())):
            axes[key].set_yscale("log")
            axes[key].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[key].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes[key].yaxis.set_minor_formatter(NullFormatter())
    axes["mfu"].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes["tokens_per_second"].yaxis.set_major_formatter(EngFormatter(sep=""))
    for key in ("mfu", "tokens_per_second"):
        axes[key].set_ylim(bottom=0)
    for key in ("loss", "update_ratio", "mfu", "tokens_per_second"):
        axes[key].set_xlabel("tokens")
    if axes["loss"].get_legend_handles_labels()[0]:
        axes["loss"].legend(frameon=False, loc="upper right")
