"""Pretraining: raw text to a language model, in one loop.

    rows of tokens -> loss -> gradients -> clip -> optimizer, and now and then: evaluate, save, log

The loss of a step is the sum over all its target tokens, on every process and in every accumulated batch, divided by
their number: one process with a batch of 16 and two processes with 4 x 2 accumulated steps compute the same.
"""

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn

from .cli import run_command
from .data.corpus import read_documents
from .data.tokens import IGNORED, PackedRows, TokenStream, tokenize
from .generate import continue_text
from .options.base import RESOLVED, UserError, save_resolved
from .options.pretrain import PretrainOptions
from .training import setup
from .training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from .training.hardware import peak_flops, peak_memory_bytes, supports_bf16
from .training.interrupt import Interrupt
from .training.loss import NextTokenLoss
from .training.metrics import MetricsLog, flops_per_token, progress_bar
from .training.optimizers import build_optimizers, learning_rate_share, set_learning_rate
from .training.report import write_report
from .training.scoring import Score, score_documents


@dataclass
class Progress:
    """What a checkpoint remembers beside weights, optimizer and random states."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    options: PretrainOptions
    directory: Path
    accelerator: Accelerator
    tokenizer: object
    model: nn.Module
    loss: nn.Module
    rows: PackedRows
    validation: TokenStream
    length: int
    total_steps: int
    optimizers: list
    progress: Progress = field(default_factory=Progress)

    @property
    def rows_per_step(self) -> int:
        o = self.options
        return o.per_device_train_batch_size * o.gradient_accumulation_steps * self.accelerator.num_processes


def run(options: PretrainOptions) -> None:
    current = prepare(options)
    with Interrupt() as interrupt:
        train(current, interrupt)
    step = current.progress.step
    if interrupt.name:
        say(current, f"{interrupt.name}: saved step {step} of {current.total_steps}; go on with --resume")
        raise KeyboardInterrupt
    finish(current)


def prepare(options: PretrainOptions) -> Run:
    """Everything that the first step needs; nothing is written before the options are known to fit together."""
    bf16 = supports_bf16(PartialState().device) if options.bf16 is None else options.bf16
    AcceleratorState._reset_state()  # another run in this process may have had another precision
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    is_main = accelerator.is_main_process
    set_seed(options.seed)
    directory = setup.check_directory(options)
    tokenizer = setup.open_tokenizer(options, directory, show_progress=is_main)
    model = setup.open_model(options, tokenizer).to(accelerator.device).train()
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    length = options.max_length or model.config.max_position_embeddings
    streams = {
        split: tokenize(
            read_documents(options.dataset, split, options.text_column), tokenizer, f"tokens of {split}", is_main
        )
        for split in ("train", "validation")
    }
    try:
        rows = PackedRows(streams["train"], length, options.seed)
    except ValueError as error:
        raise UserError(f"--dataset {' '.join(options.dataset)}: {error}") from error
    current = Run(
        options,
        directory,
        accelerator,
        tokenizer,
        model,
        NextTokenLoss(model),
        rows,
        streams["validation"],
        length,
        0,
        [],
    )
    current.total_steps = options.max_steps or max(1, int(options.num_train_epochs * len(rows) / current.rows_per_step))
    current.optimizers = build_optimizers(model, options)
    resume(current)
    if is_main:
        setup.make_directory(options)
        tokenizer.model_max_length = length
        save_resolved(options, directory / RESOLVED, "pretrain")
        tokenizer.save_pretrained(directory)
    current.loss = accelerator.prepare_model(torch.compile(current.loss) if options.torch_compile else current.loss)
    describe(current, streams["train"])
    return current


def resume(current: Run) -> None:
    if not current.options.resume:
        return
    newest = newest_checkpoint(current.directory / setup.CHECKPOINTS)
    if newest is None:
        say(current, f"--resume: no checkpoint in {current.directory}; starting at step 0")
        return
    current.progress = Progress(**load_checkpoint(newest, current.model, current.optimizers))
    say(current, f"resumed from {newest}")


def describe(current: Run, stream: TokenStream) -> None:
    model, weights = current.model, next(current.model.parameters()).dtype
    products = "bfloat16 (autocast)" if current.accelerator.mixed_precision == "bf16" else "float32"
    say(
        current,
        f"{sum(p.numel() for p in model.parameters()):,} parameters in {str(weights).removeprefix('torch.')}, matrix "
        f"products in {products}; {len(stream.ids):,} training tokens of {len(stream.starts):,} documents; "
        f"{current.total_steps:,} steps of {current.rows_per_step * current.length:,} tokens",
    )


def say(current: Run, text: str) -> None:
    current.accelerator.print(text, file=sys.stderr, flush=True)


def train(current: Run, interrupt: Interrupt) -> None:
    """The loop: until the last step, the end of the time, or a signal."""
    options, progress, total = current.options, current.progress, current.total_steps
    eval_steps = options.eval_steps or max(1, total // 10)
    save_steps = options.save_steps or max(1, total // 5)
    is_main = current.accelerator.is_main_process
    log = MetricsLog(current.directory / "metrics.jsonl", progress.step) if is_main else None
    peak, kind = peak_flops(current.accelerator.device.type, torch.bfloat16 if is_bf16(current) else torch.float32)
    flops = flops_per_token(current.model, current.length)
    since = Progress(**asdict(progress))
    losses: list[torch.Tensor] = []
    with progress_bar(total, progress.step, is_main) as bar:
        while progress.step < total and not interrupt.name and share_done(current) < 1:
            start = time.perf_counter()
            loss, grad_norm = train_step(current)
            losses.append(loss)
            progress.step += 1
            progress.tokens += current.rows_per_step * current.length
            progress.seconds += time.perf_counter() - start
            is_last = progress.step == total or share_done(current) >= 1
            bar.update()
            if is_main and (progress.step % options.logging_steps == 0 or is_last):
                seconds = progress.seconds - since.seconds
                speed = (progress.tokens - since.tokens) / seconds
                row = {
                    "step": progress.step,
                    "loss": torch.stack(losses).mean().item(),
                    "learning_rate": current.optimizers[-1].param_groups[0]["lr"],
                    "grad_norm": grad_norm.item(),
                    "epoch": progress.step * current.rows_per_step / len(current.rows),
                    "tokens": progress.tokens,
                    "seconds": progress.seconds,
                    "tokens_per_second": speed,
                    "mfu": speed * flops / (peak * current.accelerator.num_processes),
                    "mfu_peak": kind,
                    "memory_bytes": peak_memory_bytes(current.accelerator.device),
                }
                log.write(**row)
                bar.set_postfix_str(f"loss {row['loss']:.3f}, {speed:,.0f} tokens/s, MFU {row['mfu']:.0%}")
                since, losses = Progress(**asdict(progress)), []
            if progress.step % eval_steps == 0 and not is_last:
                score = evaluate(current, options.max_eval_tokens)
                if is_main:
                    log.write(step=progress.step, eval_loss=score.loss, eval_bits_per_byte=score.bits_per_byte)
            if progress.step % save_steps == 0 or is_last or interrupt.name:
                save(current)


def train_step(current: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """One update; returns the loss in nats per target token and the norm of the gradients, both before the update."""
    options, accelerator, progress = current.options, current.accelerator, current.progress
    batches = step_batches(current)
    num_items = sum((batch["labels"][:, 1:] != IGNORED).sum() for batch in batches)
    num_items = accelerator.reduce(num_items.to(accelerator.device), reduction="sum")
    total = torch.zeros((), device=accelerator.device)
    for i, batch in enumerate(batches):
        batch = {key: value.to(accelerator.device) for key, value in batch.items()}
        is_last = i == len(batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(current.loss):
            loss = current.loss(batch, num_items)
            # Gradients are averaged over processes, but each loss is already divided by the targets of all of them.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    limit = options.max_grad_norm if options.max_grad_norm > 0 else float("inf")
    grad_norm = nn.utils.clip_grad_norm_(current.model.parameters(), limit)
    share = learning_rate_share(options, progress.step, current.total_steps, share_done(current))
    set_learning_rate(current.optimizers, share)
    for optimizer in current.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return accelerator.reduce(total, reduction="sum"), grad_norm


def step_batches(current: Run) -> list[dict[str, torch.Tensor]]:
    """This process's share of the rows of the step, as one batch for each accumulated forward pass."""
    size, accelerator = current.options.per_device_train_batch_size, current.accelerator
    first = current.progress.step * current.rows_per_step
    strides = range(current.options.gradient_accumulation_steps)
    offsets = [(i * accelerator.num_processes + accelerator.process_index) * size for i in strides]
    return [current.rows.batch(first + offset, size) for offset in offsets]


