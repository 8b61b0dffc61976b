"""Options of the commands that learn from rewards for answers that they sample, with trl's names."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import UserError, option


@dataclass
class OnlineOptions(AnsweringOptions):
    model: str = option("runs/sft", "directory or Hub id of a model that answers, usually of rhapsode sft")
    max_eval_samples: int | None = option(64, "held-out prompts that each evaluation samples an answer to; none is all")
    # Rewards
    reward_funcs: list[str] = option(
        [],
        "judge, file.py:function or module:function with trl's signature, or the directory or Hub id of a reward "
        "model; none is judge, for --dataset stdlib",
    )
    reward_weights: list[float] = option([], "weight of each of --reward_funcs; 0 only measures; none is 1 each")
    # Rollouts
    max_completion_length: int = option(128, "tokens of a sampled answer at most; a prompt has --max_length less these")
    mask_truncated_completions: bool = option(
        False, "leave answers that did not end out of the loss; a reward model is shown every answer as if it had ended"
    )
    steps_per_generation: int | None = option(
        None, "forward passes that a rollout is divided into; none is --gradient_accumulation_steps"
    )
    temperature: float = option(1.0, "of sampling")
    # The algorithm
    num_iterations: int = option(1, "passes over a rollout")
    epsilon: float = option(0.2, "clip of the probability ratio, which a second pass over a rollout needs")
    log_completions: bool = option(False, "write sampled answers to checkpoints/completions, and print a few")

    def __post_init__(self):
        super().__post_init__()
        self._check(
            ("num_generations",), lambda value: value > 1, "has nothing to compare an answer with; use 2 or more"
        )
        self._check(
            ("steps_per_generation", "num_iterations", "temperature", "epsilon"), lambda v: v > 0, "must be above 0"
        )
        self._check(("max_completion_length",), lambda value: value > 1, "is too short; use 2 or more")
        self._check(("beta",), lambda value: value >= 0, "must not be negative")
        self._check_rewards()

    def _check_rewards(self) -> None:
        if not self.reward_funcs and self.dataset.partition(":")[0] != "stdlib":
            raise UserError(f"--reward_funcs: say what a good answer to the prompts of {self.dataset} is")
        count, weights = len(self.reward_funcs) or 1, self.reward_weights
        if weights and len(weights) != count:
            given = " ".join(map(str, weights))
            raise UserError(f"--reward_weights {given}: there are {count} --reward_funcs; give as many weights")
        if weights and not any(weights):
            raise UserError("--reward_weights are all 0, so that nothing could be learned; give one of them a weight")
