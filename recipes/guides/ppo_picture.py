"""ppo_healthy_unhealthy.png from the metrics of two runs of `rhapsode ppo`; the commands are in ppo.md.

python recipes/guides/ppo_picture.py runs/healthy runs/unhealthy
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from rhapsode.recipes.alignment.curves import dress, save, series
from rhapsode.recipes.reporting.curves import ACCENT, INK
from rhapsode.recipes.reporting.metrics_file import read_metrics

PANELS = {
    "reward": "reward",
    "rewards/judge_reward/mean": "judge",
    "objective/kl": "KL, nats a completion",
    "entropy": "entropy, nats a token",
    "completions/mean_length": "tokens of a completion",
    "clip_ratio/region_mean": "ratios clipped",
}


def main(healthy: str, unhealthy: str) -> None:
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(2, 3).flatten(), PANELS.items(), strict=True):
        for directory, name, color in ((healthy, "healthy", INK), (unhealthy, "unhealthy", ACCENT)):
            rows = read_metrics(Path(directory) / "metrics.jsonl")
            axis.plot(*series(rows, key), color=color, linewidth=1.2, label=name)
        axis.set(ylabel=label, xlabel="steps")
        dress(axis)
    figure.axes[0].legend(frameon=False, fontsize="small")
    save(figure, Path(__file__).with_name("ppo_healthy_unhealthy.png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
