"""Options of the commands that learn from rewards for answers that they sample, with trl's names."""

from dataclasses import dataclass

from .alignment import AnsweringOptions
from .base import UserError, check_each, check_positive, option


@dataclass
class RolloutOptions(AnsweringOptions):
    """What all of them have in common, `rhapsode ppo` too."""

    model: str = option("runs/sft", "directory or Hub id of a model that answers, usually of rhapsode sft")
    max_eval_samples: int | None = option(64, "held-out prompts that each evaluation samples an answer to; none is all")
    max_completion_length: int = option(
        128, "tokens of a sampled answer at most; a prompt has --max_length less these", section="rollouts"
    )
    mask_truncated_completions: bool = option(False, "leave answers that did not end out of the loss")
    steps_per_generation: int | None = option(
        None, "forward passes that a rollout is divided into; none is --gradient_accumulation_steps"
    )
    temperature: float = option(1.0, "of sampling")
    num_iterations: int = option(1, "passes over a rollout", section="the algorithm")
    epsilon: float = option(0.2, "clip of the probability ratio, which a second pass over a rollout needs")
    log_completions: bool = option(False, "write sampled answers to checkpoints/completions, and print a few")

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "steps_per_generation", "num_iterations", "temperature", "epsilon")
        check_each(self, ("max_completion_length",), lambda value: value > 1, "is too short; use 2 or more")
        check_each(self, ("beta",), lambda value: value >= 0, "must not be negative")

    def _check_weights(self, count: int, of: str) -> None:
        weights = self.reward_weights
        if weights and len(weights) != count:
            raise UserError(
                f"--reward_weights {' '.join(map(str, weights))}: there are {count} {of}; give as many weights"
            )
        if weights and not any(weights):
            raise UserError("--reward_weights are all 0, so that nothing could be learned; give one of them a weight")

    def _check_clip(self) -> None:
        if self.reward_clip_range and len(self.reward_clip_range) != 2:
            raise UserError(f"--reward_clip_range takes two numbers, least and greatest, not {self.reward_clip_range}")
        if self.reward_clip_range and self.reward_clip_range[0] >= self.reward_clip_range[1]:
            raise UserError(f"--reward_clip_range {self.reward_clip_range}: the first must be below the second")


@dataclass
class OnlineOptions(RolloutOptions):
    """What the commands on trl's trainers have in common."""

    reward_funcs: list[str] = option(
        [],
        "judge, file.py:function or module:function with trl's signature, or the directory or Hub id of a reward "
        "model, which is shown every answer as if it had ended; none is judge, for --dataset stdlib",
        section="rewards",
    )
    reward_weights: list[float] = option([], "weight of each of --reward_funcs; 0 only measures; none is 1 each")

    def __post_init__(self):
        super().__post_init__()
        check_each(
            self, ("num_generations",), lambda value: value > 1, "has nothing to compare an answer with; use 2 or more"
        )
        if not self.reward_funcs and self.dataset.partition(":")[0] != "stdlib":
            raise UserError(f"--reward_funcs: say what a good answer to the prompts of {self.dataset} is")
        self._check_weights(len(self.reward_funcs) or 1, "--reward_funcs")
