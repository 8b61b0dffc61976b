"""What the alignment commands do alike around a trainer of trl: arguments, data, metrics, saving.

    model and rows -> arguments -> (answers before) -> trainer.train() -> the directory -> evaluation of what was saved

The evaluation opens the directory that has been written: what is measured is what is published.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import trl
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..options.alignment import AlignmentOptions
from ..options.base import UserError, one_line
from ..reporting.metrics_file import MetricsLog
from ..trainers.guards import StepGuard
from ..training.hardware import supports_bf16
from ..training.metrics import progress_bar
from ..training.sealing import replacing
from ..training.setup import CHECKPOINTS
from ..training.tracking import check_trackers
from ..training.whole_checkpoints import WholeCheckpoints, with_whole_checkpoints
from . import adapters
from .directory import begin, check_directory
from .identity import identity
from .lengths import leave_out_long
from .models import row_length

WITH_ADAPTERS = 10  # adapters want about ten times the rate (Schulman et al. 2025, "LoRA Without Regret")
ADAPTER = "adapter"
RECOMPUTE = ("activation_checkpointing", "gradient_checkpointing")  # the newer name, and that of older transformers
NOT_RESULTS = ("epoch", "eval_num_tokens", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


@dataclass
class Job:
    """What a command works on. `left_out` counts the rows that were too long, of training and held-out data."""

    command: str
    options: AlignmentOptions
    open: Callable  # (options, **kwargs) -> (model, tokenizer)
    directory: Path
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    length: int
    train: Dataset
    held_out: Dataset
    left_out: dict[str, int]


def prepare(command: str, options: AlignmentOptions, open: Callable, read: Callable) -> Job:
    """Model, tokenizer and rows; nothing is written.

    Args:
        open: as `models.open_policy`.
        read: as the functions of `datasets`: (source, split, seed, limit) -> rows.
    """
    check_trackers(options.report_to)
    directory = check_directory(options, command)
    train = read(options.dataset, "train", options.seed, options.max_samples)
    held_out = read(options.eval_dataset or options.dataset, "validation", options.seed, options.max_eval_samples)
    model, tokenizer = open(options)
    length = row_length(options, model)
    room = length - getattr(options, "max_completion_length", 0)  # which an answer that is sampled may need
    if room < 1:
        raise UserError(
            f"--max_completion_length {options.max_completion_length} leaves no room for a prompt in rows of {length} "
            "tokens; make it less, or --max_length more"
        )
    train, cut = leave_out_long(train, tokenizer, room, f"--dataset {options.dataset}")
    held_out, cut_held_out = leave_out_long(held_out, tokenizer, room, "the held-out data")
    left_out = {"train": cut, "held_out": cut_held_out}
    return Job(command, options, open, directory, model, tokenizer, length, train, held_out, left_out)


def arguments(job: Job, config_class: type[TrainingArguments], rate: float, **own) -> TrainingArguments:
    """trl's configuration from the options; `rate` is the learning rate that --learning_rate none means."""
    o = job.options
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
    same = ("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "warmup_steps")
    same += ("gradient_accumulation_steps", "lr_scheduler_type", "weight_decay", "max_grad_norm", "logging_steps")
    same += ("save_total_limit", "seed")
    recompute = next(n for n in RECOMPUTE if n in config_class.__dataclass_fields__)
    settings = {name: getattr(o, name) for name in same} | {
        "output_dir": str(job.directory / CHECKPOINTS),
        "max_steps": o.max_steps or -1,
        recompute: o.gradient_checkpointing,
        "learning_rate": o.learning_rate or rate * (WITH_ADAPTERS if o.use_peft else 1),
        "use_cpu": on_cpu,
        "bf16": supports_bf16(device) if o.bf16 is None else o.bf16,
        "dataloader_pin_memory": not on_cpu,
        "eval_strategy": "steps",
        "eval_steps": o.eval_steps or 0.2,  # below 1: a share of the run
        "save_steps": o.save_steps or 0.2,
        "report_to": o.report_to or "none",
        "run_name": job.directory.name,
        "logging_nan_inf_filter": False,  # a loss that is not finite is to be seen
        "disable_tqdm": True,  # the progress bar is ours
    }
    if hasattr(config_class, "max_length"):  # those that sample have the lengths of prompt and answer in its place
        settings["max_length"] = job.length
    try:
        return config_class(**settings | own)
    except ValueError as error:
        raise UserError(one_line(error)) from error


def train(job: Job, trainer_class: type, args: TrainingArguments) -> dict:
    """Train, save, and return the sums of the run; all processes call it."""
    trainer = build(job, trainer_class, args)
    trainer.identity = broadcast_object_list([identity(job, trainer) if args.process_index == 0 else None])[0]
    newest = trainer.newest_checkpoint() if job.options.resume else None
    if args.process_index == 0:
        begin(job.options, job.command, job.tokenizer, _facts(job, args))
    args.distributed_state.wait_for_everyone()
    _say(job, args, trainer, newest)
    done = fit(trainer, newest)
    evaluated = [row for row in trainer.state.log_history if "eval_runtime" in row and row["step"] == done.global_step]
    held_out = evaluated[-1] if evaluated else trainer.evaluate()
    held_out = {key: value for key, value in held_out.items() if key not in NOT_RESULTS}
    if "eval_reward" in held_out:
        held_out.pop("eval_loss", None)  # of answers that were sampled for it, which says nothing
    save(job, trainer)
    sums = {"step": done.global_step, "seconds": done.metrics["train_runtime"]}
    if newest is None or not newest.endswith(f"-{done.global_step}"):  # otherwise there were no steps to have a mean
        sums["train_loss"] = done.training_loss
    return sums | held_out


def build(job: Job, trainer_class: type, args: TrainingArguments):
    """The trainer, with our line for each that it logs in place of its own, and a guard before its steps."""
    guard = StepGuard(job.options.max_skipped_steps, args.fp16)
    if isinstance(trainer_class, type):
        trainer_class = with_whole_checkpoints(trainer_class)
    try:
        trainer = trainer_class(
            model=job.model,
            args=args,
            train_dataset=job.train,
            eval_dataset=job.held_out,
            processing_class=job.tokenizer,
            peft_config=adapters.lora(job.options, job.model),
            callbacks=[MetricsCallback(job.directory, guard)],
        )
    except ValueError as error:  # a template without marks of the answer, options that exclude each other
        for folder in (Path(args.output_dir), job.directory):  # which trainers make at once
            with suppress(OSError):
                folder.rmdir()  # if nothing is in it
        raise UserError(one_line(error)) from error
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if not hasattr(trainer, "step_guard"):  # PPO has its own, which also ends updates
        trainer.add_callback(guard)
    assert isinstance(trainer, WholeCheckpoints), "a function that makes a trainer sees to it itself"
    return trainer


def fit(trainer, newest: str | None):
    """`trainer.train`; what it comes to where a weight is a NaN is one line, below the progress bar."""
    try:
        done = trainer.train(resume_from_checkpoint=newest)
        trainer.check_finite()
        return done
    except RuntimeError as error:  # torch's, where such a model samples
        trainer.check_finite(here=True)
        raise error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # torch's, where a file holds more than tensors and numbers
            raise
        raise UserError(
            f"--resume: a file in {newest} could run code and is not read; delete the checkpoint"
        ) from error
    finally:
        next(c for c in trainer.callback_handler.callbacks if isinstance(c, MetricsCallback)).close()


def save(job: Job, trainer) -> None:
    """The model, with its adapter merged unless told otherwise, in the run directory; all processes call it."""
    o, directory, is_main = job.options, job.directory, trainer.args.process_index == 0
    trainer.model.config.use_cache = True  # trainers switch it off, and config.json would say so
    merges = o.use_peft and o.merge_adapter
    target = directory / ADAPTER if merges else directory
    with replacing(target, is_main) as folder:
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(folder))
        trainer.accelerator.wait_for_everyone()
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; config_resolved.yaml says the same
    if is_main and merges:
        base, _ = job.open(o, dtype="auto")
        merged = adapters.merge(base, target)
        merged.config.use_cache = True
        with replacing(directory) as folder:
            merged.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()


