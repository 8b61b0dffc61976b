"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300): PPO without a value model.

    A_i = (r_i - mean of r) / std of r            over the G answers y_1 .. y_G to one prompt x
    L = - mean of min(w A, clip(w, 1 - eps, 1 + eps) A) + beta KL           w = p(token) / p_old(token)

by trl's GRPOTrainer, divided by all tokens of the batch and not within each answer first (`dapo`, Yu et al. 2025,
arXiv:2503.14476), which would favour long wrong answers. Rewards are functions, reward models, or both.
"""

import sys

from trl import GRPOConfig, GRPOTrainer

from .alignment.online import run_online
from .cli import run_command
from .options.grpo import GrpoOptions

LEARNING_RATE = 1e-6


def run(options: GrpoOptions) -> None:
    own = {"loss_type": options.loss_type, "scale_rewards": options.scale_rewards}
    run_online("grpo", options, GRPOTrainer, GRPOConfig, LEARNING_RATE, **own)


if __name__ == "__main__":
    sys.exit(run_command("grpo", sys.argv[1:]))
