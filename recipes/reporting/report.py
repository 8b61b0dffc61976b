"""report.md and .html, and curves.png, made again at any time from what a run wrote down, finished or not.

A run directory may hold `run.json` (what was known before the first step: parameters, precision, processes, data),
`metrics.jsonl`, `checkpoints/`, and at the end `results.json`. Whatever is missing is left out of the report.
"""

import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..options.base import RESOLVED, UserError, write_whole
from .curves import plot_curves, plot_progress
from .metrics_file import read_metrics
from .pages import write_report_files
from .tables import comparison, sections, table

FACTS = "run.json"
BETTER_LOW = ("eval_bits_per_byte", "eval_loss", "loss")


@dataclass
class RunRecord:
    """What a run directory says about its run."""

    directory: Path
    metrics: list[dict]
    results: dict
    facts: dict
    options: dict
    checkpoints: list[Path]

    @property
    def newest(self) -> dict:
        """The newest value of every figure."""
        return {key: value for row in self.metrics for key, value in row.items() if value is not None}

    @property
    def is_finished(self) -> bool:
        return bool(self.results) and self.results.get("step", 0) >= self.newest.get("step", 0)


def save_facts(directory: Path, facts: dict) -> None:
    """Write `run.json`; any keys that JSON holds, of which `tables.py` names those that the report shows.

    What lies under `data` is the statistics of the training rows: `padding_share` is shown as `data_padding_share`.
    """
    write_whole(directory / FACTS, json.dumps(facts, indent=1))


