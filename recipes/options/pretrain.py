"""Options of `rhapsode pretrain`."""

from dataclasses import dataclass

from .base import UserError, option

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "wsd", "constant")


@dataclass
class PretrainOptions:
    """Train a language model from raw text. A run directory holds the model (AutoModelForCausalLM opens it), the
    tokenizer, config_resolved.yaml, metrics.jsonl, report.md with curves.png, and checkpoints/."""

    # What
    preset: str | None = option("rhapsode-10m", "design of a new model, see `rhapsode presets`")
    model: str | None = option(None, "go on from this directory or Hub id, in place of a new model of --preset")
    config_overrides: list[str] = option([], "changes to the preset, e.g. num_hidden_layers=4 qk_norm=none")
    tokenizer: str | None = option(None, "directory or Hub id; none takes that of --model, or trains one first")
    vocab_size: int = option(8192, "tokens of the tokenizer that is trained where none is given")
    dataset: list[str] = option(["stdlib"], "stdlib, files, directories, globs, Hub ids; see the README for the kinds")
    text_column: str = option("text", "column or field of tables that holds the text")
    output_dir: str = option("runs/pretrain", "the run directory")
    overwrite_output_dir: bool = option(False, "delete the run that the directory holds")
    resume: bool = option(False, "continue from the newest intact checkpoint of the run directory")
    # How long
    max_steps: int | None = option(None, "optimizer steps; none goes by --num_train_epochs")
    num_train_epochs: float = option(1.0, "passes over the training data")
    max_seconds: float | None = option(None, "time for the steps, in seconds; the schedule is shortened to fit")
    # Batch, in sequences
    max_length: int | None = option(None, "sequence length in tokens; none is the preset's")
    per_device_train_batch_size: int = option(8, "sequences per process in one forward pass")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step")
    # Optimization
    optim: str = option("adamw", "adamw, or muon for the matrices of the blocks and adamw for the rest", OPTIMIZERS)
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    muon_learning_rate: float = option(0.02, "peak learning rate of Muon")
    weight_decay: float = option(0.1, "decay of matrices; embeddings, norms and biases have none")
    adam_beta1: float = option(0.9, "AdamW's average of gradients")
    adam_beta2: float = option(0.95, "AdamW's average of squared gradients")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0 is off")
    lr_scheduler_type: str = option("cosine", "shape after the warm-up; wsd is flat and then falls", SCHEDULES)
    warmup_steps: float = option(0.02, "steps of linear warm-up; below 1, a share of the run")
    decay_share: float = option(0.3, "wsd: share of the run in which the rate falls to 0")
    min_lr_ratio: float = option(0.0, "cosine and linear: final rate as a share of the peak")
    # Speed
    bf16: bool | None = option(None, "bfloat16 autocast over float32 weights; none is wherever the hardware has it")
    attn_implementation: str = option("sdpa", "attention kernel: eager, sdpa, flash_attention_2, flex_attention, ...")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    torch_compile: bool = option(False, "compile the model; needs a C++ compiler on a CPU")
    # Watching
    logging_steps: int = option(10, "steps between lines of metrics.jsonl")
    eval_steps: int | None = option(None, "steps between evaluations; none is about ten in a run")
    max_eval_tokens: int = option(50_000, "validation tokens of the evaluations on the way; the last one takes all")
    sample_tokens: int = option(64, "length of the samples in the report, in tokens")
    # Keeping
    save_steps: int | None = option(None, "steps between checkpoints; none is about five in a run")
    save_total_limit: int = option(2, "checkpoints to keep")
    seed: int = option(0, "of weights, data order and dropout")

    def __post_init__(self):
        positive = ("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
        positive += ("max_steps", "max_seconds", "max_length", "eval_steps", "save_steps", "save_total_limit")
        positive += ("max_eval_tokens", "vocab_size")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name} {value} must be above 0")
        for name in ("learning_rate", "muon_learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name} {getattr(self, name)} must not be negative")
        for name in ("adam_beta1", "adam_beta2", "decay_share", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name)} must be from 0 to 1")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"--max_length {self.max_length} leaves nothing to predict; use 2 or more")
        if self.model is None and self.preset is None:
            raise UserError("--preset none with --model none: name a design or a model to go on from")
