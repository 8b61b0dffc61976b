"""Architectures side by side: the same tokenizer, the same rows, the same loop, and one table.

    equal data    one pass over the training text
    equal time    so many seconds of training steps, as many passes as that takes; the schedule ends with the time

An n-gram model is fitted in closed form: one run, which stands in both columns with the seconds that it took. What is
measured is what `rhapsode pretrain` reports: bits per byte of the whole validation text.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from transformers import AutoModelForCausalLM

from . import pretrain
from . import tokenizer as tokenizer_command
from .cli import run_command
from .options.base import RESOLVED, save_resolved
from .options.compare import CompareOptions
from .options.output import check_output
from .options.pretrain import PretrainOptions
from .options.tokenizer import TokenizerOptions
from .reporting.pages import write_report_files
from .training.setup import check_design

# Peak rates of AdamW: usual values, not the result of a search. --learning_rates changes them.
LEARNING_RATES = {"feedforward": 2e-3, "rnn": 1e-3, "lstm": 2e-3, "transformer": 1e-3}
FREE_ON_RESUME = {"json", "architectures"}
FITTED = ("ngram",)
PASSES = 1000.0  # more than there is time for
COLUMNS = {
    "architecture": "architecture",
    "parameters": "parameters",
    "data_bits_per_byte": "bits/byte, equal data",
    "data_tokens": "tokens",
    "data_seconds": "seconds",
    "time_bits_per_byte": "bits/byte, equal time",
    "time_tokens": "tokens",
    "time_seconds": "seconds",
}


def run(options: CompareOptions) -> None:
    for name in options.architectures:
        check_design(pretrain_options(options, name, options.tokenizer or "", Path()), options.vocab_size)
    root = open_directory(options)
    tokenizer = shared_tokenizer(options, root)
    rows = [compare_one(options, name, tokenizer, root) for name in options.architectures]
    results = {"max_seconds": options.max_seconds, "dataset": options.dataset, "rows": rows}
    (root / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    table = markdown(rows)
    plot(rows, root / "compare.png")
    write_report_files(
        root / "compare.md",
        f"# {options.output_dir}\n\nValidation bits per byte of {' '.join(options.dataset)}, less is better. Equal "
        f"data: one pass over the training text. Equal time: {options.max_seconds:g} s of training.\n\n{table}\n"
        f"\n![compare](compare.png)\n",
    )
    print(json.dumps(results) if options.json else table)


def open_directory(options: CompareOptions) -> Path:
    """A new directory, or one to go on in; what is in it is never deleted."""
    root = check_output(options, "compare", FREE_ON_RESUME)
    root.mkdir(parents=True, exist_ok=True)
    save_resolved(options, root / RESOLVED, "compare")
    return root


def shared_tokenizer(options: CompareOptions, root: Path) -> str:
    if options.tokenizer:
        return options.tokenizer
    directory = root / "tokenizer"
    if not (directory / "tokenizer.json").exists():
        shared = {key: getattr(options, key) for key in ("vocab_size", "dataset", "text_column")}
        with redirect_stdout(sys.stderr):  # what we print ourselves may be JSON
            tokenizer_command.run(TokenizerOptions(output_dir=str(directory), **shared))
    return str(directory)


def compare_one(options: CompareOptions, name: str, tokenizer: str, root: Path) -> dict:
    """The row of one architecture: trained twice, or fitted once."""
    same_data = trained(pretrain_options(options, name, tokenizer, root / "equal-data" / name))
    same_time = same_data
    if name not in FITTED:
        limits = {"max_seconds": options.max_seconds, "num_train_epochs": PASSES}
        same_time = trained(pretrain_options(options, name, tokenizer, root / "equal-time" / name, **limits))
    model = AutoModelForCausalLM.from_pretrained(root / "equal-data" / name)
    row = {"architecture": name, "parameters": model.num_parameters()}
    for prefix, result in (("data", same_data), ("time", same_time)):
        row[f"{prefix}_bits_per_byte"] = result["eval_bits_per_byte"]
        row |= {f"{prefix}_{key}": result[key] for key in ("tokens", "seconds")}
    return row


def pretrain_options(options: CompareOptions, name: str, tokenizer: str, directory: Path, **limits) -> PretrainOptions:
    """What `rhapsode pretrain` is asked for; the same for all but the design and the learning rate."""
    rates = LEARNING_RATES | {key: float(rate) for key, _, rate in (r.partition("=") for r in options.learning_rates)}
    overrides = [o.partition(".")[2] for o in options.config_overrides if o.partition(".")[0] == name]
    shared = ("dataset", "text_column", "max_length", "per_device_train_batch_size", "optim", "bf16", "seed")
    return PretrainOptions(
        architecture=name,
        preset=options.preset,
        config_overrides=overrides,
        tokenizer=tokenizer,
        output_dir=str(directory),
        resume=options.resume,
        learning_rate=rates.get(name, 1e-3),
        **{key: getattr(options, key) for key in shared},
        **limits,
    )


def trained(options: PretrainOptions) -> dict:
    """The results of a run: read where it is finished, else made."""
    path = Path(options.output_dir) / "results.json"
    if not path.exists():
        print(f"\n== {options.output_dir}", file=sys.stderr, flush=True)
        pretrain.run(options)
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(rows: list[dict]) -> str:
    cells = [list(COLUMNS.values()), *([_show(row[key]) for key in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _show(value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def plot(rows: list[dict], path: Path) -> None:
    """Two bars for each architecture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for offset, key, label, colour in ((-0.2, "data", "equal data", "#1f2430"), (0.2, "time", "equal time", "#b3471d")):
        x = [i + offset for i in range(len(rows))]
        bars = axis.bar(x, [row[f"{key}_bits_per_byte"] for row in rows], width=0.38, label=label, color=colour)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(rows)), [row["architecture"] for row in rows])
    axis.set_ylabel("validation bits per byte")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(run_command("compare", sys.argv[1:]))
