"""The arguments of `PPOTrainer`: those of `transformers.TrainingArguments` and, as far as they exist, trl's names.

`beta`, `epsilon`, `num_iterations`, `num_generations`, `steps_per_generation`, `reward_weights`, the settings of
generation and of logging mean what they mean in trl 1.16's RLOOConfig and GRPOConfig; `gamma`, `lam`, `vf_coef`,
`cliprange_value`, `kl_estimator` and `missing_eos_penalty` what they meant in the PPOConfig that trl 1.12 had.
"""

# ruff: noqa: RUF009 - `_setting` makes a field, as `dataclasses.field` does
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from .kl import ESTIMATORS


def _setting(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class PPOConfig(TrainingArguments):
    """Times are counted in micro-batches, updates (steps of the optimizer) and rollouts:

    a rollout is `steps_per_generation` micro-batches of `per_device_train_batch_size` completions on each process; each
    of the `num_iterations` epochs over it makes `steps_per_generation / gradient_accumulation_steps` updates, which is
    what `max_steps`, `logging_steps`, `save_steps` and `eval_steps` count.
    """

    # As in trl's configurations, other than in TrainingArguments
    learning_rate: float = _setting(1e-6, "Initial learning rate of AdamW.")
    logging_steps: float = _setting(10, "Log every so many updates; below 1, a share of all.")
    bf16: bool | None = _setting(None, "Mixed precision in bfloat16; unset: where a GPU has it and fp16 is off.")
    remove_unused_columns: bool | None = _setting(False, "Keep only the column `prompt`: reward functions need others.")

    # Models
    model_init_kwargs: dict | str | None = _setting(None, "Arguments of `from_pretrained` for a model given by name.")
    trust_remote_code: bool = _setting(False, "Load models and tokenizers that bring code of their own.")
    disable_dropout: bool = _setting(True, "Switch dropout off: old and new log-probabilities are then comparable.")
    value_model: str = _setting(
        "auto",
        "head (on the policy's trunk), reward (a copy of the reward model), policy (a copy of the policy's trunk), a "
        "directory of an earlier run, or auto: reward if there is one of the same vocabulary, else head under PEFT and "
        "policy without.",
    )
    value_learning_rate: float | None = _setting(None, "Learning rate of the value model; unset: learning_rate.")

    # Data and generation
    shuffle_dataset: bool = _setting(True, "Shuffle the prompts, anew in each epoch.")
    num_generations: int = _setting(1, "Completions per prompt.")
    max_completion_length: int = _setting(256, "Most tokens of a completion.")
    generation_batch_size: int | None = _setting(None, "Completions of a rollout, on all processes together.")
    steps_per_generation: int | None = _setting(
        None, "Micro-batches of a rollout; unset: gradient_accumulation_steps, which is one update per epoch over it."
    )
    rollout_batch_size: int | None = _setting(None, "Prompts generated for at once on a process; unset: all of them.")
    temperature: float = _setting(1.0, "Temperature of sampling; log-probabilities are taken at it too.")
    top_p: float = _setting(1.0, "Sample from the fewest tokens that have this probability together.")
    top_k: int = _setting(0, "Sample from so many tokens; 0: from all.")
    min_p: float | None = _setting(None, "Sample from tokens with this share of the likeliest one's probability.")
    repetition_penalty: float = _setting(1.0, "Above 1, tokens that were there become less likely.")
    cache_implementation: str | None = _setting(None, "Kind of KV cache of `generate`.")
    generation_kwargs: dict | str | None = _setting(None, "Further arguments of GenerationConfig; they override.")
    chat_template_kwargs: dict | str | None = _setting(None, "Further arguments of the chat template.")
    ds3_gather_for_generation: bool = _setting(True, "Under ZeRO-3, gather the weights to generate.")

    # Rewards
    beta: float = _setting(0.05, "(Initial) coefficient of the KL penalty; 0: no reference model.")
    kl_estimator: str = _setting("k1", "Per-token KL of the penalty: k1 or k3.")
    kl_target: float | None = _setting(None, "Adapt beta towards this KL, nats a completion; unset: beta is fixed.")
    kl_horizon: int = _setting(10_000, "Completions over which the adaptive beta may change by the clipped error.")
    reward_weights: list[float] | None = _setting(None, "Weight of each reward function; unset: 1.")
    reward_clip_range: tuple[float, float] | None = _setting(None, "Least and greatest score of a completion.")
    missing_eos_penalty: float | None = _setting(None, "Subtracted from the score of a completion without an EOS.")
    mask_truncated_completions: bool = _setting(False, "Leave completions without an EOS out of the loss.")

    # The algorithm
    num_iterations: int = _setting(4, "Epochs over a rollout.")
    gamma: float = _setting(1.0, "Discount of a token.")
    lam: float = _setting(0.95, "Lambda of generalised advantage estimation.")
    normalize_advantages: bool = _setting(True, "Whiten advantages over all tokens of the rollout.")
    epsilon: float = _setting(0.2, "Clip of the probability ratio.")
    epsilon_high: float | None = _setting(None, "Its upper bound; unset: epsilon.")
    vf_coef: float = _setting(0.5, "Weight of the value loss.")
    cliprange_value: float | None = _setting(None, "Clip of a value's change since the rollout; unset: none.")
    entropy_coef: float = _setting(0.0, "Weight of the entropy bonus.")
    ptx_coef: float = _setting(0.0, "Weight of the loss on `pretraining_dataset` (PPO-ptx).")
    ptx_max_length: int = _setting(256, "Most tokens of a pretraining text.")

    # Guards
    stop_update_kl: float | None = _setting(
        None, "Skip the other updates on a rollout once the policy is so many nats a token away from its beginning."
    )
    stop_training_kl: float | None = _setting(
        None, "End training once a rollout is so many nats a completion away from the reference."
    )
    max_skipped_steps: int = _setting(10, "Most updates left out because their gradients are not finite.")

    # Logging
    log_completions: bool = _setting(False, "Write and print a table of completions at every log and evaluation.")
    num_completions_to_print: int | None = _setting(4, "Rows to print; unset: all.")

    _VALID_DICT_FIELDS = (
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "generation_kwargs",
        "chat_template_kwargs",
    )

    def __post_init__(self):
        if self.bf16 is None:
            on_gpu = torch.cuda.is_available() and not self.use_cpu
            self.bf16 = not self.fp16 and on_gpu and torch.cuda.is_bf16_supported()
        super().__post_init__()
        self._size_rollouts()
        self._check()

    def _size_rollouts(self) -> None:
        micro = self.per_device_train_batch_size * self.world_size
        if self.generation_batch_size is not None and self.steps_per_generation is not None:
            raise ValueError("generation_batch_size and steps_per_generation say the same thing; give one of them")
        if self.generation_batch_size is not None:
            if self.generation_batch_size % micro:
                raise ValueError(
                    f"generation_batch_size={self.generation_batch_size} is not a multiple of {micro}, which is "
                    "per_device_train_batch_size times the number of processes"
                )
            self.steps_per_generation = self.generation_batch_size // micro
        self.steps_per_generation = self.steps_per_generation or self.gradient_accumulation_steps
        self.generation_batch_size = micro * self.steps_per_generation
        if self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation={self.steps_per_generation} is not a multiple of gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps}: an update would be made of two rollouts"
            )
        if self.generation_batch_size % self.num_generations:
            raise ValueError(
                f"num_generations={self.num_generations} does not divide the {self.generation_batch_size} completions "
                "of a rollout"
            )

    def _check(self) -> None:
        if self.kl_estimator not in ESTIMATORS:
            raise ValueError(f"kl_estimator={self.kl_estimator!r}; use one of {', '.join(ESTIMATORS)}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; it must be between 0 and 1")
        for name in ("beta", "epsilon", "vf_coef", "entropy_coef", "ptx_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; it must not be negative")
        for name in ("num_iterations", "num_generations", "max_completion_length", "temperature", "kl_horizon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}; it must be positive")
        needs_reference = [n for n in ("kl_target", "stop_training_kl") if getattr(self, n) is not None]
        if self.beta == 0 and needs_reference:
            raise ValueError(f"{needs_reference[0]} needs a reference model, and beta=0 has none; set beta above 0")
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size=True would change the size of a rollout; set the batch size yourself"
            )
