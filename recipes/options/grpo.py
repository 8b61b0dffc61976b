"""Options of `rhapsode grpo`."""

from dataclasses import dataclass

from .base import option
from .online import OnlineOptions

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")
SCALES = ("group", "batch", "none")


@dataclass
class GrpoOptions(OnlineOptions):
    """Group relative policy optimization: several answers to each prompt are sampled and scored, and those that are
    better than the others of their group become likelier. A rollout is --per_device_train_batch_size x
    --steps_per_generation answers on each process, --num_generations to a prompt. --learning_rate none is 1e-6, and ten
    times as much with --use_peft; models of some millions of parameters want 1e-4."""

    EXAMPLES = (
        "rhapsode grpo --config recipes/configs/grpo.yaml",
        "rhapsode grpo --model runs/sft --dataset prompts.jsonl --reward_funcs rewards.py:short runs/reward",
    )

    output_dir: str = option("runs/grpo", "the run directory")
    num_generations: int = option(8, "answers to each prompt", section="rollouts")
    beta: float = option(
        0.0,
        "how strongly the model is held to the reference; above 0 takes a second copy, or adapters",
        section="the algorithm",
    )
    loss_type: str = option("dapo", "what the loss of a token is divided by, see trl's GRPOConfig", LOSSES)
    scale_rewards: str = option("group", "advantages are divided by the standard deviation within it", SCALES)
