"""A task: its file, and the rows that are asked and shown.

`--tasks` takes the name of a task that comes with Rhapsode (recipes/tasks/NAME.yaml) or a YAML file, whose keys
`recipes/options/task.py` lists. A path in it is relative to the file.
"""

import re
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..alignment.rows import Row, open_tables
from ..options.base import UserError, parse
from ..options.task import KEYS, TaskOptions
from .python_rows import PREFIX, python_tables

# What `parse` says of texts that YAML reads as something else: yes and no as booleans, 1 as a number.
UNQUOTED = re.compile(r"=(\[.*\]|True|False|[\d.-]+) in .* must be (list of )?str\b")
SHIPPED = Path(__file__).parent.parent / "tasks"


class Task(NamedTuple):
    name: str
    options: TaskOptions
    directory: Path


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def open_task(name: str) -> Task:
    """
    Raises:
        UserError: an unknown task, an unreadable file, a key that it may not have or lacks.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    if not path.is_file():
        nearest = get_close_matches(name, shipped(), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(shipped())}, or a .yaml file"
        raise UserError(f"--tasks {name}: no such task; {hint}")
    try:
        options = parse(TaskOptions, ["--config", str(path)], "task", "")
        default = TaskOptions(kind=options.kind, dataset="x", choices=["x"], prompt="x", answer="x", good="x", bad="x")
        for key in vars(options).keys() - KEYS[options.kind] - {"kind", "dataset", "split"}:
            if getattr(options, key) and getattr(options, key) != getattr(default, key):
                raise UserError(f"a task of kind {options.kind} has no use for {key}")
    except UserError as error:
        hint = "; put it between quotes" if UNQUOTED.search(str(error)) else ""
        raise UserError(f"--tasks {name}: {str(error).removeprefix('--config ')}{hint}") from error
    return Task(path.stem, options, path.parent)


def read_rows(task: Task, num_fewshot: int, limit: int | None) -> tuple[list[Row], list[Row]]:
    """(rows to ask, rows to show), which are the same list where only one split is there."""
    options = task.options
    try:
        tables = _tables(task)
        split = options.split or ("test" if len(tables) > 1 else next(iter(tables)))
        shown_split = options.fewshot_split or ("train" if "train" in tables else split)
        for key, name in (("split", split), ("fewshot_split", shown_split)):
            if name not in tables:
                raise UserError(f"{options.dataset} has no {key} {name!r}; use {', '.join(tables)}")
        if not num_fewshot:
            return list(islice(tables[split](), limit)), []
        shown = list(tables[shown_split]())
        asked = shown[:limit] if shown_split == split else list(islice(tables[split](), limit))
    except UserError as error:
        raise UserError(f"--tasks {task.name}: {str(error).removeprefix('--dataset ')}") from error
    if len(shown) - (shown_split == split) < num_fewshot:
        raise UserError(f"--tasks {task.name}: {len(shown)} rows of {shown_split} are too few for {num_fewshot} shots")
    return asked, shown


def _tables(task: Task):
    source = task.options.dataset
    if source.startswith(PREFIX):
        return python_tables(source)
    beside = task.directory / source
    return open_tables(str(beside) if not Path(source).is_absolute() and beside.exists() else source)
