"""Pretraining: raw text to a language model, in one loop.

    rows of tokens -> loss -> gradients -> clip -> optimizer, and now and then: evaluate, save, log

The loss of a step is the sum over all its target tokens, on every process and in every accumulated batch, divided by
their number: one process with a batch of 16 and two processes with 4 x 2 accumulated steps compute the same. What is
random in a step, dropout, is a function of the seed, the step and the process, and so is the data: nothing but the
number of the step has to be remembered to go on exactly.
"""

import sys
import time
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from .cli import run_command
from .data.rows import Processes, open_rows, open_validation
from .data.tokens import IGNORED
from .options.base import UserError
from .options.output import check_output
from .options.pretrain import PretrainOptions
from .training import outcome, setup
from .training.attention import best_attention, set_attention
from .training.checkpoint import NotFiniteError, Retention, newest_checkpoint, save_checkpoint
from .training.ema import WeightAverage
from .training.guard import Guard
from .training.interrupt import Interrupt
from .training.launch import is_launched, launch
from .training.loss import NextTokenLoss
from .training.optimizers import set_learning_rate
from .training.parallel import Parallel
from .training.precision import Precision
from .training.schedule import BatchSchedule, learning_rate_share
from .training.scoring import Score, score_documents
from .training.state import collect, restore
from .training.tracking import check_trackers
from .training.updates import UpdateProbe
from .training.watch import Watch


