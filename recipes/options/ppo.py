"""Options of `rhapsode ppo`, with the names of `PPOConfig`."""

from dataclasses import dataclass

from .base import UserError, check_each, option
from .online import RolloutOptions

ESTIMATORS = ("k1", "k3")


@dataclass
class PpoOptions(RolloutOptions):
    """Proximal policy optimization, the third step of InstructGPT: answers are sampled, scored by a reward model or by
    functions, and made likelier or less likely, while --beta holds the model to what it was. A rollout is
    --per_device_train_batch_size x --steps_per_generation answers on each process; each of the --num_iterations passes
    over it makes --steps_per_generation / --gradient_accumulation_steps updates, and updates are what --max_steps,
    --logging_steps, --save_steps and --eval_steps count. --learning_rate none is 1e-6, and ten times as much with
    --use_peft; models of some millions of parameters want 1e-4. How to choose the coefficients and how to read the
    curves: recipes/guides/ppo.md."""

    EXAMPLES = (
        "rhapsode ppo --config recipes/configs/ppo.yaml",
        "rhapsode ppo --model runs/sft --reward_model runs/reward --dataset prompts.jsonl",
    )

    output_dir: str = option("runs/ppo", "the run directory; the value model goes into value_model/ in it")
    reward_model: str | None = option(
        None, "directory or Hub id of a reward model, usually of rhapsode reward", section="rewards"
    )
    reward_funcs: list[str] = option([], "judge, module:function or file.py:function, as for rhapsode grpo")
    reward_weights: list[float] = option(
        [], "weight of --reward_model (if given), then of each of --reward_funcs; 0 only measures; none is 1 each"
    )
    reward_clip_range: list[float] = option([], "least and greatest score of an answer; none is no clip")
    missing_eos_penalty: float | None = option(None, "subtracted from the score of an answer that did not end")
    num_generations: int = option(1, "answers to each prompt of a rollout", section="rollouts")
    rollout_batch_size: int | None = option(None, "answers sampled at once on a process; none is the whole rollout")
    beta: float = option(
        0.05, "how strongly the model is held to the reference; 0 is off, and saves a copy", section="the penalty"
    )
    kl_estimator: str = option("k1", "KL per token in the reward; k3 hardly holds the model back", ESTIMATORS)
    kl_target: float | None = option(None, "let beta follow this KL, nats an answer; none is a fixed beta")
    kl_horizon: int = option(10_000, "answers over which such a beta may change by a fifth of itself")
    num_iterations: int = option(4, "passes over a rollout", section="the algorithm")
    gamma: float = option(1.0, "discount of a token")
    lam: float = option(0.95, "lambda of generalised advantage estimation")
    entropy_coef: float = option(0.0, "weight of the entropy bonus")
    value_model: str = option(
        "auto",
        "head (on the model's own trunk), reward (starts as the reward model), policy (starts as the model), the "
        "directory of an earlier run, or auto: reward if it fits, else head with --use_peft and policy without",
        section="the value model",
    )
    value_learning_rate: float | None = option(None, "learning rate of the value model; none is --learning_rate")
    vf_coef: float = option(0.5, "weight of the value loss")
    cliprange_value: float | None = option(None, "clip of a value's change since the rollout; none is no clip")
    pretraining_dataset: str | None = option(
        None, "text for PPO-ptx, as --dataset of rhapsode pretrain", section="pretraining text beside the rollouts"
    )
    ptx_coef: float = option(0.0, "weight of the loss on it")
    ptx_max_length: int = option(256, "tokens of a row of it")
    stop_update_kl: float | None = option(
        None,
        "learn no more from a rollout once the model is so many nats a token away from where that began",
        section="guards",
    )
    stop_training_kl: float | None = option(
        None, "end once a rollout is so many nats an answer away from the reference"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.reward_model and not self.reward_funcs:
            raise UserError("--reward_model or --reward_funcs says what a good answer is; give at least one of them")
        self._check_weights(len(self.reward_funcs) + bool(self.reward_model), "rewards")
        self._check_clip()
        if (self.pretraining_dataset is None) != (self.ptx_coef == 0):
            raise UserError(
                f"--ptx_coef {self.ptx_coef} with --pretraining_dataset {self.pretraining_dataset or 'none'}: the "
                f"coefficient weighs that text; give both or neither"
            )
        check_each(self, ("ptx_max_length",), lambda value: value > 1, "is too short; use 2 or more")
