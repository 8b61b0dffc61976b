"""Options of `rhapsode pretrain`."""

from dataclasses import dataclass

from .base import UserError, check_each, check_positive, option
from .tokenizer import ALGORITHMS

ARCHITECTURES = ("transformer", "ngram", "feedforward", "rnn", "lstm")
PACKINGS = ("best_fit", "concatenate")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "wsd", "constant")
METRICS = ("eval_loss", "eval_bits_per_byte", "loss")
SCOPES = ("regional", "whole")


@dataclass
class PretrainOptions:
    """Train a language model from raw text. A run directory holds the model (AutoModelForCausalLM opens it), the
    tokenizer, config_resolved.yaml, metrics.jsonl, report.md with curves.png, and checkpoints/."""

    EXAMPLES = (
        "rhapsode pretrain --max_seconds 60 --output_dir runs/first",
        "rhapsode pretrain --preset llama2-7b-tiny --tokenizer runs/tokenizer --dataset book.txt --max_steps 20",
        "rhapsode pretrain --config runs/first/config_resolved.yaml --resume",
    )

    architecture: str = option(
        "transformer",
        "transformer, or a classic to compare with: ngram, feedforward, rnn, lstm",
        ARCHITECTURES,
        section="model and run directory",
    )
    preset: str | None = option("rhapsode-10m", "design of a new transformer, see `rhapsode presets`")
    model: str | None = option(None, "go on from this directory or Hub id, in place of a new model")
    config_overrides: list[str] = option([], "changes to the design, e.g. num_hidden_layers=4 qk_norm=none")
    freeze: list[str] = option([], "patterns of parameters that stay as they are, e.g. 'model.layers.[0-3].*'")
    tokenizer: str | None = option(None, "directory or Hub id; none takes that of --model, or trains one first")
    tokenizer_algorithm: str = option(
        "bpe", "how the tokenizer that is trained where none is given cuts words", ALGORITHMS
    )
    vocab_size: int = option(8192, "tokens of the tokenizer that is trained where none is given")
    output_dir: str = option("runs/pretrain", "the run directory")
    overwrite_output_dir: bool = option(False, "delete the run that the directory holds")
    resume: bool = option(False, "continue from the newest intact checkpoint of the run directory")
    dataset: list[str] = option(
        ["stdlib"], "stdlib, files, directories, globs, Hub ids; see the README for the kinds", section="data"
    )
    dataset_weights: list[float] = option([], "share of the training tokens from each dataset; none is by their size")
    text_column: str = option("text", "column or field of tables that holds the text")
    validation_share: float = option(
        0.05, "share of the text that validates where a source has no split for it; of one text, its end"
    )
    streaming: bool = option(False, "tokenize while training, in place of first and into shards; needs --max_steps")
    packing: str = option(
        "best_fit", "documents to rows: best_fit cuts few and pads little, concatenate fills every row", PACKINGS
    )
    num_proc: int | None = option(None, "processes that tokenize, some 200 MB each; none is one per core")
    data_cache: str | None = option(None, "directory of the tokenized shards; none is ~/.cache/rhapsode/shards")
    max_steps: int | None = option(None, "optimizer steps; none goes by --num_train_epochs", section="how long")
    num_train_epochs: float = option(1.0, "passes over the training data")
    max_seconds: float | None = option(None, "time for the steps, in seconds; the schedule is shortened to fit")
    max_length: int | None = option(
        None, "sequence length in tokens; none is the preset's", section="batch, in sequences"
    )
    per_device_train_batch_size: int = option(8, "sequences per process in one forward pass")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step")
    batch_warmup_steps: int = option(0, "steps over which accumulation grows from 1 to its full number")
    optim: str = option(
        "adamw",
        "adamw, or muon for the matrices of the blocks and adamw for the rest",
        OPTIMIZERS,
        section="optimization",
    )
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    muon_learning_rate: float = option(0.02, "peak learning rate of Muon")
    layer_lr_decay: float = option(1.0, "rate of a block as a share of the next block's, from the head down")
    lr_multipliers: list[str] = option([], "factors on the rate by pattern of parameters, e.g. '*.embed_tokens.*=0.1'")
    weight_decay: float = option(0.1, "decay of matrices; embeddings, norms and biases have none")
    adam_beta1: float = option(0.9, "AdamW's average of gradients")
    adam_beta2: float = option(0.95, "AdamW's average of squared gradients")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm; 0 is off")
    lr_scheduler_type: str = option("cosine", "shape after the warm-up; wsd is flat and then falls", SCHEDULES)
    warmup_steps: float = option(0.02, "steps of linear warm-up; below 1, a share of the run")
    decay_share: float = option(0.3, "wsd: share of the run in which the rate falls to 0")
    min_lr_ratio: float = option(0.0, "cosine and linear: final rate as a share of the peak")
    z_loss: float = option(0.0, "factor of (log sum exp of the logits)^2 in the loss; 1e-4 keeps logits small")
    ema_decay: float = option(0.0, "keep an exponential average of the weights, which is what is saved; 0 is off")
    spike_threshold: float = option(0.0, "skip steps whose loss or gradient norm is so many deviations high; 0 is off")
    max_skipped_steps: int = option(20, "stop after so many skipped steps (spikes, and what is not finite)")
    bf16: bool | None = option(
        None,
        "bfloat16 autocast over float32 weights; none is wherever the hardware has it",
        section="precision, memory and speed",
    )
    pure_bf16: bool = option(False, "weights, gradients and optimizer in bfloat16 too: half the memory, less exact")
    fp8: bool = option(False, "matrix products of the blocks in float8, by torchao, where the hardware has it")
    attn_implementation: str | None = option(
        None, "attention kernel: eager, sdpa, blocked, ...; none is blocked on a CPU up to 1,024 tokens, else sdpa"
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    gradient_checkpointing_every: int = option(1, "recompute every so many-th block: 1 is all, 2 half of them")
    use_liger_kernel: bool | None = option(None, "Liger's fused loss on a GPU; none is where it is installed")
    torch_compile: bool = option(False, "compile the model; needs a C++ compiler on a CPU")
    torch_compile_scope: str = option("regional", "compile one block and use it for all, or the whole model", SCOPES)
    num_processes: int | None = option(
        None, "start so many processes on this machine; none leaves it to the launcher", section="several processes"
    )
    accelerate_config: str | None = option(
        None,
        "how the processes share the work: ddp, fsdp2, deepspeed, tensor_parallel, or a YAML of accelerate's; "
        "none is ddp",
    )
    logging_steps: int = option(10, "steps between lines of metrics.jsonl", section="watching")
    report_to: list[str] = option([], "trackers beside metrics.jsonl: tensorboard, wandb, trackio")
    run_name: str | None = option(None, "name of the run for trackers; none is that of the output directory")
    track_energy: bool = option(True, "energy by codecarbon, where that is installed")
    eval_steps: int | None = option(None, "steps between evaluations; none is about ten in a run")
    max_eval_tokens: int = option(50_000, "validation tokens of the evaluations on the way")
    final_eval_tokens: int | None = option(None, "validation tokens of the last evaluation; none is all")
    sample_tokens: int = option(64, "length of the samples in the report, in tokens")
    save_steps: int | None = option(None, "steps between checkpoints; none is about five in a run", section="keeping")
    save_minutes: float | None = option(None, "minutes between checkpoints, beside --save_steps")
    save_total_limit: int = option(2, "newest checkpoints to keep, beside the best one and milestones")
    metric_for_best_model: str | None = option(None, "keep the checkpoint in which it is lowest", METRICS)
    milestone_steps: int | None = option(None, "checkpoints at multiples of it are kept for ever")
    seed: int = option(0, "of weights, data order and dropout")

    def __post_init__(self):
        positive = ("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
        positive += ("max_steps", "max_seconds", "max_length", "eval_steps", "save_steps", "save_total_limit")
        positive += ("max_eval_tokens", "final_eval_tokens", "vocab_size", "num_proc", "num_processes")
        positive += ("save_minutes", "milestone_steps")
        check_positive(self, *positive)
        natural = ("learning_rate", "muon_learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "seed")
        natural += ("batch_warmup_steps", "z_loss", "spike_threshold", "max_skipped_steps", "sample_tokens")
        check_each(self, natural, lambda value: value >= 0, "must not be negative")
        shares = ("adam_beta1", "adam_beta2", "decay_share", "min_lr_ratio")
        check_each(self, shares, lambda value: 0 <= value <= 1, "must be from 0 to 1")
        check_each(self, ("validation_share",), lambda value: 0 < value < 1, "must be above 0 and below 1")
        check_each(self, ("ema_decay",), lambda value: 0 <= value < 1, "must be from 0 up to, but not, 1")
        if self.accelerate_config is not None and self.num_processes is None:
            raise UserError(f"--accelerate_config {self.accelerate_config} without --num_processes: say how many")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"--max_length {self.max_length} leaves nothing to predict; use 2 or more")
        if self.model is None and self.preset is None:
            raise UserError("--preset none with --model none: name a design or a model to go on from")