@dataclass
class Progress:
    """Where the run is: optimizer steps, tokens, seconds in steps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    options: PretrainOptions
    directory: Path
    parallel: Parallel
    precision: Precision
    tokenizer: object
    model: nn.Module
    loss: nn.Module  # the model within what computes the loss, within what shares the work
    rows: object
    validation: object
    length: int
    batches: BatchSchedule
    total_steps: int
    optimizers: list
    average: WeightAverage | None
    guard: Guard
    progress: Progress = field(default_factory=Progress)
    metrics: dict = field(default_factory=dict)  # the newest of what the best checkpoint is chosen by
    since_log: dict | None = None  # on resume

    @property
    def checkpoints(self) -> Path:
        return self.directory / setup.CHECKPOINTS


def run(options: PretrainOptions) -> None:
    if options.num_processes is not None and options.num_processes > 1 and not is_launched():
        launch("pretrain", options)
        return
    current = prepare(options)
    sums = fit(current) if hasattr(current.model, "fit") else train_and_watch(current)
    score = evaluate(current, options.final_eval_tokens, stride=max(1, current.length // 2))
    report = outcome.write(current, score, sums)
    say(current, f"validation: {score.loss:.3f} nats/token, {score.bits_per_byte:.3f} bits/byte; report: {report}")


def train_and_watch(current: Run) -> dict:
    """The sums of time and energy that the results have beside the progress."""
    watch = Watch(current.options, current.parallel, current.precision, current.directory, current.progress.step)
    with Interrupt() as interrupt, closing(watch):
        stopped = train(current, watch, interrupt)
    sums = watch.finish()
    if stopped:
        say(current, f"stopped: saved step {current.progress.step} of {current.total_steps}; go on with --resume")
        raise KeyboardInterrupt
    return sums


def fit(current: Run) -> dict:
    """A model that is computed from the training documents in closed form: one step, nothing to save on the way."""
    start, documents = time.perf_counter(), current.rows.documents()
    current.model.fit(documents)
    current.progress = Progress(1, sum(map(len, documents)), time.perf_counter() - start)
    return {}


def prepare(options: PretrainOptions) -> Run:
    """Everything that the first step needs; nothing is written before the options are known to fit together."""
    check_trackers(options.report_to)
    precision, parallel = setup.start_processes(options)
    batches = BatchSchedule.of(options, parallel.data_count)
    set_seed(options.seed)
    directory = parallel.on_main(lambda: check_output(options, "pretrain", setup.FREE_ON_RESUME))
    tokenizer = parallel.on_main(lambda: setup.open_tokenizer(options, directory))
    model = setup.open_model(options, tokenizer).to(precision.weights)
    length = setup.sequence_length(options, model)
    if options.attn_implementation is None:
        set_attention(model, best_attention(model, parallel.accelerator.device, length))
    processes = Processes(parallel.data_index, parallel.data_count)
    rows = open_rows(options, tokenizer, length, processes)
    validation = open_validation(options, tokenizer, processes)
    model = parallel.place(model).train()
    is_fitted = hasattr(model, "fit")
    if is_fitted and (options.streaming or parallel.accelerator.num_processes > 1):
        raise UserError(f"--architecture {options.architecture}: one process fits it, without --streaming")
    loss, optimizers = (NextTokenLoss(model), []) if is_fitted else setup.trainable(options, model, precision, parallel)
    current = Run(
        **{"options": options, "directory": directory, "parallel": parallel, "precision": precision},
        **{"tokenizer": tokenizer, "model": model, "loss": loss, "rows": rows, "validation": validation},
        **{"length": length, "batches": batches, "optimizers": optimizers},
        total_steps=1 if is_fitted else options.max_steps or batches.steps_within(options.num_train_epochs * len(rows)),
        average=WeightAverage(model, options.ema_decay) if options.ema_decay else None,
        guard=Guard(options.spike_threshold, options.max_skipped_steps),
    )
    resume(current)
    parallel.on_main(lambda: outcome.begin(current))
    describe(current)
    return current


def resume(current: Run) -> None:
    if not current.options.resume:
        return
    newest = current.parallel.on_main(lambda: newest_checkpoint(current.checkpoints))
    if newest is None:
        say(current, f"--resume: no whole checkpoint in {current.directory}; starting at step 0")
        return
    state = setup.check_shares(newest, current.batches, current.parallel.data_count)
    setup.check_texts(newest, state, current.rows, current.options)
    restore(newest, current.model, current.optimizers, current.average)
    current.progress = Progress(**state["progress"])
    current.metrics, current.since_log = state["metrics"], state["since_log"]
    current.guard.load(state["guard"])
    current.rows.load_state_dict(state["data"][current.parallel.data_index % len(state["data"])])
    say(current, f"resumed from {newest}")


def describe(current: Run) -> None:
    model, o = current.model, current.options
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    share = "" if trained == total else f", {trained:,} of them trained"
    processes = current.parallel.accelerator.num_processes
    say(
        current,
        f"{total:,} parameters{share}; {current.precision}; {processes} "
        f"process{'es, ' + current.parallel.strategy if processes > 1 else ''}; {current.total_steps:,} steps of "
        f"{current.batches.full * current.batches.rows_per_pass * current.length:,} tokens"
        f"{f' after {o.batch_warmup_steps} of fewer' if o.batch_warmup_steps else ''}",
    )


def say(current: Run, text: str) -> None:
    current.parallel.accelerator.print(text, file=sys.stderr, flush=True)


def train(current: Run, watch: Watch, interrupt: Interrupt) -> bool:
    """The loop: until the last step, the end of the time, or a signal; returns whether it was a signal."""
    o, progress, total = current.options, current.progress, current.total_steps
    eval_steps, save_steps = o.eval_steps or max(1, total // 10), o.save_steps or max(1, total // 5)
    watch.start(current.model, current.length, total, progress, current.since_log)
    saved, stopped = progress.seconds, False
    while progress.step < total and share_done(current) < 1 and not stopped:
        start, is_logged = time.perf_counter(), (progress.step + 1) % o.logging_steps == 0
        loss, figures = train_step(current, is_logged)
        progress.tokens += current.batches.rows(progress.step) * current.length
        progress.step += 1
        # A clock and a signal are one process's: what follows from them is decided by all alike.
        seconds = progress.seconds + time.perf_counter() - start
        progress.seconds, stopped = current.parallel.largest(seconds, bool(interrupt.name))
        watch.step(loss)
        is_last = progress.step == total or share_done(current) >= 1 or stopped
        if is_logged or (is_last and not stopped):
            current.metrics["loss"] = watch.log(progress, figures)
        is_due = o.save_minutes is not None and progress.seconds - saved >= 60 * o.save_minutes
        is_saved = progress.step % save_steps == 0 or is_due or is_last
        wants_metric = is_saved and (o.metric_for_best_model or "").startswith("eval_")
        if (progress.step % eval_steps == 0 and not is_last) or wants_metric:
            with watch.stopwatch("eval"):
                score = evaluate(current, o.max_eval_tokens)
            figures = {"eval_loss": score.loss, "eval_bits_per_byte": score.bits_per_byte}
            current.metrics |= figures
            watch.log_evaluation(progress.step, figures)
        if is_saved:
            saved = progress.seconds
            with watch.stopwatch("checkpoint"):
                save(current, watch.since())
    return bool(stopped)


def train_step(current: Run, is_logged: bool = False) -> tuple[float, dict]:
    """One update: (the loss in nats per target token before it, what else is known of it)."""
    o, parallel, progress = current.options, current.parallel, current.progress
    seed_step(o.seed, progress.step, parallel.data_index)
    batches = step_batches(current)
    num_items = sum((batch["labels"][:, 1:] != IGNORED).sum() for batch in batches)
    num_items = parallel.sum(num_items.to(parallel.accelerator.device)).clamp(min=1)
    total = torch.zeros((), device=parallel.accelerator.device)
    for i, batch in enumerate(batches):
        batch = {key: value.to(parallel.accelerator.device) for key, value in batch.items()}
        with parallel.accumulating(current.loss, is_last=i == len(batches) - 1):
            with parallel.accelerator.autocast():
                loss = current.loss(batch, num_items)
            # Gradients are averaged over processes, but each loss is already divided by the targets of all of them.
            parallel.accelerator.backward(loss * parallel.data_count)
        total += loss.detach()
    loss, figures = parallel.sum(total).item(), {"epoch": epoch(current)}
    figures |= update(current, loss, is_logged)
    return loss, figures


def update(current: Run, loss: float, is_logged: bool) -> dict:
    """Clip the gradients and take the step, unless the guard finds it out of the ordinary."""
    o, step = current.options, current.progress.step
    norm = current.parallel.clip_gradients(current.loss, o.max_grad_norm).item()
    share = learning_rate_share(o, step, current.total_steps, share_done(current))
    set_learning_rate(current.optimizers, share)
    figures = {"learning_rate": current.optimizers[-1].param_groups[0]["lr"], "grad_norm": norm}
    if current.guard.accepts(step, loss, norm):
        probe = UpdateProbe(current.model.parameters()) if is_logged else None
        before = probe.take() if probe else None
        for optimizer in current.optimizers:
            optimizer.step()
        figures |= probe.compare(before) if probe else {}
        if current.average:
            current.average.update(current.model)
    for optimizer in current.optimizers:
        optimizer.zero_grad()
    return figures | {"skipped_steps": current.guard.skipped}


def seed_step(seed: int, step: int, process: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0]))


def step_batches(current: Run) -> list[dict[str, torch.Tensor]]:
    """This process's share of the rows of the step, as one batch for each accumulated forward pass."""
    size, step, parallel = current.options.per_device_train_batch_size, current.progress.step, current.parallel
    first = current.batches.rows_before(step)
    offsets = [(i * parallel.data_count + parallel.data_index) * size for i in range(current.batches.passes(step))]
    return [current.rows.batch(first + offset, size) for offset in offsets]