def read_run(directory: Path) -> RunRecord:
    """
    Raises:
        UserError: there is no run in the directory, or a file of it cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; name the --output_dir of a run")
    if not (directory / RESOLVED).exists() and not (directory / "metrics.jsonl").exists():
        raise UserError(f"{directory} holds no run: neither {RESOLVED} nor metrics.jsonl")
    found = (p for p in (directory / "checkpoints").glob("step-*") if p.is_dir())
    return RunRecord(
        directory,
        read_metrics(directory / "metrics.jsonl"),
        read_mapping(directory / "results.json", json.loads),
        read_mapping(directory / FACTS, json.loads),
        read_mapping(directory / RESOLVED, yaml.safe_load),
        sorted(found),
    )


def read_mapping(path: Path, load) -> dict:
    """What a file holds, read by `load`; nothing where there is none."""
    if not path.exists():
        return {}
    try:
        return dict(load(path.read_text(encoding="utf-8")) or {})
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged; mend or delete it") from error


def summary(run: RunRecord) -> dict:
    """The figures of a run, flat: facts, medians and last values of the metrics, and the results over them."""
    trained = [row for row in run.metrics if "loss" in row]
    data = {f"data_{key}": value for key, value in (run.facts.get("data") or {}).items()}
    facts = {key: value for key, value in run.facts.items() if key != "data"}
    values = {"run": str(run.directory), "finished": run.is_finished} | facts | data | run.newest
    for key in ("tokens_per_second", "mfu", "update_ratio"):
        found = [row[key] for row in trained if row.get(key) is not None]
        values |= {key: statistics.median(found)} if found else {}
    for key in ("memory_bytes", "memory_reserved_bytes"):
        found = [row[key] for row in trained if row.get(key) is not None]
        values |= {key: max(found)} if found else {}
    for key in BETTER_LOW:
        found = [(row[key], row["step"]) for row in run.metrics if row.get(key) is not None]
        values |= {f"best_{key}": min(found)[0], f"best_{key}_step": min(found)[1]} if found else {}
    hidden = ("samples", "baselines") if run.is_finished else tuple(run.results)  # results of another part of the run
    values |= {key: value for key, value in run.results.items() if key not in hidden}
    if "eval_loss" in values and is_of_tokens(run):
        values.setdefault("eval_perplexity", math.exp(min(values["eval_loss"], 700)))
    if "max_steps" in run.options:
        values.setdefault("total_steps", run.options["max_steps"])
    values["baselines"] = run.results.get("baselines", {})
    values["checkpoints"] = [str(path.relative_to(run.directory)) for path in run.checkpoints]
    return values


def write_report(directory: Path, target: Path | None = None) -> Path:
    """Write `report.md` and `curves.png` into `target`, the run directory by default; the path of the report."""
    run, target = read_run(Path(directory)), Path(target or directory)
    target.mkdir(parents=True, exist_ok=True)
    plot_curves({run.directory.name: _curve(run)}, target / "curves.png")
    return write_report_files(target / "report.md", _markdown(run))


def write_comparison(runs: list[RunRecord], target: Path) -> Path:
    """One table and the curves of several runs over each other, by four measures of effort; the path of the report."""
    target.mkdir(parents=True, exist_ok=True)
    names = run_names([run.directory for run in runs])
    curves = {name: _curve(run) for name, run in zip(names, runs, strict=True)}
    plot_curves(curves, target / "curves.png")
    unit = ", nats per token" if all(map(is_of_tokens, runs)) else ""
    flops = {name: run.facts.get("flops_per_token") for name, run in zip(names, runs, strict=True)}
    plot_progress(curves, flops, target / "progress.png", unit)
    body = comparison(dict(zip(names, map(summary, runs), strict=True)), unit)
    differ = _differing_options(names, runs)
    options = f"\n\n## Options that differ\n\n{differ}" if differ else ""
    pictures = "![progress](progress.png)\n\n![curves](curves.png)"
    return write_report_files(target / "report.md", f"# {len(runs)} runs\n\n{body}\n\n{pictures}{options}\n")


def is_of_tokens(run: RunRecord) -> bool:
    """Whether its loss is that of a language model; those of rewards and preferences have no unit."""
    return "data" in run.facts or "tokens_per_step" in run.facts


def _curve(run: RunRecord) -> list[dict]:
    """The rows of the metrics, and the last validation, which is in the results alone."""
    return run.metrics + ([run.results] if run.is_finished else [])


def run_names(directories: list[Path]) -> list[str]:
    """The last part of each path, or as many parts as it takes to tell them apart."""
    parts = [path.resolve().parts for path in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in directories]


def _differing_options(names: list[str], runs: list[RunRecord]) -> str:
    keys = list(dict.fromkeys(key for run in runs for key in run.options if key != "output_dir"))
    rows = [[key, *(str(run.options.get(key, "")) for run in runs)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return table(["option", *names], rows) if rows else ""


def _markdown(run: RunRecord) -> str:
    settings = yaml.safe_dump(run.options, sort_keys=False, allow_unicode=True)
    parts = [f"# {run.directory.resolve().name}", _status(run), *sections(summary(run)), "![curves](curves.png)"]
    if run.checkpoints:
        parts.append(_checkpoints(run))
    if run.is_finished and run.results.get("samples"):
        about = "The prompt is the beginning of a held-out document; the model writes from the bar on."
        parts += ["## Samples", about, *(_sample(prompt, text) for prompt, text in run.results["samples"])]
    if run.options:
        parts += ["## Options", f"```yaml\n{settings}```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _status(run: RunRecord) -> str:
    """Nothing for a finished run; else how far it is, and when it last wrote."""
    if run.is_finished:
        return ""
    path = run.directory / "metrics.jsonl"
    if not run.metrics:
        return "**Unfinished.** No step has been logged yet."
    total = summary(run).get("total_steps")
    share = f" of {total:,} ({run.newest['step'] / total:.0%})" if total else ""
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
    return (
        f"**Unfinished**: at step {run.newest['step']:,}{share}. Last written at {written}: it is going on, or it was "
        f"stopped, and `--resume` goes on with it."
    )


def _checkpoints(run: RunRecord) -> str:
    """Each checkpoint that was kept, with its size and what was measured at its step."""
    at_step: dict[int, dict] = {}
    for row in run.metrics:
        at_step.setdefault(row["step"], {}).update(row)
    rows = []
    for path in run.checkpoints:
        step = path.name.removeprefix("step-").partition("-")[0]
        figures = at_step.get(int(step), {}) if step.isdecimal() else {}
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        losses = [f"{figures[key]:.4f}" if figures.get(key) is not None else "" for key in ("loss", "eval_loss")]
        rows.append([f"`{path.name}`", f"{size / 2**20:,.1f} MiB", *losses])
    return f"## Checkpoints kept\n\n{table(['checkpoint', 'size', 'loss', 'validation loss'], rows)}"


def _sample(prompt: str, text: str) -> str:
    fence = "`" * 8  # longer than any fence that a sample is likely to open
    return f"{fence}text\n{prompt}▌{text}\n{fence}"