def share_done(current: Run) -> float:
    """0 to 1: how much of the run is over, by steps or by time, whichever is further."""
    by_steps = current.progress.step / current.total_steps
    limit = current.options.max_seconds
    return by_steps if limit is None else max(by_steps, min(1.0, current.progress.seconds / limit))


def is_bf16(current: Run) -> bool:
    return current.accelerator.mixed_precision == "bf16"


def evaluate(current: Run, max_tokens: int | None = None, stride: int | None = None) -> Score:
    """Held-out loss; on the way with windows that barely overlap, which is cheap and a little pessimistic."""
    return score_documents(
        current.model,
        current.validation,
        current.length,
        stride or current.length - 1,
        autocast=current.accelerator.autocast,
        max_tokens=max_tokens,
        show_progress=current.accelerator.is_main_process,
    )


def save(current: Run) -> None:
    if current.accelerator.is_main_process:
        root, keep = current.directory / setup.CHECKPOINTS, current.options.save_total_limit
        try:
            save_checkpoint(
                root, current.progress.step, current.model, current.optimizers, asdict(current.progress), keep
            )
        except OSError as error:
            raise UserError(
                f"checkpoint at step {current.progress.step}: {error.strerror}; "
                f"the newest whole one is {newest_checkpoint(root) or 'none'}"
            ) from error
    current.accelerator.wait_for_everyone()


def finish(current: Run) -> None:
    """The last evaluation, the model in the standard format, samples and the report."""
    score = evaluate(current, stride=max(1, current.length // 2))
    if not current.accelerator.is_main_process:
        return
    directory, model, options = current.directory, current.model, current.options
    model.config.use_cache = True
    model.save_pretrained(directory)
    documents = current.validation.documents()[:3]
    prompts = [current.tokenizer.decode(ids[:24], skip_special_tokens=True) for ids in documents]
    room = max(1, min(options.sample_tokens, current.length - 32))
    samples = [(p, continue_text(model, current.tokenizer, p, room, options.seed)) for p in prompts]
    results = {
        **asdict(current.progress),
        "parameters": sum(p.numel() for p in model.parameters()),
        "eval_loss": score.loss,
        "eval_perplexity": score.perplexity,
        "eval_bits_per_byte": score.bits_per_byte,
        "eval_tokens": int(score.targets.sum()),
        "eval_bytes": int(score.num_bytes.sum()),
        "samples": samples,
    }
    (directory / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    report = write_report(directory)
    say(current, f"validation: {score.loss:.3f} nats/token, {score.bits_per_byte:.3f} bits/byte; report: {report}")


if __name__ == "__main__":
    sys.exit(run_command("pretrain", sys.argv[1:]))
