"""Options of `rhapsode report`."""

import os
from dataclasses import dataclass

from .base import UserError, option


@dataclass
class ReportOptions:
    """Write report.md, report.html and curves.png of a run, finished or not. Several runs give one comparison: curves
    over tokens, steps, time and FLOPs, a table of results, and the options that differ."""

    EXAMPLES = (
        "rhapsode report runs/mine",
        "rhapsode report runs/mine runs/first --output_dir runs/comparison",
    )

    runs: list[str] = option(["runs/pretrain"], "run directories", positional=True)
    output_dir: str | None = option(None, "where to write; none is the run itself, for several runs/comparison")
    json: bool = option(False, "print one JSON object, for several runs a list")

    def __post_init__(self):
        if not self.runs:
            raise UserError("name at least one run directory")
        paths = [os.path.realpath(run) for run in self.runs]
        twice = next((run for i, run in enumerate(self.runs) if paths[i] in paths[:i]), None)
        if twice is not None:
            raise UserError(f"{twice} is named twice")
