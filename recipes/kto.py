"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306): answers marked good or bad, without pairs.

    r(x, y) = log p(y | x) / p_ref(y | x)        z = max(0, mean of r over prompts with another row's answer)
    L = w_good [1 - sigmoid(beta (r - z))] for a good answer, w_bad [1 - sigmoid(beta (z - r))] for a bad one

by trl's KTOTrainer, with the reference's log-probabilities computed once, as in `dpo`. z pairs each prompt with the
answer of the row before it in the same batch. So the rows are shuffled here: in a file, a good and a bad answer to one
prompt tend to stand side by side, and z would be taken over answers to that very prompt.
"""

import sys

from trl import KTOConfig, KTOTrainer

from .alignment.datasets import unpaired_dataset
from .alignment.models import open_policy
from .alignment.outcome import align
from .alignment.preferences import FOR_POLICY
from .cli import run_command
from .options.kto import KtoOptions

LEARNING_RATE = 1e-6


def run(options: KtoOptions) -> None:
    align("kto", options, open_policy, read, KTOTrainer, settings, LEARNING_RATE)


def read(source: str, split: str, seed: int, limit: int | None):
    return unpaired_dataset(source, split, seed, limit, kinds=FOR_POLICY).shuffle(seed=seed)


def settings(job) -> tuple[type, dict]:
    """trl's configuration class, and what it is told beside the options of all commands."""
    o = job.options
    weights = {"desirable_weight": o.desirable_weight, "undesirable_weight": o.undesirable_weight}
    same = {"beta": o.beta, "loss_type": o.loss_type, "precompute_ref_log_probs": True}
    # Not the evaluation's batch: the answers that z pairs with prompts were chosen within this one.
    return KTOConfig, same | weights | {"precompute_ref_batch_size": o.per_device_train_batch_size}


if __name__ == "__main__":
    sys.exit(run_command("kto", sys.argv[1:]))
