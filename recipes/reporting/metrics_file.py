"""metrics.jsonl: one JSON object a line, written while a run goes, and read whole whatever it ended with."""

import json
import math
from pathlib import Path

from ..options.base import UserError


class MetricsLog:
    """Appends one JSON object a line; on resume, forgets the lines after the step that is resumed from.

    `last` holds the newest value of every figure in the lines that stay, for sums that a resumed run goes on with.
    """

    def __init__(self, path: Path, resume_step: int = 0):
        kept = [row for row in read_metrics(path) if row["step"] <= resume_step] if resume_step else []
        temporary = path.with_name(f".unfinished-{path.name}")
        temporary.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        temporary.replace(path)
        self.path = path
        self.last = {key: value for row in kept for key, value in row.items()}

    def write(self, **row) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(row))


def _line(row: dict) -> str:
    """JSON has no NaN and no infinity: such a figure is null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        rows = [json.loads(line) for line in lines[:-1]]  # after the last end of line: nothing, or what a kill cut off
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete the lines that are not JSON") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{path} is damaged (line {number} is no object with a step); delete such lines")
    return rows
