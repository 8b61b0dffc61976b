"""report.md and .html, curves.png and, of a reward model, calibration.png: made from what a run wrote, at any time."""

import json
from pathlib import Path

import yaml

from ..options.base import RESOLVED, write_whole
from ..reporting.metrics_file import read_metrics
from ..reporting.pages import write_report_files
from ..reporting.report import FACTS, read_mapping
from ..reporting.tables import seconds, table
from .classification_report import classification_sections
from .curves import plot_calibration, plot_metrics
from .knowledge_report import knowledge_sections

RESULTS = "results.json"
COMMANDS = ("sft", "reward", "dpo", "kto", "ppo", "grpo", "rloo", "distill", "classify", "abstain")
LABELS = {
    "eval_loss": "held-out loss",
    "train_loss": "mean training loss",
    "win_rate": "win rate against the model before, by the judge",
    "kl": "KL from the model before, nats an answer",
    "kl_standard_error": "its standard error",
    "accuracy": "held-out pairs ranked right",
    "margin": "mean margin of the rewards",
    "reward_chosen": "mean reward of chosen answers",
    "reward_rejected": "mean reward of rejected answers",
    "calibration_error": "expected calibration error",
    "eval_rewards/accuracies": "held-out pairs ranked right by the implicit reward",
    "eval_rewards/margins": "mean margin of the implicit rewards",
    "eval_reward": "held-out reward of sampled answers",
    "eval_objective/kl": "their KL from the model before, nats an answer",
    "eval_completions/mean_length": "their tokens",
    "eval_mean_token_accuracy": "held-out tokens predicted right",
    "loss_before": "student's held-out loss before, nats a token of the answer",
    "loss_after": "student's held-out loss after",
    "loss_teacher": "teacher's held-out loss",
    "kl_before": "KL from the teacher to the student before, nats a token of the held-out answers",
    "kl_after": "KL from the teacher to the student after",
    "right_tools": "held-out chats with the right tools called, or none",
    "call_match": "held-out calls equal to the data's, name and arguments",
    "no_needless_call": "held-out chats without a tool in which none was called",
    "right_answers": "held-out chats with the right answer at the end",
    "pairs": "held-out pairs",
    "cut": "rows whose texts were cut",
    "step": "steps",
    "seconds": "training",
}
JUDGED = {
    "judge": "judge, mean score",
    "exact_on_real": "exact answers, of those that have one",
    "abstention_precision": "abstention precision",
    "abstention_recall": "abstention recall",
    "n": "prompts",
}


def save_results(directory: Path, results: dict) -> Path:
    """Write `results.json` and the report, whose path is returned."""
    write_whole(directory / RESULTS, json.dumps(results, indent=1))
    return write_report(directory)


def is_alignment_run(directory: Path) -> bool:
    """Whether this module makes the report of the run in the directory."""
    resolved = directory / RESOLVED
    starts = tuple(f"# rhapsode {command} " for command in COMMANDS)
    return resolved.is_file() and resolved.read_text(encoding="utf-8").startswith(starts)


def write_report(directory: Path, target: Path | None = None) -> Path:
    """Write `report.md` and its pictures into `target`, the run directory by default; the path of the report.

    Raises:
        UserError: a file of the run that cannot be read.
    """
    target = Path(target or directory)
    target.mkdir(parents=True, exist_ok=True)
    results, facts = (read_mapping(directory / name, json.loads) for name in (RESULTS, FACTS))
    options = read_mapping(directory / RESOLVED, yaml.safe_load)
    parts = [f"# {directory.resolve().name}", *_results(results), _rows(facts)]
    if (metrics := read_metrics(directory / "metrics.jsonl")) or facts:
        plot_metrics(metrics, directory.resolve().name, target / "curves.png")
        parts.append("![curves](curves.png)")
    if results.get("calibration"):
        plot_calibration(results["calibration"], target / "calibration.png")
        parts += ["## Calibration", "![calibration](calibration.png)"]
    parts += [*knowledge_sections(results, target), *classification_sections(results)]
    parts += _samples(results.get("samples", []))
    parts += ["## Options", f"```yaml\n{yaml.safe_dump(options, sort_keys=False, allow_unicode=True)}```"]
    return write_report_files(target / "report.md", "\n\n".join(part for part in parts if part) + "\n")


def _results(results: dict) -> list[str]:
    rows = [[label, _show(key, results[key])] for key, label in LABELS.items() if results.get(key) is not None]
    rows += [
        [f"ranked right where the fault is {k}", f"{v:.3f}"] for k, v in results.get("accuracy_by_kind", {}).items()
    ]
    parts = ["## Result", table(["", ""], rows, numbers_from=2)] if rows else []
    if judged := [when for when in ("before", "after") if when in results]:
        shown = [key for key in JUDGED if results["before"]["n_invented"] or not key.startswith("abstention")]
        columns = [*judged, *(["teacher"] if "teacher" in results else [])]
        cells = [[JUDGED[key], *(_show(key, results[when][key]) for when in columns)] for key in shown]
        parts += [f"## {' and '.join(judged).capitalize()}", table(["", *columns], cells)]
    return parts or ["**Unfinished.**"]


def _show(key: str, value) -> str:
    if key == "seconds":
        return seconds(value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _rows(facts: dict) -> str:
    """Parameters, precision, rows, and how many rows were left out."""
    if not facts:
        return ""
    left_out, limit = facts["left_out"], facts["max_length"]
    rows = [["parameters", f"{facts['parameters']:,}"], ["precision", facts["precision"]]]
    rows += [["learning rate", f"{facts['learning_rate']:g}"], ["processes", str(facts["processes"])]]
    for key, name in (("train", "training rows"), ("held_out", "held-out rows")):
        rows.append([name, f"{facts['rows'][key]:,}"])
        rows.append([f"left out, longer than {limit:,} tokens", f"{left_out[key]:,}"])
    return f"## Run\n\n{table(['', ''], rows, numbers_from=2)}"


def _samples(samples: list[dict]) -> list[str]:
    if not samples:
        return []
    columns = [key for key in ("prompt", "reference", "before", "after") if key in samples[0]]
    cells = [[sample[key] for key in columns] for sample in samples]
    return ["## Samples", table(columns, cells, numbers_from=len(columns))]
