"""Scaling laws: train small models, predict a larger one, train that too, and compare.

The prediction is written to `prediction.json`, with the time, before the first step of the larger model. The directory
holds a run directory for every model (`runs/`), the tokenizer of all, `scaling.md`, `scaling.png` and `results.json`.
"""

import json
import shutil
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from . import pretrain
from . import tokenizer as tokenizer_command
from .cli import run_command
from .options.base import RESOLVED, UserError, save_resolved, write_whole
from .options.output import check_output
from .options.scaling import LAWS as CHOICES
from .options.scaling import PARAMETER_COUNTS, ScalingOptions
from .options.tokenizer import TokenizerOptions
from .scaling_laws.fitting import check_enough, error_on_largest, fit
from .scaling_laws.forms import LAWS, compute_optimal
from .scaling_laws.ladder import Ladder, Rung, plan, run_options
from .scaling_laws.report import table, write_report
from .scaling_laws.running import estimated_seconds, processes, result, train_all
from .training.setup import load_tokenizer

PREDICTION, RESULTS, PLAN = "prediction.json", "results.json", "plan.json"
FREE_ON_RESUME = {"num_proc", "json", "data_cache"}


def run(options: ScalingOptions) -> None:
    started = datetime.now(UTC)
    directory = Path(options.output_dir)
    is_new = open_directory(options)
    try:
        source = options.tokenizer or train_tokenizer(options, directory)
        ladder = planned(options, load_tokenizer(source), directory)
    except UserError:
        if is_new:
            shutil.rmtree(directory)
        raise
    runs = directory / "runs"
    runs.mkdir(exist_ok=True)
    describe(ladder)

    def make(rung: Rung):
        return run_options(options, rung, source, runs / rung.name)

    train_all(ladder.fitted, make, runs, processes(options), "ladder")
    losses = [result(runs, r)["eval_loss"] for r in ladder.fitted]
    fits = fit_all(options, ladder, losses)
    prediction = predict(options, ladder, fits, losses, directory / PREDICTION)
    say(f"predicted: {prediction['loss']:.3f} nats/token, in {directory / PREDICTION}; training {ladder.held_out.size}")
    if result(runs, ladder.held_out) is None:
        pretrain.run(make(ladder.held_out))
    seconds = (datetime.now(UTC) - started).total_seconds()
    results = compare(options, ladder, fits, prediction, runs) | {"seconds": seconds}
    write_whole(directory / RESULTS, json.dumps(results, indent=1))
    write_report(results, fits[prediction["law"], prediction["N"]], directory)
    print(json.dumps(results) if options.json else f"{table(results)}\n\nreport: {directory / 'scaling.md'}")


def open_directory(options: ScalingOptions) -> bool:
    """Make the directory of the ladder, or find it; returns whether it is a new one.

    Raises:
        UserError: as of `check_output`.
    """
    directory = check_output(options, "scaling", FREE_ON_RESUME)
    if options.overwrite_output_dir and not options.resume and directory.exists():
        shutil.rmtree(directory)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    save_resolved(options, directory / RESOLVED, "scaling")
    return is_new


def train_tokenizer(options: ScalingOptions, directory: Path) -> str:
    """One tokenizer for all: losses per token of different vocabularies cannot be compared."""
    target = directory / "tokenizer"
    if not target.exists():
        given = {"dataset": options.dataset, "text_column": options.text_column, "vocab_size": options.vocab_size}
        with redirect_stdout(sys.stderr):
            tokenizer_command.run(TokenizerOptions(output_dir=str(target), seed=options.seed, **given))
    return str(target)


def planned(options: ScalingOptions, tokenizer, directory: Path) -> Ladder:
    """The ladder, shortened to `--max_minutes`; a resumed one keeps the lengths that were measured at first.

    Raises:
        UserError: the ladder has too few runs for the laws.
    """
    ladder, path = plan(options, tokenizer), directory / PLAN
    for law in LAWS.values():
        if law.name in CHOICES:
            check_enough(law, *sizes_of(ladder, "all"))
    if options.max_minutes is None:
        return ladder
    if not path.exists():
        seconds = estimated_seconds(options, ladder, tokenizer, processes(options))
        scale = min(1.0, 60 * options.max_minutes / seconds)
        say(f"steps of all runs: about {seconds / 60:.1f} minutes; budgets times {scale:.2f}")
        write_whole(path, json.dumps({"estimated_seconds": seconds, "scale": scale}))
    return plan(options, tokenizer, json.loads(path.read_text(encoding="utf-8"))["scale"])


