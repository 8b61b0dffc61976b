"""What is logged of a rollout and of an update, with trl's keys where trl has them.

reward, reward_std, rewards/NAME/mean, rewards/NAME/std         scores before clip and penalties
completions/...                                                 lengths, and the share that was cut off
kl, entropy                                                     mean per token, kl as k1
objective/kl, objective/kl_coef, objective/rlhf_reward          mean per completion; score - beta * kl
value/mean, value/explained_variance                            of the rollout: 1 - Var(R - V) / Var(R)
loss/..., clip_ratio/..., policy/ratio, policy/update_kl        means over the tokens of updates
"""

import math
from collections import defaultdict
from collections.abc import Callable

import torch

UPDATE_SUMS = (
    *("loss/policy", "loss/value", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean"),
    *("clip_ratio/value", "policy/ratio", "policy/update_kl"),
)


class Metrics:
    """Means between two logs, separately for training and evaluation."""

    def __init__(self):
        self.found: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}

    def add(self, mode: str, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.found[mode][name].append(value)

    def take(self, mode: str) -> dict[str, float | None]:
        """The means since the last call; None where there was nothing but NaN."""
        means = {}
        for name, values in self.found[mode].items():
            finite = [value for value in values if not math.isnan(value)]
            means[name if mode == "train" else f"eval_{name}"] = sum(finite) / len(finite) if finite else None
        self.found[mode].clear()
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(values) for name, values in self.found["train"].items()}

    def load(self, state: dict[str, list[float]]) -> None:
        self.found["train"].update({name: list(values) for name, values in state.items()})


def length_figures(lengths: torch.Tensor, ended: torch.Tensor) -> dict[str, float]:
    """Of (completions of all processes,) lengths."""
    terminated = lengths[ended] if ended.any() else torch.zeros(1)
    figures = {"completions/clipped_ratio": 1 - ended.float().mean().item()}
    for name, values in (("", lengths), ("terminated_", terminated)):
        values = values.float()
        figures |= {f"completions/mean_{name}length": values.mean().item()}
        figures |= {f"completions/min_{name}length": values.min().item()}
        figures |= {f"completions/max_{name}length": values.max().item()}
    return figures


def reward_figures(scores: torch.Tensor, totals: torch.Tensor, names: list[str]) -> dict[str, float]:
    """Of (completions of all processes, functions) scores and their weighted sums, NaN where nothing applies."""
    figures = {"reward": totals.nanmean().item(), "reward_std": _std(totals)}
    for i, name in enumerate(names):
        figures[f"rewards/{name}/mean"] = scores[:, i].nanmean().item()
        figures[f"rewards/{name}/std"] = _std(scores[:, i])
    return figures


def _std(values: torch.Tensor) -> float:
    values = values[~values.isnan()]
    return values.std().item() if len(values) > 1 else 0.0


def value_figures(values, returns, mask, total: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
    """Of the value model before it has learned from this rollout."""
    error = returns - values
    sums = [mask, values * mask, returns * mask, returns.square() * mask, error * mask, error.square() * mask]
    n, v, r, rr, e, ee = total(torch.stack([s.double().sum() for s in sums]).to(values)).tolist()
    n = max(n, 1)
    variance, unexplained = rr / n - (r / n) ** 2, ee / n - (e / n) ** 2
    explained = 1 - unexplained / variance if variance > 0 else math.nan
    return {"value/mean": v / n, "value/explained_variance": explained}
