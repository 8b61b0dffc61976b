"""curves.png of an alignment run, over its steps: training as a line, what was held out as points on it."""

import math
import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.curves import ACCENT, GRID, INK, MANY, MUTED, running_mean

# What trl logs, in the order of the panels; those that a run does not log are left out.
PANELS = {
    "loss": "loss",
    "mean_token_accuracy": "tokens predicted right",
    "accuracy": "share right",  # of pairs that are ranked, or of texts that are classified
    "f1": "F1",
    "f1_micro": "F1 over all labels",
    "f1_macro": "F1, mean of the labels",
    "matthews_correlation": "Matthews' correlation",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "rewards/accuracies": "pairs ranked right",
    "margin": "margin of the rewards",
    "rewards/margins": "margin of the implicit rewards",
    "rewards/chosen": "implicit reward, chosen",
    "rewards/rejected": "implicit reward, rejected",
    "mean_reward": "mean reward",
    "reward": "reward",
    "rewards/judge_reward/mean": "judge",
    "kl": "KL",
    "objective/kl": "KL, nats a completion",
    "objective/kl_coef": "coefficient of the KL",
    "entropy": "entropy, nats per token",
    "completions/mean_length": "tokens of a completion",
    "completions/clipped_ratio": "completions cut off",
    "loss/value": "loss of the value model",
    "value/explained_variance": "returns explained by the values",
    "clip_ratio/region_mean": "ratios clipped",
    "policy/update_kl": "KL from the rollout, nats a token",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
COLUMNS = 3


def plot_metrics(rows: list[dict], title: str, path: Path) -> None:
    """Draw the rows of metrics.jsonl; each panel is one figure, and its `eval_` where that is logged."""
    found = [key for key in PANELS if any(key in row or f"eval_{key}" in row for row in rows)] or ["loss"]
    lines = math.ceil(len(found) / COLUMNS)
    figure = Figure(figsize=(12, 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axis, key in zip(axes, found, strict=False):
        _draw(axis, series(rows, key), series(rows, f"eval_{key}"))
        axis.set(ylabel=PANELS[key], xlabel="steps")
        dress(axis)
    for axis in axes[len(found) :]:
        axis.remove()
    axes[0].set_title(title, loc="left")
    save(figure, path)


def plot_calibration(bins: list[dict], path: Path) -> None:
    """Accuracy over probability; on the diagonal the model is as right as it is sure. Larger points, more pairs."""
    labels = ("probability of the answer that it prefers", "share of pairs ranked right")
    _plot_bins(bins, ("probability", "accuracy", "pairs"), labels, 0.5, path)


def plot_agreement(bins: list[dict], path: Path) -> None:
    """The share of right answers over their agreement; larger points, more questions."""
    labels = ("agreement of the answers to a question", "share of them that are right")
    _plot_bins(bins, ("agreement", "right", "questions"), labels, 0.0, path)


def _plot_bins(bins: list[dict], keys: tuple[str, str, str], labels: tuple[str, str], least: float, path: Path) -> None:
    """`keys` are those of x, y and the count."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([least, 1], [least, 1], "--", color=MUTED, linewidth=1)
    x, y, counts = ([b[key] for b in bins] for key in keys)
    axis.plot(x, y, color=ACCENT, linewidth=1)
    sizes = [20 + 180 * count / max(counts) for count in counts]
    axis.scatter(x, y, sizes, color=ACCENT, edgecolors="white", zorder=3)
    axis.set(xlabel=labels[0], ylabel=labels[1], xlim=(least - 0.02, 1.02))
    dress(axis)
    save(figure, path)


def series(rows: list[dict], key: str) -> tuple[list, list]:
    """(steps, values) of the rows that have a finite value."""
    pairs = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _draw(axis: Axes, train: tuple[list, list], held_out: tuple[list, list]) -> None:
    is_long = len(train[1]) >= MANY
    axis.plot(*train, color=INK, linewidth=0.8 if is_long else 1.5, alpha=0.3 if is_long else 1, label="training")
    if is_long:
        axis.plot(*running_mean(*train), color=INK, linewidth=1.6)
    if held_out[1]:
        common = {"markersize": 5, "linewidth": 1.2, "markeredgecolor": "white"}
        axis.plot(*held_out, "o-", color=ACCENT, label=f"held out {held_out[1][-1]:.3g}", **common)
        axis.legend(frameon=False, fontsize="small")


def dress(axis: Axes) -> None:
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK)


def save(figure: Figure, path: Path) -> None:
    # The name must end in .png for matplotlib to know the format.
    temporary = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    figure.savefig(temporary, dpi=130, facecolor="white")
    temporary.replace(path)
