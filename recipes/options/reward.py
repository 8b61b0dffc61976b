"""Options of `rhapsode reward`."""

from dataclasses import dataclass

from .alignment import AlignmentOptions
from .base import check_each, option


@dataclass
class RewardOptions(AlignmentOptions):
    """A reward model from pairs of a better and a worse answer: one score at the last token of the conversation, from
    the weights of --model and a new head. --learning_rate none is 1e-5, and ten times as much with --use_peft; models
    of some millions of parameters want 5e-4."""

    EXAMPLES = (
        "rhapsode reward --config recipes/configs/reward.yaml",
        "rhapsode reward --model runs/sft --dataset pairs.jsonl",
    )

    model: str = option("runs/sft", "directory or Hub id of a causal model (or of a reward model) to start from")
    output_dir: str = option("runs/reward", "the run directory")
    center_rewards_coefficient: float = option(
        0.01, "factor of the squared sum of a pair's rewards in the loss; 0 is off", section="the loss"
    )

    def __post_init__(self):
        super().__post_init__()
        check_each(self, ("center_rewards_coefficient",), lambda value: value >= 0, "must not be negative")
