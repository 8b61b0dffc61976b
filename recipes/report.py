"""Reports on demand: of one run, also while it is going or after it was killed, or a comparison of several."""

import json
import sys
from pathlib import Path

from .alignment import report as alignment_report
from .cli import run_command
from .options.output import check_parents
from .options.report import ReportOptions
from .reporting.report import read_run, summary, write_comparison, write_report

COMPARISON = "runs/comparison"


def run(options: ReportOptions) -> None:
    runs = [read_run(Path(directory)) for directory in options.runs]
    target = Path(options.output_dir) if options.output_dir else None
    if target is not None:
        check_parents("output_dir", target / "report.md")
    if len(runs) == 1 and alignment_report.is_alignment_run(runs[0].directory):
        path = alignment_report.write_report(runs[0].directory, target)
    elif len(runs) == 1:
        path = write_report(runs[0].directory, target)
    else:
        path = write_comparison(runs, target or Path(COMPARISON))
    if options.json:
        summaries = [summary(one) | {"report": str(path)} for one in runs]
        print(json.dumps(summaries if len(runs) > 1 else summaries[0]))
    else:
        print(path)


if __name__ == "__main__":
    sys.exit(run_command("report", sys.argv[1:]))
