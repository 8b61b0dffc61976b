"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

    L = - log sigmoid(beta [log p(y_w | x) / p_ref(y_w | x) - log p(y_l | x) / p_ref(y_l | x)])

by trl's DPOTrainer. p_ref is the model that the run starts from. Its log-probabilities are computed once, before the
first step, when the two are still the same (with an adapter, by switching that off): no second copy of the weights.
"""

import sys

from trl import DPOConfig, DPOTrainer

from .alignment.datasets import preference_dataset
from .alignment.models import open_policy
from .alignment.outcome import align
from .alignment.preferences import FOR_POLICY
from .cli import run_command
from .options.dpo import DpoOptions

LEARNING_RATE = 1e-6


def run(options: DpoOptions) -> None:
    align("dpo", options, open_policy, read, DPOTrainer, settings, LEARNING_RATE)


def read(source: str, split: str, seed: int, limit: int | None):
    """Pairs; of the standard library without those against another object's answer, which teach a policy nothing.

    Measured: they raise a reward model's accuracy and lower what DPO makes of the model.
    """
    return preference_dataset(source, split, seed, limit, kinds=FOR_POLICY)


def settings(job) -> tuple[type, dict]:
    """trl's configuration class, and what it is told beside the options of all commands."""
    o = job.options
    return DPOConfig, {
        "beta": o.beta,
        "loss_type": [o.loss_type],
        "label_smoothing": o.label_smoothing,
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": o.per_device_eval_batch_size,
    }


if __name__ == "__main__":
    sys.exit(run_command("dpo", sys.argv[1:]))
