"""Tables of completions: a file for each log, a print for whoever watches, and the trackers that know tables."""

import importlib
import json
from pathlib import Path

from transformers.utils import is_rich_available


def write_table(table: dict[str, list], output_dir: str, mode: str, step: int) -> Path:
    """`completions/MODE-STEP.jsonl` in the output directory, a row an object."""
    path = Path(output_dir) / "completions" / f"{mode}-{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table_rows(table))
    return path


def table_rows(table: dict[str, list]) -> list[dict]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def print_table(table: dict[str, list], step: int, count: int | None) -> None:
    """The first `count` rows, or all; as a table where `rich` is installed."""
    if not is_rich_available():
        for row in table_rows(table)[:count]:
            print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*table, title=f"step {step}", show_lines=True)
    for row in table_rows(table)[:count]:
        drawn.add_row(*[_shown(value) for value in row.values()])
    Console().print(drawn)


def track_table(table: dict[str, list], report_to: list[str]) -> None:
    """To Weights & Biases and Trackio, where a run of theirs is open."""
    import pandas

    for name in {"wandb", "trackio"} & set(report_to or ()):
        tracker = importlib.import_module(name)
        if name == "trackio" or tracker.run is not None:
            tracker.log({"completions": tracker.Table(dataframe=pandas.DataFrame(table))})


def _shown(value) -> str:
    if isinstance(value, list):  # a conversation
        value = "\n".join(f"{message['role']}: {message['content']}" for message in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("[", "\\[")  # rich reads brackets
