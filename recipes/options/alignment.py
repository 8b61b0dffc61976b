"""Options that all alignment commands have, with names as in TrainingArguments and trl."""

from dataclasses import dataclass

from .base import check_each, check_positive, option

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass
class AlignmentOptions:
    model: str = option("runs/pretrain", "directory or Hub id to start from", section="model and run directory")
    tokenizer: str | None = option(None, "directory or Hub id; none is the model's own")
    trust_remote_code: bool = option(False, "run the model code that the directory or repository brings")
    output_dir: str = option("runs/alignment", "the run directory")
    overwrite_output_dir: bool = option(False, "delete the run that the directory holds")
    resume: bool = option(False, "continue from the newest checkpoint of the run directory")
    dataset: str = option("stdlib", "stdlib (offline), a .jsonl or .parquet file, or a Hub id", section="data")
    eval_dataset: str | None = option(None, "what is held out; none is the validation part of --dataset")
    max_samples: int | None = option(None, "take only the first so many rows of the training data")
    max_eval_samples: int | None = option(None, "take only the first so many rows of the held-out data")
    max_length: int | None = option(None, "tokens of a row at most, longer rows are left out; none is the model's")
    num_train_epochs: float = option(1.0, "passes over the training data", section="how long, in passes or steps")
    max_steps: int | None = option(None, "optimizer steps; none goes by --num_train_epochs")
    per_device_train_batch_size: int = option(8, "rows per process in one forward pass")
    per_device_eval_batch_size: int = option(16, "rows per process in one forward pass of the evaluation")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step")
    learning_rate: float | None = option(
        None, "peak learning rate; none is the command's, see --help of the command", section="optimization"
    )
    lr_scheduler_type: str = option("cosine", "shape after the warm-up", SCHEDULES)
    warmup_steps: float = option(0.03, "steps of linear warm-up; below 1, a share of the run")
    weight_decay: float = option(0.0, "decay of matrices")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0 is off")
    max_skipped_steps: int = option(10, "stop after so many steps left out because gradients are not finite")
    use_peft: bool = option(False, "train low-rank adapters (LoRA) in place of all weights", section="adapters")
    lora_r: int = option(16, "rank of the adapters")
    lora_alpha: int = option(32, "the adapters' product is scaled by lora_alpha / lora_r")
    lora_dropout: float = option(0.0, "dropout in front of the adapters")
    lora_target_modules: list[str] = option([], "names of the layers that get one; none is every matrix of the blocks")
    merge_adapter: bool = option(True, "write whole weights; --no-merge_adapter leaves the adapter beside its base")
    bf16: bool | None = option(
        None,
        "bfloat16 autocast over float32 weights; none is wherever the hardware has it",
        section="precision and memory",
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    attn_implementation: str | None = option(None, "attention kernel; none is the model's own choice")
    logging_steps: int = option(10, "steps between lines of metrics.jsonl", section="watching and keeping")
    report_to: list[str] = option([], "trackers beside metrics.jsonl: tensorboard, wandb, trackio")
    eval_steps: int | None = option(None, "steps between evaluations; none is about five in a run")
    save_steps: int | None = option(None, "steps between checkpoints; none is one at the end of each fifth of the run")
    save_total_limit: int = option(2, "newest checkpoints to keep")
    seed: int = option(0, "of data order, dropout, adapters and samples")

    def __post_init__(self):
        positive = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size")
        positive += ("gradient_accumulation_steps", "learning_rate", "lora_r", "lora_alpha", "logging_steps")
        positive += ("eval_steps", "save_steps", "save_total_limit", "max_samples", "max_eval_samples")
        check_positive(self, *positive)
        natural = ("warmup_steps", "weight_decay", "max_grad_norm", "max_skipped_steps", "seed")
        check_each(self, natural, lambda value: value >= 0, "must not be negative")
        check_each(self, ("lora_dropout",), lambda value: 0 <= value < 1, "must be from 0 up to, but not, 1")
        check_each(self, ("max_length",), lambda value: value > 1, "leaves nothing to predict; use 2 or more")


@dataclass
class AnsweringOptions(AlignmentOptions):
    """What commands have in common whose model answers questions, before and after."""

    eval_prompts: int = option(
        64,
        "held-out prompts answered before and after, for judge, win rate and samples; 0 is off",
        section="answers before and after",
    )
    max_new_tokens: int = option(128, "tokens of such an answer at most")

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "max_new_tokens")
        check_each(self, ("eval_prompts",), lambda value: value >= 0, "must not be negative")