def epoch(current: Run) -> float | None:
    """Passes over the data so far; nothing for a stream, whose length nobody knows."""
    if current.options.streaming:
        return None
    return current.batches.rows_before(current.progress.step + 1) / len(current.rows)


def share_done(current: Run) -> float:
    """0 to 1: how much of the run is over, by steps or by time, whichever is further."""
    by_steps = current.progress.step / current.total_steps
    limit = current.options.max_seconds
    return by_steps if limit is None else max(by_steps, min(1.0, current.progress.seconds / limit))


def evaluate(current: Run, max_tokens: int | None = None, stride: int | None = None) -> Score:
    """Held-out loss; on the way with windows that barely overlap, which is cheap and a little pessimistic."""
    average, accelerator = current.average, current.parallel.accelerator
    weights = average.in_place_of_weights(current.model) if average else nullcontext()
    with weights, current.parallel.evaluating(current.loss) as loss:
        return score_documents(
            current.model,
            current.validation,
            current.length,
            stride or current.length - 1,
            autocast=accelerator.autocast,
            max_tokens=max_tokens,
            show_progress=current.parallel.is_main,
            logits=loss.logits,
            parallel=current.parallel,
        )


def save(current: Run, since_log: dict) -> None:
    o, parallel, step = current.options, current.parallel, current.progress.step
    parts, rest = collect(current.model, current.optimizers, current.average)
    state = {
        "progress": asdict(current.progress),
        "metrics": current.metrics,
        "since_log": since_log,
        "batches": asdict(current.batches),
        "guard": current.guard.state(),
        "texts": current.rows.identity(),
        "data": parallel.from_each(current.rows.state_dict()),
        **rest,
    }
    retention = Retention(o.save_total_limit, o.metric_for_best_model, o.milestone_steps)
    fault = None
    try:
        save_checkpoint(current.checkpoints, step, parts, state, retention, parallel.is_main)
    except (OSError, NotFiniteError) as error:
        kept, reason = newest_checkpoint(current.checkpoints) or "none", getattr(error, "strerror", None) or error
        fault = f"checkpoint at step {step}: {reason}; the newest whole one is {kept}"
    if fault := parallel.from_main(fault):
        raise UserError(fault)


if __name__ == "__main__":
    sys.exit(run_command("pretrain", sys.argv[1:]))