def describe(ladder: Ladder) -> None:
    sizes = {r.size: r for r in ladder.fitted}
    listed = ", ".join(f"{r.size} ({r.parameters:,})" for r in sizes.values())
    h = ladder.held_out
    say(
        f"{len(ladder.fitted)} runs of {listed} parameters; held out: {h.size} ({h.parameters:,}) on {h.tokens:,} "
        f"tokens; {sum(r.flops for r in ladder.fitted) / 1e12:.1f} + {h.flops / 1e12:.1f} TFLOP"
    )


def count(rung: Rung, kind: str) -> int:
    return rung.parameters if kind == "all" else rung.non_embedding


def fit_all(options: ScalingOptions, ladder: Ladder, losses: list[float]) -> dict:
    """Every law over each count of parameters."""
    return {
        (law.name, kind): fit(law, *sizes_of(ladder, kind), losses, options.bootstrap_samples)
        for law in LAWS.values()
        for kind in PARAMETER_COUNTS
    }


def sizes_of(ladder: Ladder, kind: str) -> tuple[list[int], list[int]]:
    """N and D of every run of the fit."""
    return [count(r, kind) for r in ladder.fitted], [r.tokens for r in ladder.fitted]


def choose_law(options: ScalingOptions, ladder: Ladder, losses: list[float]) -> dict:
    """The law whose prediction counts; if none is named, how well each foretells the ladder's own largest run."""
    if options.law != "auto":
        return {"law": options.law}
    sizes = sizes_of(ladder, options.parameter_count)
    errors = {name: error_on_largest(LAWS[name], *sizes, losses) for name in CHOICES if name in LAWS}
    return {"law": min(errors, key=errors.get), "errors_on_largest_of_ladder": errors}


def predict(options: ScalingOptions, ladder: Ladder, fits: dict, losses: list[float], path: Path) -> dict:
    """Write down the losses that the laws expect of the larger model; what was written once stays."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    held_out = ladder.held_out
    predictions = []
    for (law, kind), fitted in fits.items():
        N, D = count(held_out, kind), held_out.tokens
        low, high = fitted.interval(N, D, options.confidence)
        predictions.append({"law": law, "N": kind, "loss": float(fitted.predict(N, D)), "low": low, "high": high})
    choice = choose_law(options, ladder, losses)
    chosen = next(p for p in predictions if (p["law"], p["N"]) == (choice["law"], options.parameter_count))
    written = {"written": datetime.now(UTC).isoformat(timespec="seconds"), "size": held_out.size} | chosen | choice
    write_whole(path, json.dumps(written | {"tokens": held_out.tokens, "all": predictions}, indent=1))
    return json.loads(path.read_text(encoding="utf-8"))


def compare(options: ScalingOptions, ladder: Ladder, fits: dict, prediction: dict, runs: Path) -> dict:
    """results.json: the runs, the coefficients, the predictions and what came true of them."""
    measured = result(runs, ladder.held_out)["eval_loss"]
    rows = [summary(runs, r) for r in ladder.fitted]
    chance = [np.log(result(runs, r)["eval_loss"]) for r in ladder.repeated]
    coefficients = {k: c["value"] for k, c in fits["chinchilla", "all"].coefficients().items()}
    optimal = compute_optimal(coefficients, 6 * ladder.held_out.parameters * ladder.held_out.tokens)
    return {
        "runs": rows,
        "held_out": summary(runs, ladder.held_out),
        "prediction": prediction,
        "error": prediction["loss"] / measured - 1,
        "inside_interval": prediction["low"] <= measured <= prediction["high"],
        "errors": [p | {"error": p["loss"] / measured - 1} for p in prediction["all"]],
        "parameter_ratio": ladder.held_out.parameters / max(r.parameters for r in ladder.fitted),
        "non_embedding_ratio": ladder.held_out.non_embedding / max(r.non_embedding for r in ladder.fitted),
        "noise_between_seeds": float(np.std(chance, ddof=1)) if len(chance) > 1 else None,
        "confidence": options.confidence,
        "compute_optimal": optimal,
        "fits": [
            {"law": law, "N": kind, "formula": f.law.formula, "noise": f.noise}
            | {"coefficients": f.coefficients(options.confidence)}
            for (law, kind), f in fits.items()
        ],
    }


def summary(runs: Path, rung: Rung) -> dict:
    measured = result(runs, rung)
    return {
        "size": rung.size,
        "seed": rung.seed,
        "parameters": rung.parameters,
        "non_embedding": rung.non_embedding,
        "tokens": rung.tokens,
        "flops": rung.flops,
        "loss": measured["eval_loss"],
        "bits_per_byte": measured["eval_bits_per_byte"],
        "seconds": measured["seconds"],
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command("scaling", sys.argv[1:]))
