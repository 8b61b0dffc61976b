"""Training the runs of a ladder: each an ordinary run directory, several at a time, none twice."""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager, redirect_stderr
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from .. import pretrain
from ..options.base import UserError
from ..options.pretrain import PretrainOptions
from ..options.scaling import ScalingOptions
from ..process import tune_process
from ..reporting.metrics_file import read_metrics
from ..training.attention import best_attention, set_attention
from ..training.loss import NextTokenLoss
from ..training.optimizers import build_optimizers
from ..training.setup import new_model
from .ladder import Ladder, Rung, run_options

RESULTS = "results.json"
PROBE_STEPS = 4
POLL_SECONDS = 1.0


def processes(options: ScalingOptions) -> int:
    return options.num_proc or (1 if torch.accelerator.is_available() else os.cpu_count() or 1)


def train_all(
    rungs: list[Rung], make: Callable[[Rung], PretrainOptions], directory: Path, count: int, title: str
) -> None:
    """Train what is not yet finished, `count` runs at a time; each one's messages go to `directory/NAME.log`.

    Small models leave a core's arithmetic idle between their many short steps: two runs on a core each are faster than
    one run on two cores.
    """
    todo = [r for r in rungs if result(directory, r) is None]
    todo.sort(key=lambda r: r.flops, reverse=True)  # the longest first, so that all cores end together
    jobs = [(make(r), directory / f"{r.name}.log") for r in todo]
    with tqdm(total=round(sum(r.flops for r in rungs)), desc=title, unit="FLOP", unit_scale=True) as bar:

        def show() -> None:
            done = [_share_done(directory, r) for r in rungs]
            bar.n = round(sum(share * r.flops for share, r in zip(done, rungs, strict=True)))
            bar.set_postfix_str(f"{done.count(1.0)} of {len(rungs)} runs")

        show()
        alone = jobs if count == 1 else jobs[-1:]  # the shortest leaves the tokenized data where the others find them
        with _threads_for(count):
            for job in alone:
                _train(*job)
                show()
        if len(jobs) > len(alone):
            _train_together(jobs[:-1], count, show)


@contextmanager
def _threads_for(count: int) -> Iterator[None]:
    """The share of one of `count` runs: two threads on a matrix of 16 x 48 wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // count))
    yield
    torch.set_num_threads(threads)


def _train_together(jobs: list[tuple[PretrainOptions, Path]], count: int, show: Callable[[], None]) -> None:
    threads = max(1, torch.get_num_threads() // count)
    with ProcessPoolExecutor(count, get_context("spawn"), _start_process, (threads,)) as pool:
        pending = {pool.submit(_train, *job) for job in jobs}
        try:
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS)
                for future in done:
                    future.result()
                show()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _share_done(directory: Path, rung: Rung) -> float:
    if (directory / rung.name / RESULTS).exists():
        return 1.0
    rows = read_metrics(directory / rung.name / "metrics.jsonl")
    return 0.99 * rows[-1]["step"] / rung.steps if rows else 0.0


def _start_process(threads: int) -> None:
    tune_process()
    torch.set_num_threads(threads)


def _train(options: PretrainOptions, log: Path) -> None:
    with log.open("a", encoding="utf-8") as stream, redirect_stderr(stream):
        pretrain.run(options)


def result(directory: Path, rung: Rung) -> dict | None:
    """What a finished run measured; none while it is not finished."""
    path = directory / rung.name / RESULTS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged; delete the run {path.parent} to train it again") from error


def estimated_seconds(options: ScalingOptions, ladder: Ladder, tokenizer, count: int) -> float:
    """The time that the steps of all runs will take, from a few steps of each size."""
    speed = {r.size: r for r in [*ladder.fitted, ladder.held_out]}
    speed = {size: _seconds_per_step(options, rung, tokenizer) for size, rung in speed.items()}
    together = sum(rung.steps * speed[rung.size] for rung in ladder.fitted)
    return together / count + ladder.held_out.steps * speed[ladder.held_out.size]


def _seconds_per_step(options: ScalingOptions, rung: Rung, tokenizer) -> float:
    run = run_options(options, rung, "", Path(rung.name))
    model = new_model(run, tokenizer).train()
    if options.attn_implementation is None:
        set_attention(model, best_attention(model, model.device, options.max_length))
    loss, optimizers = NextTokenLoss(model), build_optimizers(model, run)
    ids = torch.randint(len(tokenizer), (options.per_device_train_batch_size, options.max_length))
    seconds = []
    for _ in range(PROBE_STEPS):
        start = time.perf_counter()
        loss({"input_ids": ids, "labels": ids}, torch.tensor(ids.numel())).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
