"""Options of `rhapsode rloo`."""

from dataclasses import dataclass

from .base import option
from .online import OnlineOptions


@dataclass
class RlooOptions(OnlineOptions):
    """REINFORCE leave-one-out: several answers to each prompt are sampled and scored, and each becomes likelier by what
    its score exceeds the mean of the others' by. A rollout is --per_device_train_batch_size x --steps_per_generation
    answers on each process, --num_generations to a prompt. --learning_rate none is 1e-6, and ten times as much with
    --use_peft; models of some millions of parameters want 1e-4."""

    EXAMPLES = ("rhapsode rloo --config recipes/configs/rloo.yaml",)

    output_dir: str = option("runs/rloo", "the run directory")
    num_generations: int = option(2, "answers to each prompt", section="rollouts")
    beta: float = option(
        0.05,
        "weight of the KL from the reference in the reward; above 0 takes a second copy, or adapters",
        section="the algorithm",
    )
    normalize_advantages: bool = option(False, "divide advantages by their standard deviation in the rollout")
    reward_clip_range: list[float] = option(
        [], "least and greatest score of an answer; none is no clip", section="rewards"
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_clip()
