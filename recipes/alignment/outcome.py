"""A whole run of a command whose model answers: what it said before, training, what it says after, the report."""

import sys
from collections.abc import Callable

from ..options.alignment import AnsweringOptions
from ..training.setup import load_model
from .answering import place
from .evaluation import answers_of, compare, evaluation_prompts
from .report import save_results
from .training import Job, arguments, prepare, train


def align(
    command: str,
    options: AnsweringOptions,
    open: Callable,
    read: Callable,
    trainer_class: type,
    settings: Callable[[Job], tuple[type, dict]],
    rate: float,
) -> None:
    """Run a command.

    Args:
        open, read: see `training.prepare`.
        settings: trl's configuration class and what it is told beside the options of all commands.
        rate: the learning rate that --learning_rate none means, for all weights.
    """
    job = prepare(command, options, open, read)
    config_class, own = settings(job)
    args = arguments(job, config_class, rate, **own)
    is_main = args.process_index == 0
    rows = evaluation_prompts(job) if is_main else []
    before = answers_of(job, place(job.model), rows)
    results = train(job, trainer_class, args)
    if is_main:
        model = place(load_model(str(job.directory), trust_remote_code=options.trust_remote_code))
        finish(job, results | compare(job, model, rows, before, with_kl=command != "sft"))
    args.distributed_state.wait_for_everyone()


def finish(job: Job, results: dict) -> None:
    """The files that a finished run leaves, and one line that says what came out; on the main process."""
    report = save_results(job.directory, results)
    said = [f"held-out loss {results['eval_loss']:.4f}"] if "eval_loss" in results else []
    said += [f"{key} {results[key]:.3f}" for key in ("accuracy", "margin", "win_rate", "kl") if key in results]
    said += [f"judge {results[when]['judge']:.3f} {when}" for when in ("before", "after") if when in results]
    said += [f"{key} {value:.3f}" for key, value in results.get("classification", {}).get("model", {}).items()]
    print("; ".join([*said, f"report: {report}"]), file=sys.stderr, flush=True)
