"""report.md and curves.png of a run directory, made again at any time from what the run wrote down."""

import json
from pathlib import Path

import yaml

from ..options.base import RESOLVED
from .metrics import read_metrics

INK, ACCENT, GRID = "#1f2430", "#b3471d", "#d9d9d9"


def write_report(directory: Path) -> Path:
    """Write `report.md` and `curves.png` into the run directory and return the path of the report."""
    metrics = read_metrics(directory / "metrics.jsonl")
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    options = yaml.safe_load((directory / RESOLVED).read_text(encoding="utf-8"))
    plot_curves(metrics, results, directory / "curves.png")
    path = directory / "report.md"
    path.write_text(_markdown(metrics, results, options), encoding="utf-8")
    return path


def _markdown(metrics: list[dict], results: dict, options: dict) -> str:
    trained = [row for row in metrics if "loss" in row]
    speeds = sorted(row["tokens_per_second"] for row in trained)
    mfus = sorted(row["mfu"] for row in trained)
    rows = {
        "parameters": f"{results['parameters']:,}",
        "steps": f"{results['step']:,}",
        "tokens": f"{results['tokens']:,}",
        "training time": f"{results['seconds']:,.0f} s",
        "tokens per second (median)": f"{speeds[len(speeds) // 2]:,.0f}",
        f"MFU (median; {trained[-1]['mfu_peak']} peak)": f"{mfus[len(mfus) // 2]:.1%}",
        "peak memory (measured)": f"{max(row['memory_bytes'] for row in trained) / 2**30:.2f} GiB",
        "validation loss": f"{results['eval_loss']:.4f} nats per token",
        "validation perplexity": f"{results['eval_perplexity']:.2f}",
        "validation bits per byte": f"{results['eval_bits_per_byte']:.4f}",
        "validated on": f"{results['eval_tokens']:,} tokens, {results['eval_bytes']:,} bytes",
    } | {name: f"{value:.4f} bits per byte" for name, value in results.get("baselines", {}).items()}
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    samples = "\n\n".join(_sample(prompt, text) for prompt, text in results["samples"])
    settings = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return (
        f"# {options['output_dir']}\n\n| | |\n|---|---|\n{table}\n\n![curves](curves.png)\n\n"
        f"## Samples\n\nThe prompt is the beginning of a held-out document; the model writes from the bar on.\n\n"
        f"{samples}\n\n## Options\n\n```yaml\n{settings}```\n"
    )


def _sample(prompt: str, text: str) -> str:
    fence = "`" * 8  # longer than any fence that a sample is likely to open
    return f"{fence}text\n{prompt}▌{text}\n{fence}"


def plot_curves(metrics: list[dict], results: dict, path: Path) -> None:
    """Loss, learning rate, gradient norm and speed over the tokens seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    trained = [row for row in metrics if "loss" in row]
    tokens_of = {row["step"]: row["tokens"] for row in trained}
    evaluated = [row for row in metrics if "eval_loss" in row and row["step"] in tokens_of]
    x = [row["tokens"] for row in trained]
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    panels = (
        ("loss", "nats per token"),
        ("learning_rate", "learning rate"),
        ("grad_norm", "gradient norm"),
        ("tokens_per_second", "tokens per second"),
    )
    for axis, (key, label) in zip(axes.flat, panels, strict=True):
        axis.plot(x, [row[key] for row in trained], color=INK, linewidth=1.2, label="training")
        axis.set(xlabel="tokens", ylabel=label)
        axis.grid(color=GRID, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    points = [(tokens_of[row["step"]], row["eval_loss"]) for row in evaluated]
    points.append((results["tokens"], results["eval_loss"]))
    axes.flat[0].plot(*zip(*points, strict=True), "o-", color=ACCENT, markersize=4, label="validation")
    axes.flat[0].legend(frameon=False)
    axes.flat[3].set_ylim(bottom=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)