def _facts(job: Job, args: TrainingArguments) -> dict:
    """What was known before the first step."""
    return {
        "parameters": job.model.num_parameters(),
        "precision": "float32 weights" + (", products in bfloat16 (autocast)" if args.bf16 else ""),
        "learning_rate": args.learning_rate,
        "max_length": job.length,
        "processes": args.world_size,
        "device": str(args.device),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}",
        "rows": {"train": len(job.train), "held_out": len(job.held_out)},
        "left_out": job.left_out,
    }


def _say(job: Job, args: TrainingArguments, trainer, newest: str | None) -> None:
    if args.process_index == 0:
        if job.options.resume:
            nothing = f"--resume: no whole checkpoint in {job.directory}; starting at step 0"
            print(f"resumed from {newest}" if newest else nothing, file=sys.stderr)
        kept, cut = {"train": len(job.train), "held_out": len(job.held_out)}, job.left_out
        if any(cut.values()):
            rows = " and ".join(f"{cut[key]} of {cut[key] + kept[key]} {key} rows" for key in cut)
            print(f"left out, for they are longer than {job.length} tokens: {rows}", file=sys.stderr)
        total = sum(p.numel() for p in trainer.model.parameters())
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        share = "" if trained == total else f", {trained:,} of them trained"
        rows = f"{len(job.train):,} rows, {len(job.held_out):,} held out"
        print(f"{total:,} parameters{share}; {rows}; learning rate {args.learning_rate:g}", file=sys.stderr, flush=True)


class MetricsCallback(TrainerCallback):
    """metrics.jsonl and the progress bar: one object for each line that the trainer logs, training or evaluation."""

    def __init__(self, directory: Path, guard: StepGuard):
        self.path, self.guard = directory / "metrics.jsonl", guard
        self.log = self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self.log = MetricsLog(self.path, state.global_step)
        self.tokens = state.num_input_tokens_seen  # those that sample count there, and a checkpoint has it
        self.tokens_before = 0 if self.tokens else self.log.last.get("tokens") or 0
        self.since = time.perf_counter()
        self.bar = progress_bar(state.max_steps, state.global_step, True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.update()

    def on_log(self, args, state, control, logs, **kwargs):
        if not self.log or "train_runtime" in logs:
            return
        row = {k: v for k, v in logs.items() if isinstance(v, int | float) and k != "eval_num_tokens"}
        if "num_tokens" in row:  # of the others it is counted from the start of this process
            seconds, now = time.perf_counter() - self.since, row.pop("num_tokens")
            row |= {"tokens": int(self.tokens_before + now), "tokens_per_second": (now - self.tokens) / seconds}
            self.tokens, self.since = now, time.perf_counter()
        if self.guard.skipped:
            row["skipped_steps"] = self.guard.skipped
        self.log.write(step=state.global_step, **row)

    def close(self) -> None:
        """The progress bar, also of a run that failed."""
        if self.bar is not None:
            self.bar.close()
