"""Options of `rhapsode scaling`."""

from dataclasses import dataclass

from .base import UserError, check_each, check_positive, option
from .pretrain import OPTIMIZERS, SCHEDULES

PARAMETER_COUNTS = ("all", "non_embedding")
LAWS = ("auto", "chinchilla", "kaplan")


@dataclass
class ScalingOptions:
    """Train a ladder of sizes and token budgets, fit the scaling laws of Kaplan and of Chinchilla with intervals, write
    down what they predict for a larger model, train that model, and compare."""

    EXAMPLES = (
        "rhapsode scaling --max_minutes 10",
        "rhapsode scaling --dataset book.txt --sizes 16x2 24x2 32x2 --tokens 1e5 2e5 4e5",
    )

    sizes: list[str] = option(
        ["16x2", "24x2", "32x2", "40x2"], "models of the fit, each WIDTHxLAYERS", section="the ladder"
    )
    tokens: list[int] = option([250_000, 500_000, 1_000_000], "training tokens; every size is trained on each budget")
    held_out: str | None = option(None, "the larger model; none is the smallest of --held_out_ratio")
    held_out_ratio: float = option(4.0, "parameters of the larger model by those of the largest in the fit, at least")
    held_out_tokens: int | None = option(None, "training tokens of the larger model; none is the largest budget")
    noise_seeds: int = option(3, "seeds of one run in the middle of the ladder: what chance alone changes")
    max_minutes: float | None = option(None, "shorten all budgets alike, by measured speed, to take about so long")
    preset: str = option(
        "rhapsode-10m", "design that the sizes are put into, see `rhapsode presets`", section="model and data"
    )
    config_overrides: list[str] = option([], "changes to the design, e.g. qk_norm=none")
    dataset: list[str] = option(["stdlib"], "stdlib, files, directories, globs or Hub ids, see `pretrain`")
    text_column: str = option("text", "column or field of tables that holds the text")
    data_cache: str | None = option(None, "directory of the tokenized shards; none is ~/.cache/rhapsode/shards")
    tokenizer: str | None = option(None, "directory or Hub id; none trains one of --vocab_size first")
    vocab_size: int = option(1024, "tokens of the tokenizer; with few, embeddings do not outweigh the rest")
    max_length: int = option(128, "sequence length in tokens")
    per_device_train_batch_size: int = option(
        8, "sequences in one forward pass and step", section="training, the same for all"
    )
    optim: str = option("muon", "muon, whose rate suits every width, or adamw", OPTIMIZERS)
    learning_rate: float = option(0.03, "peak learning rate of AdamW: with muon, of embeddings and norms")
    muon_learning_rate: float = option(0.02, "peak learning rate of Muon")
    weight_decay: float = option(0.1, "decay of matrices")
    lr_scheduler_type: str = option("linear", "shape after the warm-up", SCHEDULES)
    warmup_steps: float = option(0.05, "steps of linear warm-up; below 1, a share of the run")
    bf16: bool | None = option(None, "bfloat16 autocast; none is wherever the hardware has it")
    attn_implementation: str | None = option(None, "attention kernel, see `pretrain`; none is the quickest here")
    law: str = option(
        "auto",
        "whose prediction counts; auto: that which foretells the largest run of the fit",
        LAWS,
        section="the fit",
    )
    parameter_count: str = option("all", "what N counts; the other is reported", PARAMETER_COUNTS)
    bootstrap_samples: int = option(200, "refits for the intervals")
    confidence: float = option(0.95, "of the intervals")
    output_dir: str = option("runs/scaling", "directory of the ladder", section="the command")
    overwrite_output_dir: bool = option(False, "delete the ladder that the directory holds")
    resume: bool = option(False, "go on with the ladder of the directory: what is finished is not trained again")
    num_proc: int | None = option(None, "runs of the ladder at a time; none is one per core, and one on an accelerator")
    json: bool = option(False, "print one JSON object in place of the table")
    seed: int = option(0, "of weights, data order and bootstrap")

    def __post_init__(self):
        positive = ("held_out_tokens", "held_out_ratio", "noise_seeds", "max_minutes", "vocab_size", "num_proc")
        positive += ("per_device_train_batch_size",)
        check_positive(self, *positive)
        natural = ("learning_rate", "muon_learning_rate", "weight_decay", "warmup_steps")
        check_each(self, natural, lambda value: value >= 0, "must not be negative")
        if self.max_length < 2:
            raise UserError(f"--max_length {self.max_length} leaves nothing to predict; use 2 or more")
        if not 0 < self.confidence < 1:
            raise UserError(f"--confidence {self.confidence} must be between 0 and 1")
        if self.bootstrap_samples < 20:
            raise UserError(f"--bootstrap_samples {self.bootstrap_samples} is too few for an interval; use 20 or more")
        for tokens in self.tokens:
            if tokens < self.max_length * self.per_device_train_batch_size:
                raise UserError(f"--tokens {tokens} is less than one step of batch size times --max_length")
