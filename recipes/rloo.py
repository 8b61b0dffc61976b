"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740): no value model, and no scaling of rewards.

    R_i = r_i - beta log p(y_i | x) / p_ref(y_i | x)
    A_i = R_i - mean of R over the other answers to x              L = - sum of A_i log p(y_i | x)

by trl's RLOOTrainer, with PPO's clip where a rollout is used more than once. Rewards are functions, reward models, or
both.
"""

import sys

from trl import RLOOConfig, RLOOTrainer

from .alignment.online import run_online
from .cli import run_command
from .options.rloo import RlooOptions

LEARNING_RATE = 1e-6


def run(options: RlooOptions) -> None:
    clip = tuple(options.reward_clip_range) or None
    own = {"normalize_advantages": options.normalize_advantages, "reward_clip_range": clip}
    run_online("rloo", options, RLOOTrainer, RLOOConfig, LEARNING_RATE, **own)


if __name__ == "__main__":
    sys.exit(run_command("rloo", sys.argv[1:]))
